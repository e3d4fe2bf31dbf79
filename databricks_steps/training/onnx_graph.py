"""The fitted pipeline as an ONNX graph, which serves and scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from databricks_steps.features.request import NOT_TOLD, TRIP_TYPE
from databricks_steps.inference import feature_spec
from databricks_steps.training.dataset import INPUTS, matrix
from databricks_steps.trips import zones

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.tree import DecisionTreeRegressor

    Array = np.ndarray[Any, np.dtype[np.float64]]

ONNX_INPUT = "inputs"
ONNX_OUTPUT = "fares"
ONNX_TREES = feature_spec.TREES
_TAKEN, _TYPED = "taken", "taken_with_type"
ML = "ai.onnx.ml"
ONNX_OPSET, ONNX_IR = {"": 18, ML: 1}, 8


def to_onnx(pipeline: Pipeline) -> bytes:
    """The model as an ONNX graph: float32 (rows, inputs) → two float32 outputs.

    `fares` (rows, 1) is the trimmed mean of `tree_fares` (rows, trees); dollars both. Of its two
    ensembles it asks those that some row wants.
    """
    from onnx import TensorProto, helper

    model = pipeline[-1]
    trees = _members(model.any_, _TAKEN, "any_type")
    if model.typed_ is None:
        trees.append(helper.make_node("Identity", ["any_type"], ["rest"]))
    else:
        typed = _members(model.typed_, _TYPED, "of_type")
        wanted = ("of_type_where_wanted", "any_type_where_wanted")
        trees = [
            *_told(),
            _where("some_untold", trees, "any_type"),
            _where("some_told", typed, "of_type"),
            helper.make_node("Where", ["is_told", *wanted], ["rest"]),
        ]
    count, middle = len(model.any_.estimators_), ["sorted", "from", "until", "along"]
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
        "metered",
        [inputs],
        [fares, by_tree],
        _constants(model, count),
    )
    versions = [helper.make_opsetid(name, version) for name, version in ONNX_OPSET.items()]
    whole = helper.make_model(graph, opset_imports=versions, ir_version=ONNX_IR)
    return bytes(whole.SerializeToString())


def _told() -> list[Any]:
    """Nodes that say whether some row tells its type and whether one does not, or there is none."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", ["is_told"], ["told"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["told"], ["rows_told"], keepdims=0),
        helper.make_node("Size", ["told"], ["rows"]),
        helper.make_node("Greater", ["rows_told", "no_row"], ["some_told"]),
        helper.make_node("Less", ["rows_told", "rows"], ["some_do_not"]),
        helper.make_node("Not", ["some_told"], ["none_told"]),
        helper.make_node("Or", ["some_do_not", "none_told"], ["some_untold"]),
    ]


def _where(wanted: str, members: list[Any], found: str) -> Any:
    """A node with what the members find where `wanted`; else with zeros, which no row takes."""
    from onnx import TensorProto, helper

    zeros = helper.make_node("Identity", ["no_fares"], [f"no_{found}"])
    branches = {}
    for branch, nodes, name in (
        ("then_branch", members, found),
        ("else_branch", [zeros], f"no_{found}"),
    ):
        told = helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])
        branches[branch] = helper.make_graph(nodes, name, [], [told])
    return helper.make_node("If", [wanted], [f"{found}_where_wanted"], **branches)


def _members(ensemble: Any, taken: str, rest: str) -> list[Any]:
    """Nodes from what an ensemble takes to `rest`, one column a member.

    A node for each tree of a forest, for a tree stays in a core's cache while a node takes many
    rows through it: 100 rows or more take four fifths of what one node for the forest takes, one
    row 11 µs more.
    """
    from onnx import helper

    names = [f"{rest}_{place}" for place in range(len(ensemble.estimators_))]
    nodes = [
        tree_node(member, taken, name) if hasattr(member, "tree_") else booster(member, taken, name)
        for member, name in zip(ensemble.estimators_, names, strict=True)
    ]
    return [*nodes, helper.make_node("Concat", names, [rest], axis=1)]


def tree_node(tree: DecisionTreeRegressor, taken: str, name: str) -> Any:
    """One tree as a node from the tensor `taken` (rows, features) to `name` (rows, 1)."""
    found = tree.tree_
    return _node(
        [
            _Tree(
                found.children_left < 0,
                found.feature,
                found.threshold,
                found.children_left,
                found.children_right,
                found.value[:, 0, 0],
            )
        ],
        *(0.0, taken, name),
    )


