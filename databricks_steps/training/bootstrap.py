"""The bootstrap: sums over rows drawn with replacement, many times, always the same draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float64]]

_BLOCK_CELLS = 4_000_000  # weights held at a time, to bound memory


def resampled_sums(columns: Array, resamples: int, seed: int = 0) -> Array:
    """(rows, k) → (resamples, k): the columns' sums over as many rows, drawn with replacement.

    Every column is summed over the same draws, which makes comparisons between columns paired
    (Efron & Tibshirani 1993, chapter 6).
    """
    import numpy as np

    rows = len(columns)
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK_CELLS // max(rows, 1))
    sums = []
    for start in range(0, resamples, block):
        drawn = (random.integers(0, rows, rows) for _ in range(min(block, resamples - start)))
        weights = np.stack([np.bincount(draw, minlength=rows) for draw in drawn])
        sums.append(weights @ columns)
    found: Array = np.concatenate(sums)
    return found


def interval(values: Array, confidence: float) -> tuple[float, float]:
    """The percentile interval of resampled values; NaN (an empty resample) counts for nothing."""
    import numpy as np

    tail = (1 - confidence) / 2 * 100
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
