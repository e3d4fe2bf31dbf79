"""A home with registered models and feature tables, and a workspace that runs on one."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from databricks_steps import schemas
from databricks_steps.inference import feature_spec
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.settings import Settings
from taxi_assets.deployment import endpoint, online_store
from taxi_assets.emulator import process
from taxi_assets_tests.waiting import until

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

INPUTS = tuple(column.name for column in schemas.MODEL_INPUTS)
TABLES = (schemas.PICKUP_FEATURES, schemas.DROPOFF_FEATURES)
GRID = timedelta(minutes=15)
START = datetime(2022, 1, 31, 23, 30, tzinfo=timezone.utc)  # rows fall into January and February
ARROW = {"int": pa.int32(), "long": pa.int64(), "double": pa.float64(), "string": pa.string()}

TRIP = {
    "pickup_location_id": 74,
    "dropoff_location_id": 42,
    "trip_distance": 1.8,
    "pickup_datetime": "2022-02-01 08:30:00",
}


@dataclass(frozen=True)
class Home:
    """Settings of the home, and by version the pipeline behind each registered model."""

    settings: Settings
    pipelines: dict[str, Any]


def feature_rows(
    table: schemas.Table, locations: list[int], times: list[datetime], seed: int = 0
) -> pa.Table:
    """Rows of a feature table for every location at every time, with values that all differ."""
    random = np.random.default_rng(seed)
    keys = [(location, at) for at in times for location in locations]
    columns: dict[str, Any] = {}
    for column in table.columns:
        if column.name == "location_id":
            values: list[Any] = [location for location, _ in keys]
        elif column.name == "known_month":
            values = [f"{at:%Y-%m}" for _, at in keys]
        elif column.type == "timestamp":
            values = [at for _, at in keys]
        elif column.type == "double":
            values = (random.random(len(keys)) * 40).tolist()
        else:
            values = random.integers(0, 200, len(keys)).tolist()
        kind = pa.timestamp("us", "UTC") if column.type == "timestamp" else ARROW[column.type]
        columns[column.name] = pa.array(values, kind)
    return pa.table(columns)


def write_features(settings: Settings, table: schemas.Table, rows: pa.Table, **how: Any) -> None:
    write_deltalake(
        str(settings.table_path(table.name)),
        rows,
        partition_by=["known_month"],
        configuration={"delta.enableChangeDataFeed": "true"},
        **how,
    )


def forest(seed: int) -> Any:
    """A small fitted pipeline whose fares depend on every input."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline

    random = np.random.default_rng(seed)
    x = (random.random((600, len(INPUTS))) * 60).astype(np.float32)
    y = x @ random.random(len(INPUTS)) + seed
    return make_pipeline(RandomForestRegressor(n_estimators=20, random_state=seed)).fit(x, y)


def to_onnx(pipeline: Any, rows: int | None = None) -> bytes:
    """The graph of a pipeline; `rows` fixes how many it takes at a time."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    shape = [("inputs", FloatTensorType([rows, len(INPUTS)]))]
    graph = convert_sklearn(pipeline, initial_types=shape, target_opset={"": 18, "ai.onnx.ml": 3})
    return bytes(graph.SerializeToString())


def register(
    settings: Settings,
    pipeline: Any,
    folder: Path,
    described: FeatureSpec | None = None,
) -> str:
    """Log and register the pipeline with its graph and spec; answers the version."""
    import mlflow

    folder.mkdir(parents=True)
    graph, spec = folder / feature_spec.ONNX_FILE, folder / feature_spec.FILE
    graph.write_bytes(to_onnx(pipeline))
    spec.write_text((described or FeatureSpec.current(settings)).to_json())
    logged = mlflow.sklearn.log_model(
        pipeline,
        name="model",
        skops_trusted_types=["sklearn.tree._tree.Tree"],
        extra_files=[str(graph), str(spec)],
        registered_model_name=settings.registered_model,
        pip_requirements=[],
    )
    return str(logged.registered_model_version)


@dataclass(frozen=True)
class Workspace:
    """A running workspace on a home of its own, and a client of it."""

    settings: Settings
    client: WorkspaceClient
    pipelines: dict[str, Any]

    @property
    def token(self) -> str:
        return self.settings.token_file.read_text().strip()

    def restart(self) -> None:
        process.stop(self.settings)
        process.ensure_running(self.settings)


def kill(settings: Settings) -> None:
    """End a home's workspace as a power cut would."""
    pid = process.status(settings).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not process.status(settings).running)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(workspace: Workspace, version: str = "1") -> None:
    """Publish both feature tables and serve a version."""
    online_store.ensure_online_store(workspace.client, workspace.settings)
    for table in TABLES:
        online_store.publish(workspace.client, workspace.settings, table)
    endpoint.ensure_endpoint(workspace.client, workspace.settings, version, timeout=60)
