"""One home with two registered model versions and two feature tables; servers on copies of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from databricks_steps.settings import Settings
from taxi_assets.deployment import online_store
from taxi_assets.emulator import process
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import (
    GRID,
    START,
    TABLES,
    Home,
    Workspace,
    feature_rows,
    forest,
    free_port,
    register,
    serve,
    write_features,
)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home servers start from: models 1 and 2 registered, both feature tables written."""
    import mlflow

    folder = tmp_path_factory.mktemp("workspace")
    settings = Settings(home=folder / "home")
    settings.home.mkdir()
    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)
    mlflow.create_experiment("test", artifact_location=settings.artifacts.as_uri())
    mlflow.set_experiment("test")
    pipelines = {}
    for seed in (1, 2):
        pipeline = forest(seed)
        pipelines[register(settings, pipeline, folder / f"model-{seed}")] = pipeline
    for seed, table in enumerate(TABLES):
        times = [START + GRID * step for step in range(5)]
        rows = feature_rows(table, [41, 42, 74, 75, 132, 166, 244], times, seed)
        write_features(settings, table, rows)
    return Home(settings, pipelines)


@pytest.fixture(scope="module")
def start(
    template: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Workspace]]:
    """Starts a workspace on a fresh copy of the template; stops them all in the module's end.

    Keyword arguments are settings.
    """
    started: list[Settings] = []

    def begin(**changes: Any) -> Workspace:
        home = tmp_path_factory.mktemp("copy") / "home"
        shutil.copytree(template.settings.home, home)
        settings = replace(template.settings, home=home, port=free_port(), **changes)
        started.append(settings)
        host = process.ensure_running(settings)
        client = online_store.workspace_client(host, settings.token_file.read_text().strip())
        return Workspace(settings, client, template.pipelines)

    yield begin
    for settings in started:
        process.stop(settings)


@pytest.fixture(scope="module")
def workspace(start: Callable[..., Workspace]) -> Workspace:
    """A running workspace, shared by the tests of a module."""
    return start()


@pytest.fixture(scope="module")
def served(workspace: Workspace) -> Workspace:
    """The module's workspace with both tables published and version 1 served."""
    serve(workspace)
    return workspace
