"""Splits, measures, the model and its graph: figures by hand, boundaries, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pandas as pd
import pytest

from databricks_steps import schemas
from databricks_steps.errors import ModelError, SettingsError
from databricks_steps.inference.feature_spec import middle
from databricks_steps.settings import METRICS, Boosting, Forest, Gate, Settings
from databricks_steps.training import dataset, evaluation, leakage_checks, registry
from databricks_steps.training.fit import fit
from databricks_steps.training.lineage import Recipe
from databricks_steps.training.onnx_graph import (
    ONNX_IR,
    ONNX_OPSET,
    onnx_predict,
    to_onnx,
    tree_node,
)
from databricks_steps.trips import zones

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

START = datetime(2022, 2, 1)
GATE = Gate()


def test_measures_by_hand() -> None:
    found = evaluation.measures(np.array([10.0, 20.0, 30.0]), np.array([12.0, 20.0, 27.0]))
    assert found == {
        "rmse": pytest.approx((13 / 3) ** 0.5),
        "mae": pytest.approx(5 / 3),
        "r2": pytest.approx(1 - 13 / 200),
        "mape": pytest.approx((0.2 + 0 + 0.1) / 3),
        "within_2_dollars": pytest.approx(2 / 3),
        "p90_absolute_error": pytest.approx(2.8),  # errors 0, 2, 3: nine tenths of the way
        "bias": pytest.approx(-1 / 3),
    }
    assert list(found) == [metric.name for metric in METRICS]


def test_an_interval_of_a_metric_holds_the_metric_and_narrows_with_rows() -> None:
    chance = np.random.default_rng(5)
    fares = chance.uniform(5, 60, 4_000)
    predicted = fares + chance.normal(0, 2, 4_000)
    wide, narrow = (evaluation.intervals(fares[:n], predicted[:n], GATE) for n in (400, 4_000))
    whole = evaluation.measures(fares, predicted)
    for name, (low, high) in narrow.items():
        assert low < whole[name] < high
        assert high - low < (wide[name][1] - wide[name][0]) / 2
    # The standard error of a mean of 4,000 normal errors of 2 dollars: 1.96 · 2 / √4000.
    assert narrow["bias"][1] - narrow["bias"][0] == pytest.approx(4 * 1.96 / 4_000**0.5, rel=0.1)


def test_the_metered_fare_is_the_line_through_the_points() -> None:
    line = evaluation.MeteredFare.fit(np.array([1.0, 2.0, 4.0]), np.array([5.5, 8.0, 13.0]))
    assert (line.flag_drop, line.per_mile) == (pytest.approx(3.0), pytest.approx(2.5))
    assert line.predict(np.array([10.0])) == pytest.approx([28.0])


@pytest.mark.filterwarnings("error")
def test_trips_that_are_all_as_far_cost_their_mean() -> None:
    line = evaluation.MeteredFare.fit(np.full(3_000, 2.1), np.tile([5.0, 8.0, 11.0], 1_000))
    assert (line.flag_drop, line.per_mile) == (8.0, 0.0)


def test_a_champion_is_significantly_better_only_when_the_interval_says_so() -> None:
    chance = np.random.default_rng(1)
    fares = chance.uniform(5, 60, 2_000)
    good, bad = (fares + chance.normal(0, spread, 2_000) for spread in (1.0, 3.0))
    worse = evaluation.compare(fares, bad, good, GATE)
    assert worse.champion_significantly_better
    assert worse.low <= worse.difference <= worse.high
    assert worse.difference == pytest.approx(2.0, abs=0.2)
    assert not evaluation.compare(fares, good, bad, GATE).champion_significantly_better
    same = evaluation.compare(fares, good, good, GATE)
    assert (same.low, same.difference, same.high) == (0, 0, 0)
    assert not same.champion_significantly_better


def frame_of(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    return spark.createDataFrame(
        rows, "trip_id string, pickup_datetime timestamp, dropoff_datetime timestamp"
    )


def test_the_split_is_by_time_and_trips_under_way_belong_to_neither(spark: SparkSession) -> None:
    minutes = [timedelta(minutes=m) for m in range(10)]
    trips = frame_of(
        spark,
        [(f"{n}", START + m, START + m + timedelta(seconds=90)) for n, m in enumerate(minutes)],
    )
    start = dataset.holdout_start(trips, 0.2)
    split = dataset.with_split(trips, start).orderBy("pickup_datetime").collect()
    assert start is not None
    assert [row["split"] for row in split] == [
        *["train"] * 6,  # the trip of minute 6 ends at 7:30, when the holdout has begun
        "between",
        *["holdout"] * 3,
    ]
    at_the_instant = frame_of(
        spark, [("a", START, START + timedelta(minutes=7)), ("b", START + minutes[7], START)]
    )
    found = {r["trip_id"]: r["split"] for r in dataset.with_split(at_the_instant, start).collect()}
    assert found == {"a": "between", "b": "holdout"}


def training_rows(count: int, seed: int = 3) -> pd.DataFrame:
    chance = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        name: chance.integers(0, 20, count).astype("float64") for name in dataset.INPUTS
    }
    columns["trip_distance"] = chance.uniform(0.5, 30, count)
    columns[schemas.LABEL] = (
        3
        + 2.5 * columns["trip_distance"]
        + 0.2 * columns["pickup_hour"]
        + chance.normal(0, 1, count)
    )
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("trees", "trim", "places"),
    [(1, 0.2, (0, 1)), (2, 0.2, (0, 2)), (10, 0.2, (2, 8)), (40, 0.2, (8, 32)), (9, 0.5, (4, 5))],
)
def test_the_middle_of_the_trees(trees: int, trim: float, places: tuple[int, int]) -> None:
    assert middle(trees, trim) == places


@pytest.mark.parametrize("trees", [1, 2, 9, 10])
def test_the_graph_gives_the_fares_of_the_pipeline_and_of_long_trips_never_seen(
    trees: int,
) -> None:
    rows = training_rows(600)
    pipeline = fit(rows, Forest(n_estimators=trees))
    graph = to_onnx(pipeline)
    unseen = training_rows(200, seed=4)
    fares, by_tree = onnx_predict(graph, unseen)
    assert by_tree.shape == (200, trees)
    inputs = unseen[list(dataset.INPUTS)]
    assert np.abs(fares - pipeline.predict(inputs)).max() < 1e-4
    matrix = pipeline[0].transform(inputs)
    assert np.abs(by_tree - pipeline[-1].predict_trees(matrix)).max() < 1e-4
    first, end = middle(trees)
    assert np.abs(fares - np.sort(by_tree, axis=1)[:, first:end].mean(axis=1)).max() < 1e-4
    far = training_rows(1).assign(trip_distance=80.0)
    assert onnx_predict(graph, far)[0][0] == pytest.approx(3 + 2.5 * 80 + 2, abs=5)
    extra = rows.assign(fare_amount=9999.0, tip_amount=50.0)
    assert (pipeline.predict(extra) == pipeline.predict(rows)).all()


RECIPE = Recipe(
    ("2022-01",), {"trips": 1}, Forest(), 0.2, 7, 2_000_000, "f00", "3.11", {"numpy": "2"}, 60
)
BOOSTING = Boosting(quantiles=(0.1, 0.5, 0.9), max_iter=60)


@pytest.mark.parametrize("parameters", [Forest(n_estimators=5, min_samples_leaf=1), BOOSTING])
def test_zones_zip_codes_and_no_zones_are_told_alike_by_pipeline_and_graph(
    parameters: Forest | Boosting,
) -> None:
    chance = np.random.default_rng(8)
    rows = training_rows(3_000).assign(
        pickup_location_id=chance.choice([-1, 0, 1, 132, 138, 263, 264, 265, 266, 11430], 3_000),
        dropoff_location_id=chance.choice([74, 75, 103, 104, 265, 99_999], 3_000),
        trip_type=chance.integers(0, 3, 3_000),
    )
    rows["fare_amount"] += 20.0 * (rows["pickup_location_id"] == 132) + 5 * rows["trip_type"]
    pipeline = fit(rows, parameters)
    fares, _ = onnx_predict(to_onnx(pipeline), rows)
    assert np.abs(fares - pipeline.predict(rows[list(dataset.INPUTS)])).max() < 1e-4
    asked = rows.head(1).assign(pickup_location_id=132, dropoff_location_id=74, trip_distance=2.0)

    def fare(**changes: int) -> float:
        return float(pipeline.predict(asked.assign(**changes)[list(dataset.INPUTS)])[0])

    assert fare(trip_type=2) > fare(trip_type=1) + 3
    assert fare(trip_type=1) > fare(trip_type=1, pickup_location_id=138) + 10
    # What is no place is no place, by whichever number: without an error.
    assert fare(pickup_location_id=0) == fare(pickup_location_id=99_999)


def test_rides_that_tell_their_type_that_do_not_and_both_get_the_fares_of_the_pipeline() -> None:
    rows = training_rows(3_000).assign(trip_type=np.random.default_rng(8).integers(0, 3, 3_000))
    pipeline = fit(rows, Forest(n_estimators=5))
    graph = onnx.load_from_string(to_onnx(pipeline))
    assert [node.op_type for node in graph.graph.node].count("If") == 2
    # Half of the time of an answer: trees that no row wants do not answer.
    assert not [node for node in graph.graph.node if node.op_type == "TreeEnsembleRegressor"]
    told = rows["trip_type"] > 0
    for asked in (rows, rows[told], rows[~told], rows[told][:1], rows[~told][:1], rows[:0]):
        fares, by_tree = onnx_predict(graph.SerializeToString(), asked)
        assert by_tree.shape == (len(asked), 5)
        if len(asked):
            wanted = pipeline.predict(asked[list(dataset.INPUTS)])
            assert np.abs(fares - wanted).max() < 1e-4


@pytest.mark.slow  # a booster a quantile
def test_boosters_are_of_quantiles_and_their_graph_gives_their_fares() -> None:
    import skops.io

    rows, unseen = training_rows(4_000), training_rows(1_000, seed=4)
    pipeline = fit(rows, BOOSTING)
    fares, members = onnx_predict(to_onnx(pipeline), unseen)
    inputs = unseen[list(dataset.INPUTS)]
    assert np.abs(fares - pipeline.predict(inputs)).max() < 1e-3
    by_member = pipeline[-1].predict_trees(pipeline[0].transform(inputs))
    assert np.abs(members - by_member).max() < 1e-3
    under = (unseen[schemas.LABEL].to_numpy()[:, None] < members).mean(axis=0)
    assert under == pytest.approx([0.1, 0.5, 0.9], abs=0.06)
    assert np.isnan(pipeline[-1].predict_unseen(inputs.to_numpy(), np.arange(3))).all()
    read = skops.io.loads(skops.io.dumps(pipeline), trusted=registry.TRUSTED)
    assert (read.predict(inputs) == pipeline.predict(inputs)).all()


def test_a_recipe_names_its_estimator_and_one_of_before_is_a_forest_s() -> None:
    for parameters in (BOOSTING, Forest(n_estimators=3)):
        made = replace(RECIPE, estimator=parameters)
        assert Recipe.from_json(made.to_json()) == made
    before = json.loads(replace(RECIPE, estimator=Forest(n_estimators=3)).to_json())
    before["forest"] = before.pop("estimator")
    del before["forest"]["name"]
    assert Recipe.from_json(json.dumps(before)).estimator == Forest(n_estimators=3)


def test_an_estimator_is_chosen_by_name() -> None:
    boosting = Settings.from_environment({"TAXI_ESTIMATOR": "boosting"})
    assert boosting.estimator == Boosting()
    assert Settings.from_environment(boosting.to_environment()) == boosting
    with pytest.raises(SettingsError, match="TAXI_ESTIMATOR must be forest or boosting: trees"):
        Settings.from_environment({"TAXI_ESTIMATOR": "trees"})


def test_a_tree_s_node_is_what_scikit_learn_s_converter_makes_and_parts_as_the_tree() -> None:
    """Also at the thresholds, and a float32 beside them."""
    import onnxruntime
    from onnx import TensorProto, helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.tree import DecisionTreeRegressor

    chance = np.random.default_rng(5)
    known = (chance.integers(0, 40, (5_000, 3)) / 10).astype("float32")
    known[:, 0] = chance.normal(size=len(known))
    tree = DecisionTreeRegressor(min_samples_leaf=2).fit(known, known @ [3, 1, 0] + known[:, 0])
    parts = np.flatnonzero(tree.tree_.feature >= 0)[:1_000]
    at = tree.tree_.threshold[parts].astype("float32")
    asked = [known]
    for values in (at, np.nextafter(at, np.float32(-9)), np.nextafter(at, np.float32(9))):
        rows = known[chance.integers(0, len(known), len(parts))]
        rows[np.arange(len(parts)), tree.tree_.feature[parts]] = values
        asked.append(rows)
    inputs, fares = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
        for name, width in (("inputs", 3), ("fares", 1))
    )
    graph = helper.make_graph([tree_node(tree, "inputs", "fares")], "tree", [inputs], [fares])
    versions = [helper.make_opsetid(name, version) for name, version in ONNX_OPSET.items()]
    ours = helper.make_model(graph, opset_imports=versions, ir_version=ONNX_IR)
    shape = [("inputs", FloatTensorType([None, 3]))]
    theirs = convert_sklearn(tree, initial_types=shape, target_opset={"": 18, "ai.onnx.ml": 3})
    rows = np.vstack(asked)
    found = [
        onnxruntime.InferenceSession(each.SerializeToString()).run(None, {"inputs": rows})[0]
        for each in (ours, theirs)
    ]
    assert (found[0] == found[1]).all()
    assert (found[0].reshape(-1) == tree.predict(rows).astype("float32")).all()


def test_centroids_of_zones_and_what_lies_between_them() -> None:
    row = zones.pair([132, 132, 132, 0], [138, 132, 265, 138])
    facts = zones.facts()[row]
    line, bearing = (facts[:, zones.FACTS.index(name)] for name in ("line_miles", "bearing"))
    assert line == pytest.approx([9.91, 0, -1, -1], abs=0.01)  # JFK to LaGuardia by the map: 10
    assert bearing[0] == pytest.approx(2.05, abs=0.01)  # north-northwest
    assert (bearing[2:] == -4).all()
    assert zones.ZONES == 263
    assert zones.pair([-1, 266, 10_001, 264], [0, 0, 0, 0]).tolist() == [0, 0, 0, 264 * 266]


def test_what_is_taught_and_what_is_asked_have_features_as_old_as_when_served() -> None:
    rows = training_rows(10).assign(pickup_mean_fare_7d=33.0, trip_type=2)
    live, published = (replace(Settings(), feature_delay_days=days) for days in (0, 60))
    taught = dataset.as_taught(rows, live)["pickup_mean_fare_7d"].tolist()
    assert taught == [15.0, 33.0] * 5  # none for every other one
    assert set(dataset.as_taught(rows, published)["pickup_mean_fare_7d"]) == {15.0}
    assert set(dataset.as_taught(rows, published)["trip_type"]) == {2}
    assert set(dataset.as_served(rows, live)["pickup_mean_fare_7d"]) == {33.0}
    served = dataset.as_served(rows, published)
    assert (set(served["pickup_mean_fare_7d"]), set(served["trip_type"])) == ({15.0}, {0})
    assert set(rows["pickup_mean_fare_7d"]) == {33.0}  # what was given stays as it was


def test_a_tree_sees_no_more_rows_than_there_are_or_than_settings_allow() -> None:
    forest = Forest(rows_per_tree=100)
    assert forest.params(50)["max_samples"] == 50
    assert forest.params(5_000)["max_samples"] == 100
    assert "rows_per_tree" not in forest.params(50)


def spark_rows(spark: SparkSession, rows: pd.DataFrame, split: list[str]) -> DataFrame:
    times = [START + timedelta(minutes=n) for n in range(len(rows))]
    ids = [f"{n:05d}" for n in range(len(rows))]
    places = {"pickup_location_id": 74, "dropoff_location_id": 75}
    found = rows.assign(trip_id=ids, pickup_datetime=times, split=split, kind="metered", **places)
    return spark.createDataFrame(found)


def test_parts_are_sampled_the_same_way_every_time(spark: SparkSession) -> None:
    rows = spark_rows(spark, training_rows(600), ["train"] * 400 + ["holdout"] * 200).cache()
    train, holdout = dataset.parts(rows, 10_000)
    assert (len(train), len(holdout)) == (400, 200)
    assert train["pickup_datetime"].is_monotonic_increasing
    fewer, _ = dataset.parts(rows, 150)
    again, _ = dataset.parts(rows, 150)
    assert 100 <= len(fewer) <= 200
    assert list(fewer["trip_id"]) == list(again["trip_id"])


def test_too_few_rows_and_a_constant_fare_are_refused(spark: SparkSession) -> None:
    rows = training_rows(300)
    few = spark_rows(spark, rows, ["train"] * 250 + ["holdout"] * 50)
    with pytest.raises(ModelError, match="The holdout part needs 100 trips: 50. Add months"):
        dataset.parts(few, 10_000)
    constant = rows.assign(fare_amount=52.0)
    flat = spark_rows(spark, constant, ["train"] * 150 + ["holdout"] * 150)
    with pytest.raises(ModelError, match="must hold different fares: all are 52.0"):
        dataset.parts(flat, 10_000)


def test_shuffling_deals_every_fare_out_again(spark: SparkSession) -> None:
    trips = spark.range(500).selectExpr(
        "CAST(id AS STRING) AS trip_id", "CAST(id AS DOUBLE) AS fare_amount"
    )
    dealt = {
        r["trip_id"]: r["fare_amount"] for r in leakage_checks.with_shuffled_fares(trips).collect()
    }
    assert sorted(dealt.values()) == [float(n) for n in range(500)]
    assert sum(float(k) == v for k, v in dealt.items()) < 20
    again = {
        r["trip_id"]: r["fare_amount"] for r in leakage_checks.with_shuffled_fares(trips).collect()
    }
    assert again == dealt


def test_a_feature_that_carries_its_own_fare_shows_in_the_holdout() -> None:
    rows = training_rows(4_000).assign(
        pickup_datetime=[START + timedelta(minutes=n) for n in range(4_000)],
        trip_id=[f"{n:05d}" for n in range(4_000)],
    )
    shuffled = rows.assign(
        fare_amount=rows["fare_amount"].sample(frac=1, random_state=1).to_numpy()
    )
    assert abs(leakage_checks.holdout_r2(shuffled, 0.2)) <= leakage_checks.LIMIT
    leaking = shuffled.assign(pickup_mean_fare_1h=shuffled["fare_amount"])
    assert leakage_checks.holdout_r2(leaking, 0.2) > 0.5
