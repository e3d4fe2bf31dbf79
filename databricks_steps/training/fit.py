"""The model: its pipeline, its fit, and its ONNX graph with the proof that both agree."""

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
ONNX_OUTPUT = "fares"
ONNX_OPSET = {"": 18, "ai.onnx.ml": 3}


def fit(train: pd.DataFrame, forest: Forest) -> Pipeline:
    """A fitted pipeline: picks the inputs by name, whatever else a frame holds; then the model."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    from databricks_steps.training.forest import MeteredForest

    model = MeteredForest(INPUTS.index("trip_distance"), **forest.params(len(train)))
    pipeline = Pipeline(
        [
            ("inputs", ColumnTransformer([("inputs", "passthrough", list(INPUTS))])),
            ("forest", model),
        ]
    )
    return pipeline.fit(train[list(INPUTS)], train[schemas.LABEL])


def to_onnx(pipeline: Pipeline) -> bytes:
    """The model as an ONNX graph: float32 (rows, inputs) → float32 (rows, 1)."""
    import numpy as np
    from onnx import helper, numpy_helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = pipeline[-1]
    shape = [(ONNX_INPUT, FloatTensorType([None, len(INPUTS)]))]
    converted = convert_sklearn(model.forest_, initial_types=shape, target_opset=ONNX_OPSET)
    graph = converted.graph
    rest = graph.output[0].name
    weights = np.zeros((len(INPUTS), 1), dtype="float32")
    weights[model.distance] = model.meter_.coef_
    base = np.array([model.meter_.intercept_], dtype="float32")
    graph.initializer.extend(
        [numpy_helper.from_array(weights, "per_mile"), numpy_helper.from_array(base, "flag_drop")]
    )
    graph.node.extend(
        [
            helper.make_node("MatMul", [ONNX_INPUT, "per_mile"], ["by_distance"]),
            helper.make_node("Add", ["by_distance", "flag_drop"], ["metered"]),
            helper.make_node("Add", ["metered", rest], [ONNX_OUTPUT]),
        ]
    )
    graph.output[0].name = ONNX_OUTPUT
    return bytes(converted.SerializeToString())


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
