"""How a model is judged: error measures, baselines, and the paired comparison with a champion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

CLOSE = 2.0  # dollars
RESAMPLES = 1_000
_BLOCK = 50  # resamples at a time, to bound memory


def measures(fares: Array, predicted: Array) -> dict[str, float]:
    """RMSE, MAE and bias in dollars, R², MAPE, and the share within 2 dollars."""
    import numpy as np

    error = predicted - fares
    spread = float(((fares - fares.mean()) ** 2).sum())
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "r2": 1 - float((error**2).sum()) / spread if spread else 0.0,
        "mape": float((np.abs(error) / np.abs(fares)).mean()),
        "within_2_dollars": float((np.abs(error) <= CLOSE).mean()),
        "bias": float(error.mean()),
    }


@dataclass(frozen=True)
class MeteredFare:
    """The formula a meter suggests: a flag drop and a rate a mile, fitted by least squares."""

    flag_drop: float
    per_mile: float

    @classmethod
    def fit(cls, miles: Array, fares: Array) -> MeteredFare:
        import numpy as np

        per_mile, flag_drop = np.polyfit(miles, fares, 1)
        return cls(float(flag_drop), float(per_mile))

    def predict(self, miles: Array) -> Array:
        return self.flag_drop + self.per_mile * miles


@dataclass(frozen=True)
class Comparison:
    """Candidate RMSE less champion RMSE in dollars, with its 95 % bootstrap interval."""

    difference: float
    low: float
    high: float

    @property
    def champion_surely_better(self) -> bool:
        return self.low > 0


def compare(fares: Array, candidate: Array, champion: Array, seed: int = 0) -> Comparison:
    """Paired bootstrap over the same rows (Efron & Tibshirani 1993, percentile interval)."""
    import numpy as np

    errors = np.stack([(candidate - fares) ** 2, (champion - fares) ** 2])
    random = np.random.default_rng(seed)
    count = errors.shape[1]
    differences = []
    for _ in range(RESAMPLES // _BLOCK):
        rows = random.integers(0, count, size=(_BLOCK, count))
        rmse = np.sqrt(errors[:, rows].mean(axis=2))
        differences.append(rmse[0] - rmse[1])
    low, high = np.percentile(np.concatenate(differences), [2.5, 97.5])
    whole = np.sqrt(errors.mean(axis=1))
    return Comparison(float(whole[0] - whole[1]), float(low), float(high))
