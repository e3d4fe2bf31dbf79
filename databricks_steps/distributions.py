"""Histograms of model inputs and fares, binned once by the training rows; `histograms` fills them.

Each feature is cut into even bins between its 0.1 and 99.9 percentiles among the training rows, so
that the bin of a value costs one multiplication; what lies outside, and what is missing, has bins
of its own. The counts of a baseline are kept with the model, as `FILE`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import ModelError
from databricks_steps.trips.zones import NAMES as BOROUGHS
from databricks_steps.trips.zones import ZONES, places

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from pyspark.sql import Column

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
        low = float(np.quantile(finite, _TAIL, method="lower"))
        high = float(np.quantile(finite, 1 - _TAIL, method="higher"))
        std = float(finite.std())
        # A hair wider, so that the highest value is in the last bin and a flag's 1 not outside.
        high = high + (high - low) * 1e-6 if high > low else low + 1.0
        return cls(low, high, std if std > 0 else 1.0)

    def places(self, values: Array) -> Array:
        """Values (rows,), float64 → the place of each among `PLACES`."""
        import numpy as np

        missing = np.isnan(values)
        inside = np.clip(np.where(missing, self.low, values), self.low, self.high)
        scaled = FINE * (inside - self.low) / (self.high - self.low)
        found: Array = scaled.astype(np.intp) + _UNDER + 1
        found[values < self.low] = _UNDER
        found[missing] = _MISSING
        return found

    def place(self, value: Column) -> Column:
        """The same for Spark: a column of numbers → a column of places.

        One call of a function, as many expressions at once are more than the JVM compiles.
        """
        from pyspark.sql import functions as F

        low, high = F.lit(self.low), F.lit(self.high)
        bucket = F.width_bucket(value.cast("double"), low, high, F.lit(FINE).cast("long"))
        return F.coalesce(bucket + _UNDER, F.lit(_MISSING).cast("long"))

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
    import numpy as np

    ids = [frame[name].fillna(-1).to_numpy("int64") for name in LOCATIONS]
    lost = [((each < 1) | (each > ZONES)).astype(np.intp) for each in ids]
    found = no_counts(len(bins))
    values = (each.places(frame[name].to_numpy("float64")) for name, each in bins.items())
    for feature, own in enumerate((*lost, *values)):
        np.add.at(found[feature, :, 0], (places(ids[0]), own), 1)
    slices = by_slice(tuple(bins), found)
    return {name: each for name, each in slices.items() if not name.startswith("week")}


def no_counts(features: int) -> Array:
    """Zeros: `LOCATIONS` (place 1: unknown) and features, by borough, week and place."""
    import numpy as np

    return np.zeros((len(LOCATIONS) + features, len(BOROUGHS), WEEKS, PLACES), dtype=np.int64)


def by_slice(names: Sequence[str], counts: Array) -> dict[str, Counted]:
    """Slice → its counts, of those filled in as `no_counts` has them; none without a trip."""
    chosen: dict[str, Any] = {ALL: counts.sum(axis=(1, 2))}
    chosen |= {f"borough {name}": counts[:, n].sum(axis=1) for n, name in enumerate(BOROUGHS)}
    chosen |= {f"week {n + 1}": counts[:, :, n].sum(axis=1) for n in range(WEEKS)}
    first = len(LOCATIONS)
    return {
        name: Counted(
            int(part[0].sum()),
            dict(zip(names, part[first:], strict=True)),
            {location: int(part[n][1]) for n, location in enumerate(LOCATIONS)},
        )
        for name, part in chosen.items()
        if part[0].any()
    }
