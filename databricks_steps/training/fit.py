"""The model: its pipeline, its fit, and its ONNX graph with the proof that both agree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.features.request import NOT_TOLD, TRIP_TYPE
from databricks_steps.inference import feature_spec
from databricks_steps.settings import Forest
from databricks_steps.training.dataset import INPUTS, matrix
from databricks_steps.trips import zones

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from onnx import ModelProto
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.tree import DecisionTreeRegressor

    Array = np.ndarray[Any, np.dtype[np.float64]]

ONNX_INPUT = "inputs"
ONNX_OUTPUT = "fares"
ONNX_TREES = feature_spec.TREES
_TAKEN, _TYPED = "taken", "taken_with_type"
ONNX_OPSET = {"": 18, "ai.onnx.ml": 3}


def fit(train: pd.DataFrame, forest: Forest) -> Pipeline:
    """A fitted pipeline: picks the inputs by name, whatever else a frame holds; then the model."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import Pipeline

    from databricks_steps.training.forest import MeteredForest

    model = MeteredForest(
        INPUTS.index("trip_distance"),
        (INPUTS.index("pickup_location_id"), INPUTS.index("dropoff_location_id")),
        INPUTS.index(TRIP_TYPE),
        **forest.params(len(train)),
    )
    pipeline = Pipeline(
        [
            ("inputs", ColumnTransformer([("inputs", "passthrough", list(INPUTS))])),
            ("forest", model),
        ]
    )
    return pipeline.fit(train[list(INPUTS)], train[schemas.LABEL])


def to_onnx(pipeline: Pipeline) -> bytes:
    """The model as an ONNX graph: float32 (rows, inputs) → two float32 outputs.

    `fares` (rows, 1) is the trimmed mean of `tree_fares` (rows, trees); dollars both.
    """
    from onnx import TensorProto, helper

    model = pipeline[-1]
    trees, opset = _trees(model.forest_, _TAKEN, "any_type")
    if model.typed_ is None:
        trees.append(helper.make_node("Identity", ["any_type"], ["rest"]))
    else:
        is_told, of_type = feature_spec.BY_TYPE
        trees += _trees(model.typed_, _TYPED, of_type)[0]
        trees.append(helper.make_node("Where", [is_told, of_type, "any_type"], ["rest"]))
    count, middle = len(model.forest_.estimators_), ["sorted", "from", "until", "along"]
    tail = [
        helper.make_node("MatMul", [ONNX_INPUT, "per_mile"], ["by_distance"]),
        helper.make_node("Add", ["by_distance", "flag_drop"], ["metered"]),
        helper.make_node("Add", ["metered", "rest"], [ONNX_TREES]),
        helper.make_node("TopK", [ONNX_TREES, "count"], ["sorted", "places"], axis=1, largest=0),
        helper.make_node("Slice", middle, ["middle"]),
        helper.make_node("ReduceMean", ["middle", "along"], [ONNX_OUTPUT], keepdims=1),
    ]
    inputs, fares, by_tree = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
        for name, width in ((ONNX_INPUT, len(INPUTS)), (ONNX_OUTPUT, 1), (ONNX_TREES, count))
    )
    graph = helper.make_graph(
        [*_facts(), *trees, *tail],
        "metered_forest",
        [inputs],
        [fares, by_tree],
        _constants(model, count),
    )
    whole = helper.make_model(graph, **opset)
    return bytes(whole.SerializeToString())


def _trees(forest: RandomForestRegressor, taken: str, rest: str) -> tuple[list[Any], Any]:
    """Nodes from what a forest takes to `rest`, one column a tree; their operators' versions."""
    from onnx import helper

    converted = [_converted(tree) for tree in forest.estimators_]
    nodes = [each.graph.node[0] for each in converted]
    for place, node in enumerate(nodes):
        node.name = node.output[0] = f"{rest}_{place}"
        node.input[0] = taken
    first = converted[0]
    opset = {"opset_imports": first.opset_import, "ir_version": first.ir_version}
    return [*nodes, helper.make_node("Concat", [n.output[0] for n in nodes], [rest], axis=1)], opset


