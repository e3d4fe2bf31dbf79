"""`endpoint_health_sensor`: told when the endpoint is down, and it starts nothing to look."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
from world import World

from databricks_steps.settings import Settings
from databricks_steps.training import registry
from taxi_assets.emulator import process
from taxi_assets.resources.workspace import Workspace
from taxi_assets_tests.taxi_assets.emulator import emulator_fixtures as homes

pytestmark = pytest.mark.slow  # an emulator of its own
NAME = "endpoint_health_sensor"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[World]:
    """A home with a port of its own; what runs on it is stopped at the end."""
    made = World(replace(Settings(), home=tmp_path / "home", port=homes.free_port()))
    yield made
    process.stop(made.settings)
    made.instance.dispose()


def serve(world: World) -> None:
    """A small model behind the endpoint."""
    import mlflow

    settings = world.settings
    registry.client(settings)  # it makes the databases
    mlflow.set_experiment(settings.experiment)
    homes.register(settings, homes.forest(1), settings.home / "files")
    for table in homes.TABLES:
        homes.write_features(settings, table, homes.feature_rows(table, [42, 74], [homes.START]))
    client = Workspace(settings).client
    homes.serve(homes.Workspace(settings, client, {}))


def deployed(world: World) -> None:
    world.instance.report_runless_asset_event(dg.AssetMaterialization("serving_endpoint"))


def test_a_workspace_that_was_never_started_stays_so_and_is_no_problem(own: World) -> None:
    for _ in range(3):
        assert own.said(NAME) == "the workspace is stopped: taxi-assets serve starts it"
    assert not process.status(own.settings).running
    assert own.alerts() == []


def test_an_endpoint_that_is_missing_is_a_problem_once_it_was_made(own: World) -> None:
    process.ensure_running(own.settings)
    name = own.settings.endpoint
    for _ in range(3):
        assert own.said(NAME) == f"{name} does not exist"
    assert own.alerts() == []
    deployed(own)
    assert own.said(NAME) == f"{name} does not exist (1 of 2 looks)"
    assert own.alerts() == []
    for _ in range(3):
        own = own.restarted()
        assert own.said(NAME) == f"{name} does not exist (2 of 2 looks)"
    assert own.alerts() == [("error", f"endpoint {name}")]


def test_an_endpoint_that_dies_is_told_and_resolved_when_it_is_back(own: World) -> None:
    serve(own)
    deployed(own)
    name, settings = own.settings.endpoint, own.settings
    assert own.said(NAME) == f"{name} is READY, NOT_UPDATING"

    process.stop(settings)  # by a person
    for _ in range(3):
        assert own.said(NAME) == "the workspace is stopped: taxi-assets serve starts it"
    assert not process.status(settings).running
    assert own.alerts() == []

    process.ensure_running(settings)
    assert own.said(NAME) == f"{name} is READY, NOT_UPDATING"
    pid = process.status(settings).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while process.status(settings).running:
        time.sleep(0.05)
    for look in (1, 2, 2):
        assert own.said(NAME) == (
            f"{name} is down: the workspace ended without a stop ({look} of 2 looks)"
        )
    assert own.alerts() == [("error", f"endpoint {name}")]

    process.ensure_running(settings)
    assert own.said(NAME) == f"{name} is READY, NOT_UPDATING"
    assert own.alerts()[1:] == [("resolved", f"endpoint {name}")]
