"""One run at a time on a home: the command line's, and those with a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings
from databricks_steps.training import registry
from taxi_assets import dagster_instance
from taxi_assets.resources.platform import OWN_PROCESS

pytestmark = pytest.mark.slow  # runs in processes of their own
RUN = """
import sys
import dagster as dg
from pathlib import Path
from databricks_steps.settings import Settings
from taxi_assets import dagster_instance
from taxi_assets.resources.mlflow import mlflow_runs
from taxi_assets.resources.platform import OWN_PROCESS, platform, pyspark

settings = Settings(home=Path(sys.argv[1]))

@dg.op(required_resource_keys={"platform"})
def work(context):
    print("works", flush=True)
    sys.stdin.readline()

@dg.job(resource_defs={
    "platform": platform(settings), "pyspark": pyspark(settings), "mlflow": mlflow_runs(settings),
})
def job():
    work()

with dagster_instance.instance(settings) as found:
    print("starts", flush=True)
    tags = {OWN_PROCESS: "x"} if sys.argv[2] == "own" else {}
    print(job.execute_in_process(instance=found, tags=tags).success, flush=True)
"""


def start(home: Path, how: str = "own") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", RUN, str(home), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_run_of_the_daemon_waits_for_the_command_lines(settings: Settings) -> None:
    with dagster_instance.only_run(settings):
        run = start(settings.home)
        assert line(run) == "starts"
        time.sleep(3)
        with dagster_instance.instance(settings) as found:
            assert [each.tags.get(dagster_instance.PID_TAG) for each in found.get_runs()] == [None]
    assert line(run) == "works"
    with (
        pytest.raises(SettingsError, match=f"process {run.pid} holds"),
        dagster_instance.only_run(settings),
    ):
        pass
    with dagster_instance.instance(settings) as found:
        assert [each.tags[dagster_instance.PID_TAG] for each in found.get_runs()] == [str(run.pid)]
    run.communicate("\n")
    with dagster_instance.only_run(settings):
        pass


def test_a_run_of_the_daemon_that_is_killed_lets_go_and_is_closed(settings: Settings) -> None:
    run = start(settings.home)
    assert (line(run), line(run)) == ("starts", "works")
    run.kill()
    run.wait()
    with dagster_instance.only_run(settings), dagster_instance.instance(settings) as found:
        (closed,) = dagster_instance.close_killed_runs(settings, found)
        (record,) = found.get_runs()
        assert (record.run_id, record.status) == (closed, dg.DagsterRunStatus.FAILURE)


OPENED = """
import sys
import time
import dagster as dg
import mlflow
from pathlib import Path
from databricks_steps.settings import Settings
from databricks_steps.training import registry
from taxi_assets import dagster_instance

settings = Settings(home=Path(sys.argv[1]))

@dg.job
def job():
    pass

with dagster_instance.instance(settings) as found:
    made = [found.create_run_for_job(job, tags={dagster_instance.PID_TAG: "1"}) for _ in range(2)]
    with registry.tracked_run(settings, {dagster_instance.DAGSTER_RUN: made[0].run_id}):
        print(made[0].run_id, made[1].run_id, flush=True)
        time.sleep(600)
"""


def test_what_a_killed_run_had_only_just_opened_is_closed_in_dagster_and_in_mlflow(
    settings: Settings,
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", OPENED, str(settings.home)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    made = line(run).split()
    run.kill()
    run.wait()
    with registry.tracked_run(settings, {dagster_instance.DAGSTER_RUN: "another"}) as another:
        with dagster_instance.only_run(settings), dagster_instance.instance(settings) as found:
            assert sorted(dagster_instance.close_killed_runs(settings, found)) == sorted(made)
            assert {each.status for each in found.get_runs()} == {dg.DagsterRunStatus.FAILURE}
        client = registry.client(settings)
        experiment = client.get_experiment_by_name(settings.experiment)
        assert experiment is not None
        statuses = {
            r.info.run_id: r.info.status for r in client.search_runs([experiment.experiment_id])
        }
        assert statuses.pop(another) == "RUNNING"
        assert list(statuses.values()) == ["KILLED"]


def test_a_run_of_this_process_holds_no_lock_of_its_own(settings: Settings) -> None:
    run = start(settings.home, "plain")
    assert (line(run), line(run)) == ("starts", "works")
    with dagster_instance.only_run(settings):
        assert os.getpid() == int((settings.home / "run.lock").read_text())
    run.communicate("\n")
    assert OWN_PROCESS.startswith(".dagster/")


def test_a_home_made_before_gets_the_limit_and_a_persons_own_file_stays(
    settings: Settings,
) -> None:
    config = dagster_instance.dagster_home(settings) / "dagster.yaml"
    assert "max_concurrent_runs: 1" in config.read_text()
    config.write_text(dagster_instance.OWN[0])
    dagster_instance.dagster_home(settings)
    assert config.read_text() == dagster_instance.IN_SQLITE
    config.write_text("telemetry:\n  enabled: false\n")
    dagster_instance.dagster_home(settings)
    assert config.read_text() == "telemetry:\n  enabled: false\n"


def test_ticks_that_found_nothing_are_kept_for_a_day(tmp_path: Path) -> None:
    with dagster_instance.instance(Settings(home=tmp_path)) as found:
        kept = found.get_tick_retention_settings(InstigatorType.SENSOR)
    days = {status.value: kept[status] for status in kept if kept[status] > 0}
    assert days == {"SKIPPED": 1, "SUCCESS": 30, "FAILURE": 30}


def test_a_run_executed_again_is_not_taken_for_its_killed_parent(tmp_path: Path) -> None:
    """Dagster copies the tags of the parent, also the one of its process."""
    settings = Settings(home=tmp_path)

    @dg.job
    def nothing() -> None:
        pass

    with dagster_instance.instance(settings) as found:
        signed = {dagster_instance.PID_TAG: "1"}
        parent = found.create_run_for_job(nothing, tags=signed)
        assert dagster_instance.close_killed_runs(settings, found) == (parent.run_id,)
        ids = {"root_run_id": parent.run_id, "parent_run_id": parent.run_id}
        again = found.create_run_for_job(nothing, tags=signed, **ids)
        assert dagster_instance.close_killed_runs(settings, found) == ()
        found.add_run_tags(again.run_id, {dagster_instance.PID_TAG: "2"})
        assert dagster_instance.close_killed_runs(settings, found) == (again.run_id,)