def _facts() -> list[Any]:
    """Nodes that make what the forests take, as `MeteredForest.with_facts` does."""
    from onnx import TensorProto, helper

    nodes = []
    for end in ("pickup", "dropoff"):
        nodes += [
            helper.make_node("Gather", [ONNX_INPUT, end], [f"{end}_id"], axis=1),
            helper.make_node("GreaterOrEqual", [f"{end}_id", "first_id"], [f"{end}_from"]),
            helper.make_node("LessOrEqual", [f"{end}_id", "last_id"], [f"{end}_to"]),
            helper.make_node("And", [f"{end}_from", f"{end}_to"], [f"{end}_is_zone"]),
            helper.make_node("Where", [f"{end}_is_zone", f"{end}_id", "no_id"], [f"{end}_zone"]),
            helper.make_node("Cast", [f"{end}_zone"], [f"{end}_row"], to=TensorProto.INT64),
        ]
    return [
        *nodes,
        helper.make_node("Mul", ["pickup_row", "ids"], ["pickup_rows"]),
        helper.make_node("Add", ["pickup_rows", "dropoff_row"], ["pair"]),
        helper.make_node("Gather", ["zone_facts", "pair"], ["of_pair"], axis=0),
        helper.make_node("Reshape", ["of_pair", "flat"], ["of_zones"]),
        helper.make_node("Gather", ["of_zones", "line"], ["line_miles"], axis=1),
        helper.make_node("Gather", [ONNX_INPUT, "distance"], ["miles"], axis=1),
        helper.make_node("Max", ["line_miles", "shortest"], ["some_miles"]),
        helper.make_node("Div", ["miles", "some_miles"], ["share"]),
        helper.make_node("GreaterOrEqual", ["line_miles", "no_miles"], ["is_line"]),
        helper.make_node("Where", ["is_line", "share", "no_place"], ["detour"]),
        helper.make_node("Gather", [ONNX_INPUT, "both"], ["as_given"], axis=1),
        helper.make_node("Concat", ["as_given", "of_zones", "detour"], [_TAKEN], axis=1),
        helper.make_node("Gather", [ONNX_INPUT, TRIP_TYPE], ["type"], axis=1),
        helper.make_node("Greater", ["type", "not_told"], [feature_spec.BY_TYPE[0]]),
        helper.make_node("Concat", [_TAKEN, "type"], [_TYPED], axis=1),
    ]


def _converted(tree: DecisionTreeRegressor) -> ModelProto:
    """One tree as a graph of one node.

    A node for each tree, for a tree stays in a core's cache while a node takes many rows through
    it: 100 rows or more take four fifths of what one node for the forest takes, one row 11 µs more.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    shape = [(ONNX_INPUT, FloatTensorType([None, tree.n_features_in_]))]
    converted: ModelProto = convert_sklearn(tree, initial_types=shape, target_opset=ONNX_OPSET)
    return converted


def _constants(model: Any, trees: int) -> list[Any]:
    """The line's weights, the table of zones, and which of the sorted trees are in the middle."""
    import numpy as np
    from onnx import numpy_helper

    from databricks_steps.training.forest import SHORTEST

    weights = np.zeros((len(INPUTS), 1), dtype="float32")
    weights[model.distance] = model.meter_.coef_
    first, end = feature_spec.middle(trees)
    floats = {
        "per_mile": weights,
        "flag_drop": [model.meter_.intercept_],
        "zone_facts": zones.facts(),
        "first_id": 1,
        "last_id": zones.IDS,
        "no_id": 0,
        "no_miles": 0,
        "not_told": NOT_TOLD,
        "shortest": SHORTEST,
        "no_place": zones.NO_PLACE,
    }
    whole = {
        "pickup": [model.zones[0]],
        "dropoff": [model.zones[1]],
        "distance": [model.distance],
        TRIP_TYPE: [model.trip_type],
        "both": model.taken(len(INPUTS)),
        "ids": zones.IDS + 1,
        "line": [zones.FACTS.index("line_miles")],
        "flat": [-1, len(zones.FACTS)],
        "count": [trees],
        "from": [first],
        "until": [end],
        "along": [1],
    }
    found = {name: np.array(value, dtype="float32") for name, value in floats.items()}
    found |= {name: np.array(value, dtype="int64") for name, value in whole.items()}
    return [numpy_helper.from_array(value, name) for name, value in found.items()]


def onnx_predict(graph: bytes, frame: pd.DataFrame) -> tuple[Array, Array]:
    """Fares (rows,) and each tree's fares (rows, trees) by the graph, in dollars."""
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    fares, trees = session.run([ONNX_OUTPUT, ONNX_TREES], {ONNX_INPUT: matrix(frame)})
    return fares.reshape(-1).astype("float64"), trees.astype("float64")
