"""What a body may hold where its schema leaves the form open."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator


def _plain(value: Any) -> Any:
    try:
        orjson.dumps(value)
    except TypeError as error:
        raise ValueError(f"is kept as JSON, and this cannot be: {error}") from error
    return value


# JSON can say numbers and texts that nobody can mean: integers past 64 bits, half a character.
Json = Annotated[Any, AfterValidator(_plain)]
