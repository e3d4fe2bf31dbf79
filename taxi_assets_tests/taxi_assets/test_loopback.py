"""Target `loopback`: every launched step is a run of the workspace, and makes the same tables."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest_run import MONTHS, Home, table_rows
from faulty_proxy import client, runs, tasks

from databricks_steps import schemas
from databricks_steps.settings import STAGING_VOLUME
from databricks_steps.steps import STEPS
from taxi_assets import dagster_instance
from taxi_assets.resources import staging
from taxi_assets.resources.targets import target
from taxi_assets_tests.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.alone]  # the whole pipeline, each step with a JVM

PARITY = "serving_endpoint_train_serve_parity"  # the one check that reads the holdout with Spark


@pytest.fixture(scope="module")
def launched(homes: Any, small_source: Path) -> Home:
    home: Home = homes("launched")
    done = home.call("run", "--target", "loopback", "--source", str(small_source))
    assert done.returncode == 0, done.stderr + done.stdout
    return home


def test_every_spark_step_is_a_task_of_the_one_cluster_of_the_run(launched: Home) -> None:
    found = runs(launched)
    steps = {*STEPS, PARITY}
    assert {run["run_name"].split(" ")[0] for run in found} == steps
    assert len(found) == len(steps)
    cluster = target("loopback").cluster
    assert cluster is not None
    (shared,) = client(launched).clusters.list()
    assert (shared.spark_version, shared.num_workers) == (cluster.spark_version, 1)
    assert (shared.node_type_id, shared.autotermination_minutes) == ("Standard_D4s_v3", 20)
    assert str(shared.cluster_name).startswith("taxi-assets ")
    assert shared.state is not None
    assert shared.state.value == "TERMINATED"
    wheel_name, _ = staging.wheel()
    for run in found:
        (task,) = run["tasks"]
        assert run["state"]["result_state"] == "SUCCESS"
        assert task["existing_cluster_id"] == shared.cluster_id
        assert re.fullmatch(r"\w+ 2022-0\d(:2022-0\d)?", run["run_name"])
        wheel, *others = task["libraries"]
        assert wheel["whl"].endswith(wheel_name)
        packages = [library["pypi"]["package"] for library in others]
        assert packages == list(cluster.libraries)
        assert not any("sdk" in package for package in packages)


def test_the_tables_are_those_of_target_local_row_for_row(
    launched: Home, first_run: tuple[Home, Any]
) -> None:
    local, _ = first_run
    report = launched.last_run()
    assert (report["status"], report["months"]) == ("success", list(MONTHS))
    assert report["checks"]["failed"] == 0
    for name in ("raw_trips", "trips", "quarantined_trips", "pickup_features", "dropoff_features"):
        computed = schemas.TABLES[name].computed
        assert table_rows(launched, name, computed) == table_rows(local, name, computed), name
    assert report["model"]["metrics"] == pytest.approx(local.last_run()["model"]["metrics"])


def test_nothing_is_left_on_the_volume_and_no_token_in_any_run(launched: Home) -> None:
    settings = launched.settings
    volume = launched.path / "volumes" / settings.catalog / settings.schema / STAGING_VOLUME
    left = [file.name for file in volume.rglob("*") if file.is_file()]
    assert left == [staging.wheel()[0]]
    token = settings.token_file.read_text().strip()
    assert token not in json.dumps(runs(launched))
    files = [file for file in launched.path.rglob("*") if file.is_file()]
    assert [f for f in files if token.encode() in f.read_bytes()] == [settings.token_file]


def test_what_ctrl_c_ends_is_ended_on_the_cluster_too(homes: Any, small_source: Path) -> None:
    home: Home = homes("stopped")
    words = ("run", "--target", "loopback", "--source", str(small_source), "--months", MONTHS[0])
    with home.start(*words) as process:
        until(lambda: tasks(home), 120)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 128 + signal.SIGINT, said
    assert said.splitlines()[-1].startswith("error: stopped by SIGINT")
    until(lambda: [run["state"].get("result_state") for run in runs(home)] == ["CANCELED"], 30)
    assert not tasks(home)
    with dagster_instance.instance(home.settings) as found:
        assert [run.status.value for run in found.get_runs()] == ["CANCELED"]
