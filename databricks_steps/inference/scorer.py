"""Scoring with a registered model's ONNX graph: the same numbers in a request and in a batch.

Only the graph and the feature spec are read; the skops form of the model is never opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from databricks_steps.errors import ModelError
from databricks_steps.features.request import TRIP_TYPES
from databricks_steps.inference import feature_spec
from databricks_steps.inference.feature_spec import FareInterval, FeatureSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


BANDS = (1, 2, 5, 10)  # miles
GROUPS = (len(BANDS) + 1) * 2 * (len(TRIP_TYPES) + 1) * 2


@dataclass(frozen=True)
class Scorer:
    """A loaded model version. Safe to share between threads."""

    spec: FeatureSpec
    _session: Any
    _input: str
    _output: str

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> Scorer:
        """The scorer of a downloaded model; `threads` is what one call may use.

        Raises:
            ModelError: a file is missing, unreadable, or graph and spec disagree.
        """
        graph, spec = (
            folder / feature_spec.FOLDER / name
            for name in (feature_spec.ONNX_FILE, feature_spec.FILE)
        )
        for file in (graph, spec):
            if not file.is_file():
                raise ModelError("A served model needs the file", file, "Train and log it again")
        try:
            read = FeatureSpec.from_json(spec.read_text(encoding="utf-8"))
            session = _session(graph, threads)
        except Exception as error:  # onnxruntime raises its own, undocumented classes
            raise ModelError(
                "The model's graph and feature spec must be readable",
                f"{folder}: {_line(error)}",
                "Train and log it again",
            ) from error
        inputs, outputs = session.get_inputs(), session.get_outputs()
        width = inputs[0].shape[-1]
        if len(inputs) != 1 or inputs[0].type != "tensor(float)" or width != len(read.inputs):
            raise ModelError(
                "The graph must take one float matrix as wide as the feature spec",
                f"{folder}: {width} against {len(read.inputs)}",
                "Train and log it again",
            )
        return cls(read, session, inputs[0].name, outputs[0].name)

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Fares in dollars for rows whose columns are `spec.inputs`, in that order."""
        answer = self._session.run([self._output], {self._input: matrix})[0]
        fares: NDArray[np.float64] = np.asarray(answer, dtype=np.float64).reshape(-1)
        return fares

    def predict_interval(self, matrix: NDArray[np.float32]) -> FareRange:
        """Fares with their interval, for rows as `predict` takes them.

        Raises:
            ModelError: the version was logged without one.
        """
        if self.spec.interval is None:
            raise ModelError(
                "An interval needs a model version that was calibrated for it",
                "this version was not",
                "Ask without params.interval, or train again",
            )
        names = [self._output, feature_spec.TREES]
        fares, trees = self._session.run(names, {self._input: matrix})
        return stretched(
            np.asarray(fares, dtype=np.float64).reshape(-1),
            np.asarray(trees, dtype=np.float64),
            self.spec.interval,
            groups(matrix, self.spec) if self.spec.interval.groups else None,
        )


@dataclass(frozen=True)
class FareRange:
    """Fares in dollars, and between what the fare paid will lie with the interval's coverage."""

    fares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __getitem__(self, rows: slice) -> FareRange:
        """Those of some rows."""
        return FareRange(self.fares[rows], self.low[rows], self.high[rows])


def groups(matrix: NDArray[np.float32], spec: FeatureSpec) -> NDArray[np.int64]:
    """Rides as `Scorer.predict` takes them → the group of each (rows,), of `GROUPS`.

    By what a request can tell: bands of distance, whether either end is an airport, and the trip
    type where it is told; and by whether any feature was known of it.
    """
    given = dict(zip(spec.inputs, matrix.T, strict=True))
    band = np.digitize(given["trip_distance"], BANDS)
    airport = (given["pickup_is_airport"] > 0) | (given["dropoff_is_airport"] > 0)
    kind = given["trip_type"].astype(np.int64)
    known = np.zeros(len(matrix), bool)
    for lookup in spec.lookups:
        for name, default in lookup.defaults.items():
            known |= given[name] != np.float32(default)
    found: NDArray[np.int64] = (band * 2 + airport) * (len(TRIP_TYPES) + 1) + kind
    found += known * (GROUPS // 2)
    return found


def stretched(
    fares: NDArray[np.float64],
    trees: NDArray[np.float64],
    interval: FareInterval,
    group: NDArray[np.int64] | None = None,
) -> FareRange:
    """The interval of fares (rows,) whose trees say (rows, trees); never below 0 dollars.

    `group` (rows,) picks the stretch among the interval's own; None: the one of all. Versions
    logged before features had groups of their own have half as many.
    """
    below, above = spread(fares, trees, interval.low, interval.high, interval.floor)
    stretches = np.array([(interval.low_stretch, interval.high_stretch), *interval.groups])
    own = np.zeros(len(fares), int) if group is None else group % len(interval.groups) + 1
    low, high = stretches[own].T
    return FareRange(fares, np.maximum(fares - low * below, 0.0), fares + high * above)


def spread(
    fares: NDArray[np.float64], trees: NDArray[np.float64], low: float, high: float, floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far the trees' quantiles lie below and above the fares, each at least the floor."""
    quantiles = np.quantile(trees, [low, high], axis=1) if len(fares) else np.empty((2, 0))
    return np.maximum(fares - quantiles[0], floor), np.maximum(quantiles[1] - fares, floor)


def _session(graph: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(
        str(graph), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
