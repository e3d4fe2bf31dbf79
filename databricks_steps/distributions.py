"""Histograms of model inputs and fares: binned once by the training rows, counted in one pass.

Each feature is cut into even bins between its 0.1 and 99.9 percentiles among the training rows, so
that the bin of a value costs one multiplication; what lies outside, and what is missing, has bins
of its own. The counts of a baseline are kept with the model, as `FILE`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import ModelError
from databricks_steps.trips.boroughs import NAMES as BOROUGHS
from databricks_steps.trips.boroughs import ZONES, places

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from pyspark.sql import DataFrame

    Array = np.ndarray[Any, np.dtype[Any]]

FILE = "baseline.json"
FORMAT = 1
ALL = "all"
WEEKS = 4  # of a month: days 1 to 7, 8 to 14, 15 to 21, and the rest
FINE = 128  # even bins of a feature
_MISSING, _UNDER = 0, 1  # places before the even bins; what lies over them comes last
_TAIL = 0.001  # on each side, of the training rows
PLACES = FINE + 3
LOCATIONS = ("pickup_location_id", "dropoff_location_id")


@dataclass(frozen=True)
class Bins:
    """The even bins of a feature: from `low` to `high`; `std` is that of the training rows."""

    low: float
    high: float
    std: float

    @classmethod
    def of(cls, values: Array) -> Bins:
        """By the values (rows,) that are finite; a feature that is constant has one bin in use."""
        import numpy as np

        finite = values[np.isfinite(values)]
        if not len(finite):
            return cls(0.0, 1.0, 1.0)
        low = float(np.float32(np.quantile(finite, _TAIL, method="lower")))
        high = float(np.float32(np.quantile(finite, 1 - _TAIL, method="higher")))
        std = float(finite.std())
        # A hair wider, so that the highest value is in the last bin and a flag's 1 not outside.
        high = high + (high - low) * 1e-6 if high > low else low + 1.0
        return cls(low, high, std if std > 0 else 1.0)

    def places(self, values: Array) -> Array:
        """Values (rows,), float32 → the place of each among `PLACES`."""
        import numpy as np

        scaled = values - np.float32(self.low)
        scaled *= np.float32(FINE / (self.high - self.low))
        scaled += np.float32(_UNDER + 1)
        np.fmax(scaled, np.float32(_UNDER), out=scaled)  # a missing value becomes the lower one
        np.fmin(scaled, np.float32(FINE + _UNDER + 1), out=scaled)
        found: Array = scaled.astype(np.intp)
        missing = np.isnan(values)
        if missing.any():
            found[missing] = _MISSING
        return found

    def centres(self) -> Array:
        """The middle of each place but the missing one: shape (PLACES - 1,)."""
        import numpy as np

        width = (self.high - self.low) / FINE
        centres: Array = self.low + (np.arange(-1, FINE + 1) + 0.5) * width
        return centres


@dataclass(frozen=True)
class Counted:
    """Rows by slice, counted: `counts` feature → (PLACES,), `unknown` location → rows."""

    trips: int
    counts: Mapping[str, Array] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Baseline:
    """How the rows that a version has learned from are distributed, by slice."""

    bins: Mapping[str, Bins]
    slices: Mapping[str, Counted]

    def to_json(self) -> str:
        told = {
            "format": FORMAT,
            "bins": {name: [b.low, b.high, b.std] for name, b in self.bins.items()},
            "slices": {
                name: {
                    "trips": each.trips,
                    "unknown": dict(each.unknown),
                    "counts": {f: [int(n) for n in counts] for f, counts in each.counts.items()},
                }
                for name, each in self.slices.items()
            },
        }
        return json.dumps(told)

    @classmethod
    def from_json(cls, text: str) -> Baseline:
        """The baseline of a text.

        Raises:
            ModelError: it is none, or one of another format.
        """
        import numpy as np

        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise ValueError(f"format {raw['format']}")
            slices = {
                name: Counted(
                    each["trips"],
                    {f: np.array(n, dtype=np.int64) for f, n in each["counts"].items()},
                    each["unknown"],
                )
                for name, each in raw["slices"].items()
            }
            found = cls({name: Bins(*b) for name, b in raw["bins"].items()}, slices)
            if any(len(n) != PLACES for each in slices.values() for n in each.counts.values()):
                raise ValueError(f"a histogram without {PLACES} places")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{FILE} must be a baseline of format {FORMAT}",
                repr(error),
                "Train the model again",
            ) from error
        return found


def baseline(train: pd.DataFrame, inputs: Sequence[str], predicted: pd.DataFrame) -> Baseline:
    """The baseline of training rows with these inputs, and of fares predicted on the holdout.

    `predicted` has `predicted_fare`, `train` the inputs, both have the location ids.
    """
    bins = {name: Bins.of(train[name].to_numpy("float64")) for name in inputs}
    bins["predicted_fare"] = Bins.of(predicted["predicted_fare"].to_numpy("float64"))
    found = _by_borough(train, {name: bins[name] for name in inputs})
    fares = _by_borough(predicted, {"predicted_fare": bins["predicted_fare"]})
    slices = {
        name: Counted(
            each.trips,
            {**each.counts, **(fares[name].counts if name in fares else {})},
            each.unknown,
        )
        for name, each in found.items()
    }
    return Baseline(bins, slices)


def _by_borough(frame: pd.DataFrame, bins: Mapping[str, Bins]) -> dict[str, Counted]:
    tally = _Tally(tuple(bins), bins, months=1)
    zones = {name: frame[name].fillna(-1).to_numpy("int64") for name in LOCATIONS}
    zeros = zones[LOCATIONS[0]] * 0
    values = {name: frame[name].to_numpy("float32") for name in bins}
    tally.add(values, zones, zeros, zeros)
    found = tally.slices(0)
    return {name: each for name, each in found.items() if not name.startswith("week")}


class _Tally:
    """Counts by cell (month, borough, week) and feature, added up batch by batch."""

    def __init__(self, names: Sequence[str], bins: Mapping[str, Bins], months: int) -> None:
        import numpy as np

        self.names, self.bins = tuple(names), bins
        self.shape = (months, len(BOROUGHS), WEEKS)
        self.cells = months * len(BOROUGHS) * WEEKS
        self.counts = np.zeros((len(self.names), self.cells, PLACES), dtype=np.int64)
        self.trips = np.zeros(self.cells, dtype=np.int64)
        self.unknown = np.zeros((len(LOCATIONS), self.cells), dtype=np.int64)

    def add(
        self,
        values: Mapping[str, Array],
        zones: Mapping[str, Array],
        weeks: Array,
        months: Array,
    ) -> None:
        """One batch: every array has one entry a row; `weeks` and `months` count from 0."""
        import numpy as np

        borough = places(zones[LOCATIONS[0]])
        cell = (months * self.shape[1] + borough) * WEEKS + weeks
        self.trips += np.bincount(cell, minlength=self.cells)
        for place, name in enumerate(LOCATIONS):
            ids = zones[name]
            lost = (ids < 1) | (ids > ZONES)
            if lost.any():
                self.unknown[place] += np.bincount(cell[lost], minlength=self.cells)
        start = cell * PLACES
        for place, name in enumerate(self.names):
            at = start + self.bins[name].places(values[name])
            counted = np.bincount(at, minlength=self.cells * PLACES)
            self.counts[place] += counted.reshape(self.cells, PLACES)

    def slices(self, month: int) -> dict[str, Counted]:
        """Slice → what was counted in a month; slices without a trip are left out."""
        import numpy as np

        shape = self.shape
        counts = self.counts.reshape(len(self.names), *shape, PLACES)[:, month]
        trips = self.trips.reshape(shape)[month]
        unknown = self.unknown.reshape(len(LOCATIONS), *shape)[:, month]
        chosen: dict[str, tuple[Any, Any]] = {ALL: (slice(None), slice(None))}
        chosen |= {f"borough {n}": (i, slice(None)) for i, n in enumerate(BOROUGHS)}
        chosen |= {f"week {w + 1}": (slice(None), w) for w in range(WEEKS)}
        found = {}
        for name, (borough, week) in chosen.items():
            rows = int(trips[borough, week].sum())
            if not rows:
                continue
            part = np.atleast_2d(
                counts[:, borough, week].reshape(len(self.names), -1, PLACES).sum(1)
            )
            lost = unknown[:, borough, week].reshape(len(LOCATIONS), -1).sum(1)
            found[name] = Counted(
                rows,
                dict(zip(self.names, part, strict=True)),
                {name: int(n) for name, n in zip(LOCATIONS, lost, strict=True)},
            )
        return found


def counted(
    frame: DataFrame, bins: Mapping[str, Bins], months: Sequence[str]
) -> dict[str, dict[str, Counted]]:
    """Month → slice → counts of the features of `bins`, in one pass of Spark's workers.

    `frame` has the features, both location ids, `pickup_datetime` and `trip_month`; rows of other
    months are left out, as are slices without a trip.
    """
    from pyspark.sql import functions as F  # noqa: N812

    chosen = F.array(*(F.lit(month) for month in months)) if months else F.array(F.lit(""))
    day = F.dayofmonth("pickup_datetime")
    columns = [
        (F.array_position(chosen, F.col("trip_month")) - 1).cast("int").alias("_month"),
        F.least(F.floor((F.coalesce(day, F.lit(1)) - 1) / 7), F.lit(WEEKS - 1))
        .cast("int")
        .alias("_week"),
        *(F.coalesce(F.col(name), F.lit(-1)).cast("int").alias(name) for name in LOCATIONS),
        *(F.col(name).cast("float").alias(name) for name in bins),
    ]
    rows = frame.select(*columns).where("_month >= 0")
    total = _Tally(tuple(bins), bins, len(months))
    for part in rows.mapInArrow(_counter(dict(bins), len(months)), _COUNTED).collect():
        _add_part(total, part)
    return {month: total.slices(place) for place, month in enumerate(months)}


_COUNTED = "kind int, places binary, numbers binary"


def _counter(
    bins: Mapping[str, Bins], months: int
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def count(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np
        import pyarrow as pa

        tally = _Tally(tuple(bins), bins, months)
        for batch in batches:
            if not len(batch):
                continue
            arrays = {
                name: batch.column(name).to_numpy(zero_copy_only=False)
                for name in batch.schema.names
            }
            zones = {name: arrays[name] for name in LOCATIONS}
            values = {name: arrays[name] for name in bins}
            tally.add(values, zones, arrays["_week"], arrays["_month"])
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


def _add_part(total: _Tally, part: Any) -> None:
    """Add what one partition has counted."""
    import numpy as np

    kind = (total.counts, total.trips, total.unknown)[part["kind"]]
    places = np.frombuffer(part["places"], dtype="<i8")
    kind.reshape(-1)[places] += np.frombuffer(part["numbers"], dtype="<i8")
