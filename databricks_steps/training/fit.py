"""The model: its pipeline, its fit, and its ONNX graph with the proof that both agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.serving import feature_spec
from databricks_steps.settings import Forest
from databricks_steps.training.dataset import INPUTS, matrix

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.pipeline import Pipeline

    Array = np.ndarray[Any, np.dtype[np.float64]]

ONNX_INPUT = "inputs"
ONNX_OUTPUT = "fares"
ONNX_TREES = feature_spec.TREES
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
    """The model as an ONNX graph: float32 (rows, inputs) → two float32 outputs.

    `fares` (rows, 1) is the median of `tree_fares` (rows, trees); dollars both.
    """
    from onnx import helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    model = pipeline[-1]
    shape = [(ONNX_INPUT, FloatTensorType([None, len(INPUTS)]))]
    converted = convert_sklearn(model.forest_, initial_types=shape, target_opset=ONNX_OPSET)
    graph = converted.graph
    trees = len(model.forest_.estimators_)
    _answer_by_tree(graph.node[0], trees)
    graph.initializer.extend(_constants(model, trees))
    middle = ["sorted", "from", "until", "along"]
    graph.node.extend(
        [
            helper.make_node("MatMul", [ONNX_INPUT, "per_mile"], ["by_distance"]),
            helper.make_node("Add", ["by_distance", "flag_drop"], ["metered"]),
            helper.make_node("Add", ["metered", graph.output[0].name], [ONNX_TREES]),
            helper.make_node("TopK", [ONNX_TREES, "upper_half"], ["sorted", "places"], axis=1),
            helper.make_node("Slice", middle, ["middle"]),
            helper.make_node("ReduceMean", ["middle", "along"], [ONNX_OUTPUT], keepdims=1),
        ]
    )
    graph.output[0].name = ONNX_OUTPUT
    graph.output.append(helper.make_tensor_value_info(ONNX_TREES, 1, [None, trees]))
    return bytes(converted.SerializeToString())


def _answer_by_tree(node: Any, trees: int) -> None:
    """Make the forest's node answer one column a tree instead of their mean."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    attributes["n_targets"].i = trees
    attributes["target_ids"].ints[:] = list(attributes["target_treeids"].ints)
    weights = attributes["target_weights"].floats
    weights[:] = [weight * trees for weight in weights]  # the converter divided by their number


def _constants(model: Any, trees: int) -> list[Any]:
    """The line's weights, and which of the sorted trees are in the middle: one or two."""
    import numpy as np
    from onnx import numpy_helper

    weights = np.zeros((len(INPUTS), 1), dtype="float32")
    weights[model.distance] = model.meter_.coef_
    found = {
        "per_mile": weights,
        "flag_drop": np.array([model.meter_.intercept_], dtype="float32"),
        "upper_half": np.array([trees // 2 + 1]),
        "from": np.array([(trees - 1) // 2]),
        "until": np.array([trees // 2 + 1]),
        "along": np.array([1]),
    }
    return [numpy_helper.from_array(value, name) for name, value in found.items()]


def onnx_predict(graph: bytes, frame: pd.DataFrame) -> tuple[Array, Array]:
    """Fares (rows,) and each tree's fares (rows, trees) by the graph, in dollars."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    fares, trees = session.run([ONNX_OUTPUT, ONNX_TREES], {ONNX_INPUT: matrix(frame)})
    return fares.reshape(-1).astype("float64"), trees.astype("float64")
