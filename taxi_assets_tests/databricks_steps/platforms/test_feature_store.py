"""Models of the platform `databricks`: logged with their lookups, loaded back, scored alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import feature_engineering
import numpy as np
import pandas as pd
import pytest
from feature_engineering import FeatureEngineeringClient

from databricks_steps import schemas
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.features.request import FIELDS, with_request_features
from databricks_steps.inference import request
from databricks_steps.inference.feature_spec import FareInterval
from databricks_steps.inference.request import RequestError
from databricks_steps.inference.scorer import Scorer
from databricks_steps.platforms.databricks.feature_store import UnityFeatureStore
from databricks_steps.platforms.embedded.tables import DeltaTables
from databricks_steps.settings import DATABRICKS, REPOSITORY, Forest, Settings
from databricks_steps.training import dataset, registry
from databricks_steps.training.fit import fit
from databricks_steps.training.onnx_graph import onnx_predict, to_onnx
from databricks_steps.training.request_columns import RequestColumns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from sklearn.pipeline import Pipeline

FEATURES = [name for lookup in LOOKUPS for name in lookup.features]
# Sunday's last second, Monday's first, a Saturday, New Year's Eve.
PICKUPS = (
    datetime(2022, 2, 6, 23, 59, 59),
    datetime(2022, 2, 7),
    datetime(2022, 2, 12, 8, 15),
    datetime(2021, 12, 31, 23, 0),
)


@pytest.fixture
def client() -> Iterator[FeatureEngineeringClient]:
    with feature_engineering.installed() as found:
        yield found


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)  # MLflow's own place for artifacts is the folder it runs in
    return Settings(
        home=tmp_path,
        platform=DATABRICKS,
        experiment="/Shared/taxi-fare-test",
        tracking=f"sqlite:///{tmp_path / 'remote.db'}",
    )


def requests(rows: int) -> pd.DataFrame:
    chance = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "pickup_location_id": chance.integers(1, 266, rows).astype("int32"),
            "dropoff_location_id": chance.integers(1, 266, rows).astype("int32"),
            "pickup_datetime": [PICKUPS[n % len(PICKUPS)] for n in range(rows)],
            "trip_distance": chance.uniform(0.1, 30, rows),
            **{name: chance.uniform(0, 40, rows) for name in FEATURES},
        }
    )
    for column in (*schemas.PICKUP_FEATURES.features, *schemas.DROPOFF_FEATURES.features):
        if column.type != "double":
            frame[column.name] = frame[column.name].astype("int64")
    return frame.assign(fare_amount=3 + 2.5 * frame["trip_distance"])


@pytest.fixture(scope="module")
def training_set(spark: SparkSession) -> DataFrame:
    return with_request_features(spark.createDataFrame(requests(400))).cache()


@pytest.fixture(scope="module")
def pipeline(training_set: DataFrame) -> Pipeline:
    return fit(training_set.toPandas(), Forest(n_estimators=5, n_jobs=1))


def log(remote: Settings, pipeline: Pipeline, training_set: DataFrame) -> registry.Version:
    store = UnityFeatureStore(remote, DeltaTables(remote, lambda: training_set.sparkSession))
    interval = FareInterval(0.1, 0.9, 0.1, 1.0, 1.0, 0.8, 400)
    with registry.tracked_run(remote):
        return registry.log_version(
            remote,
            lambda arguments: store.log_model(pipeline, LOOKUPS, training_set, arguments),
            to_onnx(pipeline),
            interval,
            training_set.select(*dataset.INPUTS).limit(3).toPandas(),
            {registry.CHECKS: "passed", registry.MADE_FROM: "17"},
        )


def test_the_client_is_told_which_features_to_look_up_and_as_of_when(
    client: FeatureEngineeringClient, remote: Settings, pipeline: Pipeline, training_set: DataFrame
) -> None:
    version = log(remote, pipeline, training_set)
    assert (version.number, version.tags[registry.CHECKS]) == ("1", "passed")
    assert registry.made_from(remote, 17) == version
    assert registry.made_from(remote, 18) is None
    (asked,) = client.training_sets
    assert asked.df.columns == [*FIELDS, schemas.LABEL]
    pickup, dropoff = asked.feature_lookups
    assert pickup.table_name == "p03.e2e_demo_simon.pickup_features"
    assert (pickup.lookup_key, dropoff.lookup_key) == ("pickup_location_id", "dropoff_location_id")
    assert tuple(pickup.feature_names or ()) == LOOKUPS[0].features
    assert (pickup.timestamp_lookup_key, pickup.lookback_window) == (
        "pickup_datetime",
        timedelta(days=7),
    )
    assert pickup.default_values["pickup_mean_fare_7d"] == 15.0


def test_a_logged_model_scores_requests_as_the_served_graph_does(
    client: FeatureEngineeringClient, remote: Settings, pipeline: Pipeline, training_set: DataFrame
) -> None:
    import mlflow

    version = log(remote, pipeline, training_set)
    folder = registry.folder(remote, version.number)
    assert folder.parts[-3:] == registry.WRAPPED.parts
    asked = requests(50)
    wanted: Any = with_request_features(training_set.sparkSession.createDataFrame(asked))
    matrix = dataset.matrix(wanted.toPandas())
    graph = Scorer.load(folder).predict(matrix)
    inside = mlflow.pyfunc.load_model(str(folder)).predict(asked.drop(columns=[schemas.LABEL]))
    assert np.abs(np.asarray(inside) - graph).max() < 0.01
    assert np.abs(onnx_predict(to_onnx(pipeline), wanted.toPandas())[0] - graph).max() == 0


@pytest.mark.parametrize("numbers", ["integers", "floats", "texts for times"])
def test_an_endpoint_answers_rows_that_its_server_has_made_of_json_and_lookups(
    client: FeatureEngineeringClient,
    remote: Settings,
    pipeline: Pipeline,
    training_set: DataFrame,
    numbers: str,
) -> None:
    folder = registry.folder(remote, log(remote, pipeline, training_set).number)
    asked = requests(20).drop(columns=[schemas.LABEL])
    wanted: Any = with_request_features(training_set.sparkSession.createDataFrame(asked))
    fares = Scorer.load(folder).predict(dataset.matrix(wanted.toPandas()))
    rows: list[dict[str, Any]] = asked.to_dict("records")
    if numbers == "floats":  # of columns with a null among the rows
        rows = [{n: float(v) if isinstance(v, int) else v for n, v in row.items()} for row in rows]
    if numbers == "texts for times":
        rows = [row | {"pickup_datetime": f"{row['pickup_datetime']}"} for row in rows]
    answered = feature_engineering.answered(folder, rows)
    assert np.abs(np.asarray(answered) - fares).max() < 0.01


IMPOSSIBLE: dict[str, dict[str, Any]] = {
    "a location that is none": {"pickup_location_id": 0},
    "a fraction of one": {"dropoff_location_id": 4.5},
    "too far": {"trip_distance": 5_000.0},
    "backwards": {"trip_distance": -1.0},
    "long ago": {"pickup_datetime": "1999-12-31 00:00:00"},
    "no time": {"pickup_datetime": "noon"},
    "a type that is none": {"trip_type": 7},
}


def test_an_endpoint_refuses_what_the_emulator_refuses_in_the_same_words(
    client: FeatureEngineeringClient, remote: Settings, pipeline: Pipeline, training_set: DataFrame
) -> None:
    folder = registry.folder(remote, log(remote, pipeline, training_set).number)
    row = requests(1).drop(columns=[schemas.LABEL]).to_dict("records")[0]
    row |= {"pickup_datetime": f"{row['pickup_datetime']}"}
    assert feature_engineering.answered(folder, [row, row | {"trip_type": 2}])
    own = {name: row[name] for name in FIELDS}
    for what, wrong in IMPOSSIBLE.items():
        with pytest.raises(RequestError) as here:
            request.read({"dataframe_records": [own | {"trip_type": 1}, own | wrong]})
        with pytest.raises(Exception, match=re.escape(str(here.value))):
            feature_engineering.answered(folder, [row | {"trip_type": 1}, row | wrong])
        assert str(here.value).startswith("Row 1: "), what


def test_the_documents_tell_what_an_endpoint_there_cannot_refuse_or_tell(
    client: FeatureEngineeringClient, remote: Settings, pipeline: Pipeline, training_set: DataFrame
) -> None:
    import mlflow

    folder = registry.folder(remote, log(remote, pipeline, training_set).number)
    rows = [
        row | {"pickup_datetime": f"{row['pickup_datetime']}"}
        for row in requests(20).drop(columns=[schemas.LABEL]).to_dict("records")
    ]
    fares = feature_engineering.answered(folder, rows)
    found = {}
    for name, field in (("a looked-up feature", FEATURES[0]), ("an unknown field", "colour")):
        with pytest.raises(RequestError):
            request.read({"dataframe_records": [{n: rows[0][n] for n in FIELDS} | {field: 900}]})
        changed = [row | {field: 900} for row in rows]
        assert len(feature_engineering.answered(folder, changed)) == len(fares)
        inputs = RequestColumns().transform(pd.DataFrame(changed))
        taken = field in inputs and (inputs[field] == 900).all()
        found[name] = "taken in place of what is looked up" if taken else "ignored"
    model = mlflow.pyfunc.load_model(str(folder))
    for param in ("interval", "features"):
        answer = model.predict(pd.DataFrame(rows), params={param: True})
        found[f"`params.{param}`"] = "ignored" if answer.tolist() == fares else "answered"
    page = (REPOSITORY / "docs" / "databricks.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE))
    assert {name: told[name] for name in found} == found
    assert told["an impossible value"].startswith("refused, in the same words")


def test_a_logged_model_is_opened_without_running_what_it_brings(
    client: FeatureEngineeringClient, remote: Settings, pipeline: Pipeline, training_set: DataFrame
) -> None:
    folder = registry.folder(remote, log(remote, pipeline, training_set).number)
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert "model.skops" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_a_run_that_registered_nothing_is_named(remote: Settings) -> None:
    from databricks_steps.errors import ModelError

    with (
        registry.tracked_run(remote) as run,
        pytest.raises(ModelError, match=f"must have registered a version: run {run}, model p03"),
    ):
        registry.registered_by(remote, run)


def test_a_look_at_the_registry_makes_no_experiment(remote: Settings) -> None:
    assert registry.version(remote, registry.CHAMPION) is None
    assert registry.made_from(remote, 17) is None
    assert registry.client(remote).get_experiment_by_name(remote.experiment) is None
    with registry.tracked_run(remote):
        assert registry.client(remote).get_experiment_by_name(remote.experiment) is not None


def test_the_stand_in_refuses_what_the_client_does_not_know() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'lookback'"):
        feature_engineering.FeatureLookup(table_name="a.b.c", lookup_key="x", lookback=7)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="positional argument"):
        FeatureEngineeringClient().create_training_set(None, [], "fare_amount")  # type: ignore[misc]


def test_the_platform_uses_nothing_of_the_embedded_home(remote: Settings) -> None:
    plain = replace(remote, tracking="")
    assert (plain.mlflow_uri, plain.registry_uri) == ("databricks", "databricks-uc")
    assert plain.volume_home == Path("/Volumes/p03/e2e_demo_simon/dagster_staging/home")
