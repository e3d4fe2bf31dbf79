"""Whether the publisher has put up the month that comes next: asked for now and then, by HEAD."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Collection
from typing import Any

from databricks_steps.months import shift, this_month
from databricks_steps.trips.downloads import TLC_URL
from databricks_steps.trips.sources import TLC

EVERY_SECONDS = 3600.0
_TIMEOUT = 10.0


def published(
    source: str, held: Collection[str], asked: dict[str, Any], url: str = TLC_URL
) -> str | None:
    """The month after the newest held, when the source has it; `asked` remembers when it was asked.

    None for a source that publishes nothing, for a home that holds nothing, and between two looks.
    """
    if not source.startswith(TLC) or not held:
        return None
    month = shift(max(held), 1)
    soon = asked.get("month") == month and time.time() - asked.get("at", 0) < EVERY_SECONDS
    if month >= this_month():  # it is not over
        return None
    if not soon:
        address = f"{url}/{source.removeprefix(TLC)}_tripdata_{month}.parquet"
        asked |= {"month": month, "at": round(time.time()), "there": _is_there(address)}
    return month if asked.get("there") else None


def _is_there(address: str) -> bool:
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310 our own
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT):  # noqa: S310 our own
            return True
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False  # not published, or not reachable: asked again
