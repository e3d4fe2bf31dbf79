"""Histograms in Spark: every feature of every row counted in one pass of the workers.

A row goes to Python's workers as few whole numbers, eight bytes a number: the way there costs by
the column, not by the byte. The lower half of the first word is the cut: the month from bit 24 on,
the week from 16, whether the dropoff's zone is unknown at 12, and the pickup's zone below; every
byte after it is the place of a feature.

Even so the way costs more than reading the row. Of more than `ALL_OF` rows one in so many is
counted, and stands for as many: a share is then right to 0.001 in 999 of 1,000 cases
(Dvoretzky-Kiefer-Wolfowitz: 2 exp(-2 n 0.001^2)), and no limit is near that (docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from databricks_steps.batches import larger
from databricks_steps.distributions import LOCATIONS, WEEKS, Bins, Counted, Tally
from databricks_steps.trips.zones import IDS, ZONES

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

ALL_OF = 4_000_000  # rows that are counted one by one
_MONTH, _WEEK, _LOST = 24, 16, 12
_CUT = 4  # bytes
_MONTHS = 128  # of one pass: the cut's sign stays out of it
_WEEK_SECONDS = 7 * 86400
# What tells one trip from another among the columns that are read anyway.
_DRAWN_BY = ("pickup_datetime", *LOCATIONS, "trip_distance")
_COUNTED = "kind int, places binary, numbers binary"


def counted(
    frame: DataFrame, bins: Mapping[str, Bins], months: Sequence[str], rows: int = 0
) -> dict[str, dict[str, Counted]]:
    """Month → slice → counts of the features of `bins`, in one pass of Spark's workers.

    `frame` has the features, both location ids, `pickup_datetime` and `trip_month`; rows of other
    months are left out, as are slices without a trip. `rows` is about how many there are: of more
    than `ALL_OF` a part is drawn, the same rows every time.
    """
    found: dict[str, dict[str, Counted]] = {}
    for first in range(0, len(months), _MONTHS):
        found |= _counted(frame, bins, months[first : first + _MONTHS], max(1, rows // ALL_OF))
    return found


def _counted(
    frame: DataFrame, bins: Mapping[str, Bins], months: Sequence[str], one_in: int
) -> dict[str, dict[str, Counted]]:
    from pyspark.sql import functions as F

    chosen = frame.where(F.col("trip_month").isin(*months))
    if one_in > 1:
        chosen = chosen.where(F.pmod(F.xxhash64(*_DRAWN_BY), F.lit(one_in)) == 0)
    words = chosen.select(*_words(_cut(months), bins))
    total = Tally(tuple(bins), len(months))
    for part in words.mapInArrow(_counter(tuple(bins), len(months)), _COUNTED).collect():
        _add_part(total, part)
    total.times(one_in)
    return {month: total.slices(place) for place, month in enumerate(months)}


def _cut(months: Sequence[str]) -> Column:
    """What a row is counted by."""
    from pyspark.sql import functions as F

    # Seconds since the month began: a date's own functions would cost more than all the rest.
    month, since = F.lit(0).cast("long"), F.unix_seconds("pickup_datetime") - _begins(months[0])
    for place, name in enumerate(months[1:], 1):
        here = F.col("trip_month") == name
        month = F.when(here, F.lit(place).cast("long")).otherwise(month)
        since = F.when(here, F.unix_seconds("pickup_datetime") - _begins(name)).otherwise(since)
    # A time is null or of another month in rows that nobody cleaned: they count as its first week.
    week = F.lit(0).cast("long")
    for number in range(1, WEEKS):
        week = F.when(since >= number * _WEEK_SECONDS, F.lit(number).cast("long")).otherwise(week)
    pickup, dropoff = (F.col(name) for name in LOCATIONS)
    zone = F.when(pickup.between(1, IDS), pickup).otherwise(0).cast("long")
    lost = F.when(dropoff.between(1, ZONES), F.lit(0)).otherwise(1).cast("long")
    found = zone
    for value, by in ((lost, _LOST), (week, _WEEK), (month, _MONTH)):
        found = found.bitwiseOR(F.shiftleft(value, by))
    return found


def _begins(month: str) -> int:
    """Seconds since 1970 at a month's first instant."""
    year, number = map(int, month.split("-"))
    return int(datetime(year, number, 1, tzinfo=timezone.utc).timestamp())


def _words(cut: Column, bins: Mapping[str, Bins]) -> list[Column]:
    from pyspark.sql import functions as F

    found: list[Column] = []
    word, at = cut, _CUT
    for name, own in bins.items():
        word = word.bitwiseOR(F.shiftleft(own.place(F.col(name)), 8 * at))
        at += 1
        if at == 8:
            found.append(word.alias(f"word_{len(found)}"))
            word, at = F.lit(0).cast("long"), 0
    return [*found, word.alias(f"word_{len(found)}")]


def _counter(
    names: Sequence[str], months: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        tally = Tally(names, months)
        for batch in larger(batches):
            words = [column.to_numpy().astype("<i8", copy=False) for column in batch.columns]
            cut = words[0] & ((1 << 8 * _CUT) - 1)
            zone = cut & ((1 << _LOST) - 1)
            cell = tally.cell(cut >> _MONTH, zone, (cut >> _WEEK) & (WEEKS - 1))
            lost = (zone < 1) | (zone > ZONES), ((cut >> _LOST) & 1).astype(bool)
            eights = [word.view("u1").reshape(-1, 8) for word in words]
            ends = (divmod(_CUT + n, 8) for n in range(len(names)))
            tally.add(cell, lost, (eights[word][:, byte] for word, byte in ends))
        kinds = (tally.counts, tally.trips, tally.unknown)
        filled = [np.flatnonzero(each.reshape(-1)) for each in kinds]
        yield pa.RecordBatch.from_pydict(
            {
                "kind": pa.array(range(len(kinds)), pa.int32()),
                "places": [places.astype("<i8").tobytes() for places in filled],
                "numbers": [
                    each.reshape(-1)[places].astype("<i8").tobytes()
                    for each, places in zip(kinds, filled, strict=True)
                ],
            }
        )

    return count


def _add_part(total: Tally, part: Any) -> None:
    """Add what one partition has counted."""
    import numpy as np

    kind = (total.counts, total.trips, total.unknown)[part["kind"]]
    places = np.frombuffer(part["places"], dtype="<i8")
    kind.reshape(-1)[places] += np.frombuffer(part["numbers"], dtype="<i8")
