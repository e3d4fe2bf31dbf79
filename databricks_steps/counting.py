"""Histograms in Spark: every feature of every row counted in one pass of the workers.

A row goes to Python's workers as few whole numbers, eight bytes a number: the way there costs by
the column, not by the byte. `cut` has the month from bit 24 on, the week from 16, whether the
dropoff's zone is unknown at 12, and the pickup's zone below; a word has the places of 8 features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from databricks_steps.distributions import LOCATIONS, WEEKS, Bins, Counted, Tally
from databricks_steps.trips.boroughs import IDS, ZONES

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

_MONTH, _WEEK, _LOST = 24, 16, 12
_EACH = 8
_COUNTED = "kind int, places binary, numbers binary"


def counted(
    frame: DataFrame, bins: Mapping[str, Bins], months: Sequence[str]
) -> dict[str, dict[str, Counted]]:
    """Month → slice → counts of the features of `bins`, in one pass of Spark's workers.

    `frame` has the features, both location ids, `pickup_datetime` and `trip_month`; rows of other
    months are left out, as are slices without a trip.
    """
    rows = frame.select(_cut(months), *_words(bins)).where("cut >= 0")
    total = Tally(tuple(bins), len(months))
    for part in rows.mapInArrow(_counter(tuple(bins), len(months)), _COUNTED).collect():
        _add_part(total, part)
    return {month: total.slices(place) for place, month in enumerate(months)}


def _cut(months: Sequence[str]) -> Column:
    """What a row is counted by; negative in other months."""
    from pyspark.sql import functions as F  # noqa: N812

    chosen = F.array(*(F.lit(month) for month in months)) if months else F.array(F.lit(""))
    month = F.array_position(chosen, F.col("trip_month")) - 1
    day = F.coalesce(F.dayofmonth("pickup_datetime"), F.lit(1))
    week = F.least(F.floor((day - 1) / 7), F.lit(WEEKS - 1)).cast("long")
    pickup, dropoff = (F.col(name) for name in LOCATIONS)
    zone = F.when(pickup.between(1, IDS), pickup).otherwise(0).cast("long")
    lost = F.when(dropoff.between(1, ZONES), F.lit(0)).otherwise(1).cast("long")
    shifted = ((week, _WEEK), (lost, _LOST), (zone, 0))
    found = F.shiftleft(month, _MONTH)  # the sign stays
    for value, by in shifted:
        found = found.bitwiseOR(F.shiftleft(value, by))
    return F.coalesce(found, F.lit(-1).cast("long")).alias("cut")


def _words(bins: Mapping[str, Bins]) -> list[Column]:
    from pyspark.sql import functions as F  # noqa: N812

    found = []
    names = tuple(bins)
    for first in range(0, len(names), _EACH):
        word = F.lit(0).cast("long")
        for at, name in enumerate(names[first : first + _EACH]):
            word = word.bitwiseOR(F.shiftleft(bins[name].place(F.col(name)), 8 * at))
        found.append(word.alias(f"word_{first // _EACH}"))
    return found


def _counter(
    names: Sequence[str], months: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        tally = Tally(names, months)
        for batch in _larger(batches):
            cut, *words = (column.to_numpy() for column in batch.columns)
            zone = cut & ((1 << _LOST) - 1)
            cell = tally.cell(cut >> _MONTH, zone, (cut >> _WEEK) & (WEEKS - 1))
            lost = (zone < 1) | (zone > ZONES), ((cut >> _LOST) & 1).astype(bool)
            eights = [word.astype("<i8", copy=False).view("u1").reshape(-1, 8) for word in words]
            tally.add(cell, lost, (eights[n // _EACH][:, n % _EACH] for n in range(len(names))))
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


def _larger(batches: Iterable[pa.RecordBatch], rows: int = 1 << 16) -> Iterator[pa.Table]:
    """Batches together, so that adding up a batch costs little beside counting it."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= rows:
            yield pa.Table.from_batches(held)
            held = []
    if sum(map(len, held)):
        yield pa.Table.from_batches(held)


def _add_part(total: Tally, part: Any) -> None:
    """Add what one partition has counted."""
    import numpy as np

    kind = (total.counts, total.trips, total.unknown)[part["kind"]]
    places = np.frombuffer(part["places"], dtype="<i8")
    kind.reshape(-1)[places] += np.frombuffer(part["numbers"], dtype="<i8")
