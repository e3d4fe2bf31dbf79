"""How a model is judged: error measures, baselines, and the paired comparison with a champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from databricks_steps.settings import Gate
from databricks_steps.training.bootstrap import interval, resampled_sums

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

CLOSE = 2.0  # dollars, of the metric `within_2_dollars`


def measures(fares: Array, predicted: Array) -> dict[str, float]:
    """The metrics of `settings.METRICS` for fares paid and predicted, both in dollars."""
    import numpy as np

    error = predicted - fares
    spread = float(((fares - fares.mean()) ** 2).sum())
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "r2": 1 - float((error**2).sum()) / spread if spread else 0.0,
        "mape": float((np.abs(error) / np.abs(fares)).mean()),
        "within_2_dollars": float((np.abs(error) <= CLOSE).mean()),
        "p90_absolute_error": float(np.percentile(np.abs(error), 90)),
        "bias": float(error.mean()),
    }


def intervals(fares: Array, predicted: Array, gate: Gate) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of the metrics that are means of the rows' errors."""
    import numpy as np

    error = predicted - fares
    close = np.abs(error) <= CLOSE
    columns = np.column_stack([error**2, np.abs(error), close, error])
    means = resampled_sums(columns, gate.resamples) / len(fares)
    means[:, 0] = np.sqrt(means[:, 0])
    names = ("rmse", "mae", "within_2_dollars", "bias")
    return {name: interval(means[:, n], gate.confidence) for n, name in enumerate(names)}


@dataclass(frozen=True)
class MeteredFare:
    """The formula a meter suggests: a flag drop and a rate a mile, fitted by least squares."""

    flag_drop: float
    per_mile: float

    @classmethod
    def fit(cls, miles: Array, fares: Array) -> MeteredFare:
        import numpy as np

        if not np.ptp(miles):
            return cls(float(fares.mean()), 0.0)
        per_mile, flag_drop = np.polyfit(miles, fares, 1)
        return cls(float(flag_drop), float(per_mile))

    def predict(self, miles: Array) -> Array:
        return self.flag_drop + self.per_mile * miles


@dataclass(frozen=True)
class Comparison:
    """Candidate RMSE less champion RMSE in dollars, with its bootstrap interval."""

    difference: float
    low: float
    high: float

    @property
    def champion_significantly_better(self) -> bool:
        return self.low > 0


def compare(fares: Array, candidate: Array, champion: Array, gate: Gate) -> Comparison:
    """Paired bootstrap over the same rows."""
    import numpy as np

    columns = np.column_stack([(candidate - fares) ** 2, (champion - fares) ** 2])
    rmse = np.sqrt(resampled_sums(columns, gate.resamples) / len(fares))
    low, high = interval(rmse[:, 0] - rmse[:, 1], gate.confidence)
    whole = np.sqrt(columns.mean(axis=0))
    return Comparison(float(whole[0] - whole[1]), low, high)
