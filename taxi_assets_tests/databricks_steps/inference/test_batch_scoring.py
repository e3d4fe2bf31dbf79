"""Batch scoring gives every trip its own fare, the graph's, whatever order trips are taken in."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from databricks_steps import schemas
from databricks_steps.inference import batch, feature_spec
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.settings import Forest, Settings
from databricks_steps.training import fit, onnx_graph
from databricks_steps.training.dataset import INPUTS

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TYPES = {column.name: column.type for column in schemas.MODEL_INPUTS}
SCHEMA = ", ".join(["trip_id string", "trip_month string", *(f"{n} {TYPES[n]}" for n in INPUTS)])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose fares depend on every input, as a version is registered."""
    random = np.random.default_rng(5)
    frame = pd.DataFrame(random.lognormal(1, 0.7, (2_000, len(INPUTS))), columns=list(INPUTS))
    frame[schemas.LABEL] = frame[list(INPUTS)].to_numpy() @ random.random(len(INPUTS))
    made = fit.fit(frame, Forest(n_estimators=5))
    folder = tmp_path_factory.mktemp("scored") / feature_spec.FOLDER
    folder.mkdir()
    (folder / feature_spec.ONNX_FILE).write_bytes(onnx_graph.to_onnx(made))
    spec = FeatureSpec.current(Settings(home=folder)).to_json()
    (folder / feature_spec.FILE).write_text(spec)
    return folder.parent


def trip(place: int, value: float | None, **others: float | None) -> dict[str, Any]:
    """A trip with the same value in every input, but for others; whole numbers where they are."""
    row: dict[str, Any] = {"trip_id": f"trip-{place}", "trip_month": f"2022-{place % 12 + 1:02}"}
    for name in INPUTS:
        given = others.get(name, value)
        row[name] = given
        if given is not None and TYPES[name] in ("int", "long"):
            row[name] = int(given) if math.isfinite(given) and abs(given) < 2**31 else None
    return row


def test_each_trip_gets_the_fare_of_its_own_inputs(spark: SparkSession, model: Path) -> None:
    random = np.random.default_rng(6)
    odd = [None, math.nan, math.inf, -math.inf, -1.5, 0.0, -0.0, 1e-40, 1e30, 65_504.0]
    rows = [trip(place, value) for place, value in enumerate(odd)]
    rows += [trip(len(rows) + i, 3.0, trip_distance=v) for i, v in enumerate(odd)]
    rows += [trip(len(rows) + i, float(v)) for i, v in enumerate(random.lognormal(1, 1, 500))]
    frame = spark.createDataFrame([tuple(row.values()) for row in rows], SCHEMA).repartition(3)
    found = batch.with_predicted_fares(frame, model).toPandas().set_index("trip_id")
    assert len(found) == len(rows)
    graph = (model / feature_spec.FOLDER / feature_spec.ONNX_FILE).read_bytes()
    asked = pd.DataFrame(rows).astype(dict.fromkeys(INPUTS, "float64"))
    fares, _ = onnx_graph.onnx_predict(graph, asked)
    told = found.loc[asked["trip_id"]]
    np.testing.assert_allclose(told["predicted_fare"], fares, rtol=0, atol=1e-4)
    assert list(told["trip_month"]) == list(asked["trip_month"])
    assert len(set(np.round(fares, 4))) > 300  # the rows do tell one fare from another


def test_of_no_trips_there_are_no_fares(spark: SparkSession, model: Path) -> None:
    found = batch.with_predicted_fares(spark.createDataFrame([], SCHEMA), model)
    assert found.collect() == []
    assert found.columns == ["trip_id", "predicted_fare", "trip_month"]
