"""What a sensor remembers from tick to tick, as versioned JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

VERSION = 1


def read(text: str | None) -> dict[str, Any]:
    """What was remembered; nothing when it is of another version."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) and found.get("version") == VERSION else {}


def written(values: Mapping[str, Any]) -> str:
    return json.dumps({"version": VERSION, **values}, sort_keys=True)
