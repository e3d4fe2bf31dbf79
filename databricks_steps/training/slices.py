"""Slices of the holdout: which rows are alike, and how large the error is among them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.settings import Gate, Slicing
from databricks_steps.training.bootstrap import interval, resampled_sums
from databricks_steps.trips.zones import borough, boroughs

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from pyspark.sql import Column, DataFrame

    Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Slice:
    """One slice: its rows and errors in dollars; the champion's too where there is one.

    `significantly_worse`: the paired bootstrap interval of the RMSE difference lies above zero.
    """

    name: str
    rows: int
    rmse: float
    mae: float
    bias: float
    limit: float
    champion_rmse: float | None = None
    significantly_worse: bool = False

    @property
    def growth(self) -> float:
        """By which share of the champion's RMSE this one is larger; 0 without a champion."""
        return self.rmse / self.champion_rmse - 1 if self.champion_rmse else 0.0


def members(frame: pd.DataFrame, slicing: Slicing) -> dict[str, np.ndarray[Any, Any]]:
    """Slice name → which rows of the frame belong to it, in the order of bands or values."""
    import numpy as np

    values = _values(frame, slicing.column)
    if not slicing.bounds:
        return {f"{slicing.name} {v}": values == v for v in np.unique(values)}
    band = np.digitize(values, slicing.bounds)
    found = {name: band == n for n, name in enumerate(_bands(slicing))}
    return {name: rows for name, rows in found.items() if rows.any()}


def name_in(frame: DataFrame, slicing: Slicing) -> Column:
    """The name of the slice that each row of a Spark frame belongs to, as `members` names it."""
    from pyspark.sql import functions as F

    if slicing.column == "pickup_borough":
        value = borough(frame["pickup_location_id"])
    else:
        value = frame[slicing.column]
    if not slicing.bounds:
        return F.concat(F.lit(f"{slicing.name} "), value.cast("string"))
    name = F.lit(_bands(slicing)[0])
    for bound, above in zip(slicing.bounds, _bands(slicing)[1:], strict=True):
        name = F.when(value >= bound, F.lit(above)).otherwise(name)
    return F.when(value.isNotNull(), name)


def column_of(slicing: Slicing) -> str:
    """The column of a frame that a slicing needs."""
    return "pickup_location_id" if slicing.column == "pickup_borough" else slicing.column


def errors(
    frame: pd.DataFrame, predicted: Array, champion: Array | None, gate: Gate
) -> tuple[Slice, ...]:
    """Every slice of every slicing; `champion` holds its fares for the same rows, or None."""
    import numpy as np

    named = [
        (name, slicing.limit, rows)
        for slicing in gate.slicings
        if column_of(slicing) in frame
        for name, rows in members(frame, slicing).items()
    ]
    error = predicted - frame[schemas.LABEL].to_numpy()
    theirs = None if champion is None else champion - frame[schemas.LABEL].to_numpy()
    masks = np.column_stack([rows for _, _, rows in named]).astype("float64")
    worse = _significantly_worse(masks, error, theirs, gate)
    return tuple(
        Slice(
            name,
            int(rows.sum()),
            float(np.sqrt((error[rows] ** 2).mean())),
            float(np.abs(error[rows]).mean()),
            float(error[rows].mean()),
            limit,
            None if theirs is None else float(np.sqrt((theirs[rows] ** 2).mean())),
            worse[place],
        )
        for place, (name, limit, rows) in enumerate(named)
    )


def _significantly_worse(
    masks: Array, error: Array, theirs: Array | None, gate: Gate
) -> list[bool]:
    import numpy as np

    count = masks.shape[1]
    if theirs is None:
        return [False] * count
    squared = np.hstack([masks * error[:, None] ** 2, masks * theirs[:, None] ** 2, masks])
    sums = resampled_sums(squared, gate.resamples)
    ours, champions, rows = sums[:, :count], sums[:, count : 2 * count], sums[:, 2 * count :]
    with np.errstate(invalid="ignore"):  # a resample may hold no row of a small slice
        gap = np.sqrt(ours / rows) - np.sqrt(champions / rows)
    return [interval(gap[:, n], gate.confidence)[0] > 0 for n in range(count)]


def _bands(slicing: Slicing) -> list[str]:
    """The names of the bands between a slicing's bounds, ascending."""
    unit = f" {slicing.unit}" if slicing.unit else ""
    edges = [f"{bound:g}" for bound in slicing.bounds]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    names = [f"under {edges[0]}", *between, f"{edges[-1]} and more"]
    return [f"{slicing.name} {name}{unit}" for name in names]


def _values(frame: pd.DataFrame, column: str) -> np.ndarray[Any, Any]:
    if column == "pickup_borough":
        return boroughs(frame["pickup_location_id"])
    values: np.ndarray[Any, Any] = frame[column].to_numpy()
    return values
