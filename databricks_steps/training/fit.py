"""The model: its pipeline, its fit, and its ONNX graph with the proof that both agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.inference import feature_spec
from databricks_steps.settings import Forest
from databricks_steps.training.dataset import INPUTS, matrix

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from onnx import ModelProto
    from sklearn.pipeline import Pipeline
    from sklearn.tree import DecisionTreeRegressor

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

    model = pipeline[-1]
    converted = [_converted(tree) for tree in model.forest_.estimators_]
    graph, trees = converted[0].graph, [each.graph.node[0] for each in converted]
    for place, tree in enumerate(trees):
        tree.name = tree.output[0] = f"tree_{place}"
    rests, middle = [tree.output[0] for tree in trees], ["sorted", "from", "until", "along"]
    tail = [
        helper.make_node("Concat", rests, ["rest"], axis=1),
        helper.make_node("MatMul", [ONNX_INPUT, "per_mile"], ["by_distance"]),
        helper.make_node("Add", ["by_distance", "flag_drop"], ["metered"]),
        helper.make_node("Add", ["metered", "rest"], [ONNX_TREES]),
        helper.make_node("TopK", [ONNX_TREES, "upper_half"], ["sorted", "places"], axis=1),
        helper.make_node("Slice", middle, ["middle"]),
        helper.make_node("ReduceMean", ["middle", "along"], [ONNX_OUTPUT], keepdims=1),
    ]
    graph.node.extend([*trees[1:], *tail])
    graph.initializer.extend(_constants(model, len(trees)))
    graph.output[0].name = ONNX_OUTPUT
    graph.output.append(helper.make_tensor_value_info(ONNX_TREES, 1, [None, len(trees)]))
    return bytes(converted[0].SerializeToString())


def _converted(tree: DecisionTreeRegressor) -> ModelProto:
    """One tree as a graph of one node.

    A node for each tree, for a tree stays in a core's cache while a node takes many rows through
    it: 100 rows or more take four fifths of what one node for the forest takes, one row 11 µs more.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    shape = [(ONNX_INPUT, FloatTensorType([None, len(INPUTS)]))]
    converted: ModelProto = convert_sklearn(tree, initial_types=shape, target_opset=ONNX_OPSET)
    return converted


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
