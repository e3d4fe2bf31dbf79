"""What a launch leaves when its orchestrator is killed, who removes it, and where steps lie."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from conftest_run import MONTHS, Home
from faulty_proxy import (
    FaultyProxy,
    behind_proxy,
    launch,
    orchestrator,
    runs,
    staged,
    tasks,
    until,
    word,
)

from databricks_steps.settings import STAGING_VOLUME
from taxi_assets import dagster_instance
from taxi_assets.resources.staging import RUNS

pytestmark = pytest.mark.long  # launched steps, each with a JVM

Proxied = tuple[Home, FaultyProxy, dict[str, str]]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> Iterator[Proxied]:
    source = small_source / f"green_tripdata_{MONTHS[0]}.parquet"
    with behind_proxy(tmp_path_factory.mktemp("leftovers"), source) as found:
        yield found


@pytest.fixture(autouse=True)
def no_faults(proxied: Proxied) -> None:
    proxied[1].forget()


@pytest.mark.parametrize("cluster", ["", "shared-cluster"])
def test_what_a_killed_orchestrator_left_at_work_is_ended_by_the_next_run(
    proxied: Proxied, cluster: str
) -> None:
    home, _, environment = proxied
    environment = {**environment, "TAXI_CLUSTER_ID": cluster}
    with orchestrator(MONTHS[0], environment) as killed:
        until(60, lambda: tasks(home))
        killed.kill()
    (task,) = tasks(home)
    os.kill(task, signal.SIGSTOP)  # else it may have ended before anybody looks
    left = runs(home)[0]
    assert left["tasks"][0].get("existing_cluster_id", "") == cluster
    assert len(staged(home)) >= 4
    again = orchestrator(MONTHS[0], environment)
    until(60, lambda: _life(home, left["run_id"]) == "TERMINATING")
    os.kill(task, signal.SIGCONT)
    code, said = word(again)
    assert (code, said) == (0, "said: success"), said
    assert _life(home, left["run_id"]) == "TERMINATED"
    assert [run["state"].get("result_state") for run in runs(home)][:2] == ["SUCCESS", "CANCELED"]
    assert tasks(home) == []
    assert staged(home) == []


def _life(home: Home, run_id: int) -> str:
    (found,) = [run for run in runs(home) if run["run_id"] == run_id]
    return str(found["state"]["life_cycle_state"])


def test_files_of_runs_that_are_over_and_of_launches_long_ago_are_removed(
    proxied: Proxied,
) -> None:
    home, _, environment = proxied
    settings = home.settings
    folder = home.path / "volumes" / settings.catalog / settings.schema / STAGING_VOLUME / RUNS
    states = {"over": dg.DagsterRunStatus.FAILURE, "at-work": dg.DagsterRunStatus.STARTED}
    with dagster_instance.instance(settings) as found:
        for run, state in states.items():
            found.add_run(dg.DagsterRun(job_name="fare_pipeline", run_id=run, status=state))
    for run, days in (("over", 0), ("at-work", 8), ("forgotten", 8), ("of-yesterday", 1)):
        step = folder / run / "trips"
        step.mkdir(parents=True)
        (step / "code.zip").write_bytes(b"x")
        at = time.time() - days * 86_400
        os.utime(folder / run, (at, at))
    assert launch(environment) == (0, "said: success")
    assert sorted(each.name for each in folder.iterdir()) == ["at-work", "of-yesterday"]
    assert {file.parts[-3:] for file in staged(home)} == {
        ("at-work", "trips", "code.zip"),
        ("of-yesterday", "trips", "code.zip"),
    }
    for file in staged(home):
        file.unlink()
