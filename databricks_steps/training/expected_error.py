"""The expected error of a version: by kind, distance and hour of trips that it has not seen.

Measured when it is trained, over its last month: by the holdout, and by those trees of the forest
that have not drawn a trip. Reweighted by the mix of a later month it says what the version should
err there (docs/adr/0025).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import ModelError
from databricks_steps.settings import Gate
from databricks_steps.training.slices import column_of, members

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array = np.ndarray[Any, np.dtype[np.float64]]

FILE = "expected_error.json"
KEY = ("kind", "distance", "hour")  # slicings of the gate, the coarsest first
ANY = "any kind"  # of trips whose kind is not known: the endpoint's
_WEIGHT = 50.0  # rows: as much as the mean of the coarser cell counts beside a cell's own


@dataclass(frozen=True)
class Errors:
    """Trips, and the sum of their absolute errors in dollars."""

    trips: int
    absolute: float

    def mean(self, coarser: float) -> float:
        """The mean, drawn to that of the coarser cell where there are few trips."""
        return (self.absolute + _WEIGHT * coarser) / (self.trips + _WEIGHT)


@dataclass(frozen=True)
class ExpectedError:
    """Errors by cell and each coarser one: (), (kind,), (kind, distance), (kind, distance, hour).

    `slices`: slice → trips, and by which factor its errors are those that its cells would have.
    """

    cells: Mapping[tuple[str, ...], Errors] = field(default_factory=dict)
    slices: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def trips(self) -> int:
        return self.cells[()].trips if () in self.cells else 0

    @property
    def mae(self) -> float | None:
        """The mean absolute error on the mix it was measured on, in dollars."""
        whole = self.cells.get(())
        return whole.absolute / whole.trips if whole else None

    def of(self, cell: Sequence[str | None]) -> float:
        """Mean absolute error in a cell, its names in the order of `KEY`; dollars."""
        named = (cell[0] or ANY, *cell[1:])
        found = self.cells[()].mean(0.0 if self.mae is None else self.mae)
        for length in range(1, len(named) + 1):
            errors = self.cells.get(named[:length])  # type: ignore[arg-type]
            if errors is None:
                break
            found = errors.mean(found)
        return found

    def factor(self, name: str, least: int) -> float | None:
        """The factor of a slice; None where fewer trips than `least` were in it."""
        trips, factor = self.slices.get(name, (0, 0.0))
        return factor if trips >= least and factor > 0 else None

    def to_json(self) -> str:
        cells = [[list(key), each.trips, each.absolute] for key, each in self.cells.items()]
        return json.dumps({"cells": cells, "slices": dict(self.slices)})

    @classmethod
    def from_json(cls, text: str) -> ExpectedError:
        """The expected error of a text.

        Raises:
            ModelError: it is none.
        """
        try:
            raw = json.loads(text)
            cells = {tuple(key): Errors(*sums) for key, *sums in raw["cells"]}
            slices = {name: (int(n), float(factor)) for name, (n, factor) in raw["slices"].items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{FILE} must hold errors by cell", repr(error), "Train the model again"
            ) from error
        return cls(cells, slices)


def measured(trips: pd.DataFrame, error: Array, gate: Gate) -> ExpectedError:
    """Errors (rows,) in dollars of trips that the version has not seen, by cell and slice."""
    import numpy as np

    if not len(trips):
        return ExpectedError()
    cut = {
        slicing.name: members(trips, slicing)
        for slicing in gate.slicings
        if column_of(slicing) in trips
    }
    names = {
        name: np.select(list(cut[name].values()), list(cut[name]), "")
        for name in KEY
        if name in cut
    }
    own = [names[name] if name in names else np.full(len(trips), ANY) for name in KEY]
    cells: dict[tuple[str, ...], Errors] = {}
    for kind in (own[0], np.full(len(trips), ANY)):
        for length in range(len(KEY) + 1):
            cells |= _by_cell([kind, *own[1:]][:length], error)
    found = ExpectedError(cells)
    expected = np.array([found.of(cell) for cell in zip(*own, strict=True)])
    slices = {
        name: (int(rows.sum()), float(np.abs(error[rows]).sum() / expected[rows].sum()))
        for masks in cut.values()
        for name, rows in masks.items()
        if rows.any()
    }
    return ExpectedError(cells, slices)


def _by_cell(names: Sequence[Any], error: Array) -> dict[tuple[str, ...], Errors]:
    import pandas as pd

    if not names:
        return {(): Errors(len(error), float(abs(error).sum()))}
    grouped = pd.Series(abs(error)).groupby([pd.Series(name) for name in names])
    sums: Any = grouped.agg(["size", "sum"])
    keys = (key if isinstance(key, tuple) else (key,) for key in sums.index)
    values = zip(sums["size"], sums["sum"], strict=True)
    return {key: Errors(int(n), float(s)) for key, (n, s) in zip(keys, values, strict=True)}