def booster(fitted: HistGradientBoostingRegressor, taken: str, name: str) -> Any:
    """All trees of a booster as a node from `taken` (rows, features) to their sum (rows, 1)."""
    # scikit-learn keeps them under no public name; the lock says of which version this is.
    rounds = [predictor.nodes for (predictor,) in fitted._predictors]
    trees = [
        _Tree(
            nodes["is_leaf"].astype(bool),
            *(nodes[each] for each in ("feature_idx", "num_threshold", "left", "right", "value")),
        )
        for nodes in rounds
    ]
    return _node(trees, float(fitted._baseline_prediction.item()), taken, name)


class _Tree(NamedTuple):
    """Arrays with a place for each node: rows of at most the threshold go left."""

    is_leaf: np.ndarray[Any, Any]
    feature: np.ndarray[Any, Any]
    threshold: np.ndarray[Any, Any]
    left: np.ndarray[Any, Any]
    right: np.ndarray[Any, Any]
    value: np.ndarray[Any, Any]


def _node(trees: Sequence[_Tree], base: float, taken: str, name: str) -> Any:
    """The sum of the trees and the base.

    A tree compares float32 with thresholds in float64, the node with float32: the largest that is
    not above the threshold parts the same rows.
    """
    import numpy as np
    from onnx import AttributeProto, helper

    sizes = [len(tree.is_leaf) for tree in trees]
    of_tree = np.repeat(np.arange(len(trees)), sizes)
    in_tree = np.concatenate([np.arange(size) for size in sizes])
    whole_tree = _Tree(*(np.concatenate(parts) for parts in zip(*trees, strict=True)))
    is_leaf = whole_tree.is_leaf
    threshold = whole_tree.threshold.astype("float32")
    above = threshold > whole_tree.threshold
    threshold = np.where(above, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    leaves = np.flatnonzero(is_leaf)
    modes = np.where(is_leaf, b"LEAF", b"BRANCH_LEQ")
    whole = {
        "nodes_treeids": of_tree,
        "nodes_nodeids": in_tree,
        "nodes_featureids": np.where(is_leaf, 0, whole_tree.feature),
        "nodes_truenodeids": np.where(is_leaf, 0, whole_tree.left),
        "nodes_falsenodeids": np.where(is_leaf, 0, whole_tree.right),
        "target_treeids": of_tree[leaves],
        "target_nodeids": in_tree[leaves],
        "target_ids": np.zeros(len(leaves), dtype="int64"),
    }
    floats = {
        "nodes_values": np.where(is_leaf, 0, threshold),
        "target_weights": whole_tree.value[leaves].astype("float32"),
    }
    more: dict[str, Any] = {"base_values": [base]} if base else {}
    node = helper.make_node(
        "TreeEnsembleRegressor",
        *([taken], [name], name, None, ML),
        n_targets=1,
        post_transform="NONE",
        **more,
    )
    # Filled by hand: onnx.helper looks at each of a million values.
    for key, ints in whole.items():
        node.attribute.add(name=key, type=AttributeProto.INTS).ints.extend(ints.tolist())
    for key, values in floats.items():
        node.attribute.add(name=key, type=AttributeProto.FLOATS).floats.extend(values.tolist())
    strings = node.attribute.add(name="nodes_modes", type=AttributeProto.STRINGS).strings
    strings.extend(modes.tolist())
    return node


def _facts() -> list[Any]:
    """Nodes that make what the ensembles take, as `Metered.with_facts` does."""
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
        helper.make_node("Greater", ["type", "not_told"], ["is_told"]),
        helper.make_node("Concat", [_TAKEN, "type"], [_TYPED], axis=1),
    ]


def _constants(model: Any, trees: int) -> list[Any]:
    """The line's weights, the table of zones, and which of the sorted trees are in the middle."""
    import numpy as np
    from onnx import numpy_helper

    from databricks_steps.training.metered import SHORTEST

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
        "no_fares": [[0]],
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
        "no_row": 0,
    }
    found = {name: np.array(value, dtype="float32") for name, value in floats.items()}
    found |= {name: np.array(value, dtype="int64") for name, value in whole.items()}
    return [numpy_helper.from_array(value, name) for name, value in found.items()]


def onnx_predict(graph: bytes, frame: pd.DataFrame) -> tuple[Array, Array]:
    """Fares (rows,) and each tree's fares (rows, trees) by the graph, in dollars."""
    fares, trees = _session(graph).run([ONNX_OUTPUT, ONNX_TREES], {ONNX_INPUT: matrix(frame)})
    return fares.reshape(-1).astype("float64"), trees.astype("float64")


@lru_cache(maxsize=1)
def _session(graph: bytes) -> Any:
    """A loaded graph; to load one takes longer than to score a holdout."""
    import onnxruntime

    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
