"""What a registered model needs to be served: its inputs in order, and where it looks them up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from databricks_steps import schemas
from databricks_steps.features.lookups import LOOKUPS, Lookup
from databricks_steps.settings import Settings

FILE = "feature_spec.json"
ONNX_FILE = "model.onnx"
TREES = "tree_fares"  # the graph's output with one fare a tree
FOLDER = "extra_files"  # where MLflow keeps the files that travel with a model
TRIM = 0.15  # share of the trees left out at each end, before the mean
_MEDIAN = 0.5  # what versions logged without a trim answer with


def middle(trees: int, trim: float = TRIM) -> tuple[int, int]:
    """From which to before which of the sorted trees the fare is the mean; never none of them."""
    first = min(int(trees * trim), (trees - 1) // 2)
    return first, trees - first


@dataclass(frozen=True)
class TableLookup:
    """A lookup by full table name, as it is stored with the model.

    `lookback_days` is the features' time to live: a row known longer before the pickup is not
    used, in training as in serving. None, of versions logged without it, is no limit.
    """

    table: str
    key: str
    features: tuple[str, ...]
    defaults: Mapping[str, float]
    lookback_days: int | None = None


@dataclass(frozen=True)
class FareInterval:
    """How the trees' spread becomes an interval: quantiles, their stretch, and what it covers.

    A side reaches `stretch` times as far from the fare as the trees' quantile does, and that
    is at least `floor` dollars. `coverage` is the share of fares inside, measured on `rows`
    rides that neither the forest nor the stretch has seen. `groups` holds both stretches for each
    group of rides (see `scorer.groups`), none in versions logged without.
    """

    low: float
    high: float
    floor: float
    low_stretch: float
    high_stretch: float
    coverage: float
    rows: int
    groups: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class FeatureSpec:
    """Travels with the model as JSON. `inputs` is the column order of the ONNX graph's matrix."""

    inputs: tuple[str, ...]
    lookups: tuple[TableLookup, ...]
    interval: FareInterval | None = None
    trim: float = TRIM

    @classmethod
    def current(
        cls,
        settings: Settings,
        lookups: Sequence[Lookup] = LOOKUPS,
        interval: FareInterval | None = None,
    ) -> FeatureSpec:
        """The spec of a model trained now."""
        return cls(
            tuple(column.name for column in schemas.MODEL_INPUTS),
            tuple(
                TableLookup(
                    settings.table(x.table.name),
                    x.key,
                    x.features,
                    x.defaults,
                    settings.lookback_days,
                )
                for x in lookups
            ),
            interval,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> FeatureSpec:
        raw = json.loads(text)
        lookups = tuple(
            TableLookup(
                x["table"],
                x["key"],
                tuple(x["features"]),
                x["defaults"],
                x.get("lookback_days"),
            )
            for x in raw["lookups"]
        )
        interval = raw.get("interval")  # versions logged before there were intervals have none
        if interval:
            interval["groups"] = tuple((low, high) for low, high in interval.get("groups", ()))
        return cls(
            tuple(raw["inputs"]),
            lookups,
            FareInterval(**interval) if interval else None,
            raw.get("trim", _MEDIAN),
        )
