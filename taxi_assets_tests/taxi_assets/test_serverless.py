"""`TAXI_COMPUTE=serverless`: every step is a call by Pipes, and makes the tables of `local`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest_run import MONTHS, Home, table_rows
from faulty_proxy import client, runs, tasks

from databricks_steps import schemas
from databricks_steps.settings import SAIL, STAGING_VOLUME
from databricks_steps.steps import STEPS
from taxi_assets import dagster_instance, pipeline
from taxi_assets.emulator import process
from taxi_assets.resources import staging
from taxi_assets.resources.remote import ENTRY_POINT
from taxi_assets.resources.targets import target
from taxi_assets_tests.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.alone]  # the whole pipeline, each step with an engine

PARITY = "serving_endpoint_train_serve_parity"  # the one check that reads the holdout with Spark
SERVERLESS = {"TAXI_COMPUTE": "serverless", "TAXI_SPARK": SAIL}


@pytest.fixture(scope="module")
def called(homes: Any, small_source: Path) -> Home:
    home: Home = homes("called")
    done = home.call("run", "--target", "loopback", "--source", str(small_source), **SERVERLESS)
    assert done.returncode == 0, done.stderr + done.stdout
    return home


def test_every_spark_step_is_a_task_of_the_wheel_in_an_environment_without_a_cluster(
    called: Home,
) -> None:
    found = runs(called)
    assert {run["run_name"].split(" ")[0] for run in found} == {*STEPS, PARITY}
    assert len(found) == len(STEPS) + 1
    assert list(client(called).clusters.list()) == []
    cluster = target("loopback", SERVERLESS).cluster
    assert cluster is not None
    for run in found:
        (task,), (environment,) = run["tasks"], run["environments"]
        assert run["state"]["result_state"] == "SUCCESS"
        assert task["python_wheel_task"]["entry_point"] == ENTRY_POINT
        assert task["environment_key"] == environment["environment_key"]
        assert not {"new_cluster", "existing_cluster_id", "cluster_instance"} & task.keys()
        wheel, *packages = environment["spec"]["dependencies"]
        assert wheel.endswith(staging.wheel()[0])
        assert len(packages) == len(cluster.libraries)
        assert [each for each in packages if each.startswith("dagster")] == [
            "dagster-pipes==1.13.27"
        ]


def test_the_tables_and_checks_are_those_of_target_local(
    called: Home, first_run: tuple[Home, Any]
) -> None:
    local, _ = first_run
    report, expected = called.last_run(), local.last_run()
    assert (report["status"], report["months"]) == ("success", list(MONTHS))
    assert report["checks"] == expected["checks"]
    assert report["tables"] == expected["tables"]
    for name in ("raw_trips", "trips", "quarantined_trips", "pickup_features", "dropoff_features"):
        computed = schemas.TABLES[name].computed
        assert table_rows(called, name, computed) == table_rows(local, name, computed), name
    assert report["model"]["metrics"] == pytest.approx(expected["model"]["metrics"])


def test_what_a_step_printed_is_in_the_log_of_the_run(called: Home) -> None:
    """MLflow warns where a model is logged."""
    assert any(t.startswith("fare_model ") and "UserWarning" in t for t in messages(called))


def messages(home: Home) -> list[str]:
    """Of the logs of every run."""
    with dagster_instance.instance(home.settings) as found:
        logs = [found.all_logs(run.run_id) for run in found.get_runs()]
    return [entry.user_message for log in logs for entry in log]


def test_a_wheel_is_all_that_is_left_on_the_volume(called: Home) -> None:
    settings = called.settings
    volume = called.path / "volumes" / settings.catalog / settings.schema / STAGING_VOLUME
    assert [file.name for file in volume.rglob("*") if file.is_file()] == [staging.wheel()[0]]


def test_a_step_that_fails_says_why_in_one_line_and_what_it_printed_is_in_the_log(
    called: Home,
) -> None:
    """The next training set reads trips whose files are no longer there."""
    table = called.settings.table_path("trips")
    files = [*table.rglob("*.parquet")]
    for file in files:
        file.rename(file.with_suffix(".gone"))
    try:
        again = ("run", "--target", "loopback", "--skip-features", "--months", "2022-01:2022-02")
        done = called.call(*again, **SERVERLESS)
    finally:
        for file in files:
            file.with_suffix(".gone").rename(file)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: Stage training_set failed: ")
    assert " is missing" in line
    (printed,) = [text for text in messages(called) if text.startswith("training_set 2022-01:")]
    assert "Traceback" in printed


@pytest.mark.parametrize("sign", ["SIGTERM", "SIGKILL"])
def test_what_a_run_has_at_work_is_cancelled_by_it_or_where_it_was_killed_by_the_next(
    homes: Any, small_source: Path, sign: str
) -> None:
    home: Home = homes(f"ended_{sign}")
    source = small_source / "green_tripdata_2022-01.parquet"
    with home.start("run", "--target", "loopback", "--source", str(source), **SERVERLESS) as run:
        until(lambda: home.settings.token_file.exists() and states(home) == ["RUNNING"], 120)
        if sign == "SIGKILL":  # else it may end by itself before the next run looks
            for task in tasks(home):
                os.kill(task, signal.SIGSTOP)
        run.send_signal(getattr(signal, sign))
        run.communicate(timeout=300)
    if sign == "SIGTERM":
        until(lambda: states(home) == ["CANCELED"], 30)
    else:
        assert states(home) == ["RUNNING"]
    where = target("loopback", {**home.environment, **SERVERLESS})
    with dagster_instance.instance(where.settings) as found:
        pipeline._end_leftovers(where, found)
    assert states(home) == ["CANCELED"]


def states(home: Home) -> list[str]:
    """Of the workspace's runs: the result where there is one."""
    found = [run["state"] for run in runs(home)] if process.status(home.settings).running else []
    return [state.get("result_state", state["life_cycle_state"]) for state in found]
