"""Which published column is which of ours: by name, never by position."""

from __future__ import annotations

import re
from collections.abc import Sequence

from databricks_steps import schemas

REQUIRED = tuple(column.name for column in schemas.TRIPS.columns[1:-1] if not column.nullable)

# Other names under which the publisher, or those who pass the files on, gave a column. The
# earlier name wins where a file has several, but for times: joined from green and yellow months, a
# file has one name's for some rows and the other's for the rest.
_TOGETHER = ("pickup_datetime", "dropoff_datetime")
_OTHER_NAMES = {
    "vendor_id": ("vendor", "vendor_name"),
    "pickup_datetime": ("lpep_pickup_datetime", "tpep_pickup_datetime", "trip_pickup_datetime"),
    "dropoff_datetime": ("lpep_dropoff_datetime", "tpep_dropoff_datetime", "trip_dropoff_datetime"),
    "pickup_location_id": ("pu_location_id", "pu_location", "pickup_zip"),
    "dropoff_location_id": ("do_location_id", "do_location", "dropoff_zip"),
    "rate_code_id": ("rate_code",),
    "store_and_fwd_flag": ("store_and_forward", "store_and_fwd"),
    "fare_amount": ("fare_amt",),
    "extra": ("surcharge",),
    "tip_amount": ("tip_amt",),
    "tolls_amount": ("tolls_amt",),
    "total_amount": ("total_amt",),
}


def key(name: str) -> str:
    """A name without case, spaces, underscores, quotes or a byte order mark."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


_KEYS = {
    column.name: [key(name) for name in (column.name, *_OTHER_NAMES.get(column.name, ()))]
    for column in schemas.PUBLISHED
}


def matched(names: Sequence[str]) -> dict[str, list[int]]:
    """Our column → positions of the names that mean it.

    Several positions where names differ in nothing but case, spaces or underscores (`airport_fee`
    and `Airport_fee` in a file joined from two), and of times whatever they are called.
    """
    positions: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        positions.setdefault(key(name), []).append(position)
    found = {}
    for column, keys in _KEYS.items():
        present = [k for k in keys if k in positions]
        if present:
            chosen = present if column in _TOGETHER else present[:1]
            found[column] = [place for name in dict.fromkeys(chosen) for place in positions[name]]
    return found


def unmatched(names: Sequence[str], found: dict[str, list[int]]) -> tuple[str, ...]:
    """The names that mean no column of ours, in the file's order; unnamed ones count for none."""
    taken = {position for positions in found.values() for position in positions}
    return tuple(n.strip() for i, n in enumerate(names) if i not in taken and key(n))


def missing(found: dict[str, list[int]]) -> str:
    """Why a file with these columns cannot be used, or an empty text."""
    absent = [column for column in REQUIRED if column not in found]
    return f"it has no column for {', '.join(absent)}" if absent else ""
