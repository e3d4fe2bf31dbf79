"""The forest: the pipeline, its fit, and its ONNX graph with the proof that both agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.settings import Forest
from databricks_steps.training.dataset import INPUTS, matrix

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.pipeline import Pipeline

ONNX_INPUT = "inputs"
ONNX_OPSET = {"": 18, "ai.onnx.ml": 3}


def fit(train: pd.DataFrame, forest: Forest) -> Pipeline:
    """A fitted pipeline: picks the inputs by name, whatever else a frame holds; then the forest."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import Pipeline

    pipeline = Pipeline(
        [
            ("inputs", ColumnTransformer([("inputs", "passthrough", list(INPUTS))])),
            ("forest", RandomForestRegressor(**forest.params(len(train)))),
        ]
    )
    return pipeline.fit(train[list(INPUTS)], train[schemas.LABEL])


def to_onnx(pipeline: Pipeline) -> bytes:
    """The forest as an ONNX graph: float32 (rows, inputs) → float32 (rows, 1)."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    shape = [(ONNX_INPUT, FloatTensorType([None, len(INPUTS)]))]
    graph = convert_sklearn(pipeline[-1], initial_types=shape, target_opset=ONNX_OPSET)
    return bytes(graph.SerializeToString())


def onnx_predict(graph: bytes, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Fares by the graph, in dollars, shape (rows,)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    fares: np.ndarray[Any, Any] = session.run(None, {ONNX_INPUT: matrix(frame)})[0]
    return fares.reshape(-1).astype("float64")


def parity(pipeline: Pipeline, graph: bytes, frame: pd.DataFrame) -> float:
    """The largest difference between the pipeline's fares and the graph's, in dollars."""
    import numpy as np

    return float(np.abs(pipeline.predict(frame[list(INPUTS)]) - onnx_predict(graph, frame)).max())
