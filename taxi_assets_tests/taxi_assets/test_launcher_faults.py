"""What can go wrong while a step is launched: each ends well, or with a message a person reads."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from conftest_run import MONTHS, Home
from faulty_proxy import (
    GET,
    SUBMIT,
    AnsweredError,
    DroppedError,
    FaultyProxy,
    Request,
    behind_proxy,
    cancel,
    client,
    launch,
    orchestrator,
    runs,
    staged,
    tasks,
    word,
)

from databricks_steps.settings import STAGING_VOLUME
from taxi_assets import dagster_instance
from taxi_assets.resources.clusters import NODE_TYPES, SPARK_VERSION
from taxi_assets.resources.staging import RUNS, WHEELS, wheel
from taxi_assets_tests.waiting import until

pytestmark = pytest.mark.long  # each fault is a launched step, with a JVM

CANCEL = "/api/2.2/jobs/runs/cancel"
Proxied = tuple[Home, FaultyProxy, dict[str, str]]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, small_source: Path) -> Iterator[Proxied]:
    source = small_source / f"green_tripdata_{MONTHS[0]}.parquet"
    with behind_proxy(tmp_path_factory.mktemp("faults"), source) as found:
        yield found


@pytest.fixture(autouse=True)
def no_faults(proxied: Proxied) -> None:
    proxied[1].forget()


def test_a_busy_broken_and_absent_workspace_is_asked_again(proxied: Proxied) -> None:
    home, proxy, environment = proxied

    def fault(request: Request) -> None:
        if request.path == SUBMIT and request.number == 1:
            raise AnsweredError(429, "REQUEST_LIMIT_EXCEEDED", "quota")
        if request.path == GET and request.number == 2:
            raise AnsweredError(500, "INTERNAL_ERROR", "broken")
        if request.path == GET and request.number == 3:
            raise DroppedError
        if "files" in request.path and request.method == "PUT" and request.number == 1:
            raise AnsweredError(503, "TEMPORARILY_UNAVAILABLE", "away")

    proxy.fault = fault
    before = len(runs(home))
    assert launch(environment) == (0, "said: success")
    assert len(runs(home)) == before + 1  # submitted twice, run once
    assert staged(home) == []


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("FAILED", "Cluster 7 could not start: no more nodes of this type"),
        ("FAILED", "Library installation failed: no matching distribution for skops>=0.13"),
        ("CANCELED", "Run cancelled by somebody@example.com"),
    ],
)
def test_a_run_that_fails_says_databricks_reason_and_its_link(
    proxied: Proxied, result: str, reason: str
) -> None:
    home, proxy, environment = proxied

    def change(request: Request, answer: bytes) -> bytes:
        if request.path != GET or request.number < 3:
            return answer
        run = json.loads(answer)
        run["state"] = {
            "life_cycle_state": "INTERNAL_ERROR",
            "result_state": result,
            "state_message": reason,
        }
        return json.dumps(run).encode()

    proxy.change = change
    code, said = launch(environment)
    assert code == 1
    assert "The launched step raw_trips must succeed" in said
    assert reason in said
    assert f"#run/{runs(home)[0]['run_id']}" in said
    assert staged(home) == []


def test_a_refused_token_and_a_forbidden_volume_are_named(proxied: Proxied) -> None:
    home, proxy, environment = proxied
    for status, code, words in (
        (403, "PERMISSION_DENIED", "User does not have WRITE VOLUME on p03.e2e_demo_simon"),
        (401, "UNAUTHENTICATED", "Token is expired"),
    ):

        def fault(request: Request, given: tuple[int, str, str] = (status, code, words)) -> None:
            if "fs/files" in request.path and request.method == "PUT":
                raise AnsweredError(*given)

        proxy.fault = fault
        ended, said = launch(environment)
        assert ended == 1
        assert words in said
        assert staged(home) == []


def test_an_events_file_that_is_half_written_is_read_again(proxied: Proxied) -> None:
    home, proxy, environment = proxied
    cut: list[int] = []

    def change(request: Request, answer: bytes) -> bytes:
        if request.path.endswith("events.pkl") and len(answer) > 200 and len(cut) < 2:
            cut.append(len(answer))
            return answer[: len(answer) // 2]
        return answer

    proxy.change = change
    assert launch(environment) == (0, "said: success")
    assert len(cut) == 2
    assert staged(home) == []


def test_interrupting_dagster_cancels_the_run_and_ends_its_process(proxied: Proxied) -> None:
    home, proxy, environment = proxied
    launched = orchestrator(MONTHS[0], environment)
    until(lambda: ("GET", GET) in proxy.seen and tasks(home), 60)
    run_id = runs(home)[0]["run_id"]
    launched.send_signal(signal.SIGINT)
    with launched:
        launched.communicate(timeout=300)
    assert ("POST", CANCEL) in proxy.seen
    until(lambda: runs(home)[0]["state"].get("result_state") == "CANCELED", 30)
    assert runs(home)[0]["run_id"] == run_id
    until(lambda: not tasks(home), 15)
    assert staged(home) == []


def test_files_are_removed_when_a_cancelled_run_has_ended_and_not_before(
    proxied: Proxied,
) -> None:
    """A workspace that says yes to a cancel at once and gets round to it later, as Databricks'."""
    home, proxy, environment = proxied
    removed_at: list[str] = []

    def slow(request: Request) -> None:
        if request.path == CANCEL:
            threading.Timer(1.0, cancel, (home, json.loads(request.body)["run_id"])).start()
            raise AnsweredError(200, "", "")
        if request.method == "DELETE":
            removed_at.append(runs(home)[0]["state"]["life_cycle_state"])

    proxy.fault = slow
    launched = orchestrator(MONTHS[0], environment)
    until(lambda: ("GET", GET) in proxy.seen and tasks(home), 60)
    launched.send_signal(signal.SIGINT)
    with launched:
        launched.communicate(timeout=300)
    assert len(removed_at) >= 4
    assert set(removed_at) == {"TERMINATED"}
    assert staged(home) == []


def test_a_run_over_its_limit_is_ended_by_the_workspace_and_says_which(proxied: Proxied) -> None:
    home, _, environment = proxied
    code, said = launch(environment, TAXI_STEP_SECONDS="2")  # Spark alone takes longer to start
    print(said)
    assert code == 1
    assert "The launched step raw_trips must succeed within 2 seconds" in said
    assert "TIMEDOUT" in said
    assert "The run took more than 2 seconds" in said
    run = runs(home)[0]
    assert f"#run/{run['run_id']}" in said
    assert "allow more (TAXI_STEP_SECONDS)" in said
    assert run["timeout_seconds"] == 2
    assert run["state"]["result_state"] == "TIMEDOUT"
    assert tasks(home) == []
    assert staged(home) == []


def test_a_run_that_is_never_said_to_end_is_given_up_and_cancelled(proxied: Proxied) -> None:
    """The process hangs, the workspace knows no limit, and says RUNNING whatever happens."""
    home, proxy, environment = proxied

    def unlimited(request: Request) -> None:
        if request.path == SUBMIT:
            wanted = json.loads(request.body)
            assert wanted.pop("timeout_seconds") == 3
            request.body = json.dumps(wanted).encode()

    def running(request: Request, answer: bytes) -> bytes:
        if request.path != GET:
            return answer
        state = {"life_cycle_state": "RUNNING", "state_message": "In run"}
        run = json.loads(answer) | {"state": state}
        return json.dumps(run | {"tasks": [t | {"state": state} for t in run["tasks"]]}).encode()

    proxy.fault, proxy.change = unlimited, running
    launched = orchestrator(MONTHS[0], {**environment, "TAXI_STEP_SECONDS": "3"})
    until(lambda: tasks(home), 60)
    (task,) = tasks(home)
    os.kill(task, signal.SIGSTOP)
    code, said = word(launched)
    print(said)
    assert code == 1
    assert "The launched step raw_trips must succeed within 3 seconds" in said
    assert f"Run `{runs(home)[0]['run_id']}` took more than" in said
    assert f"#run/{runs(home)[0]['run_id']}" in said
    assert ("POST", CANCEL) in proxy.seen
    assert runs(home)[0]["state"]["result_state"] == "CANCELED"
    assert tasks(home) == []
    assert staged(home) == []


def test_who_may_see_a_run_is_told_to_the_workspace(proxied: Proxied) -> None:
    home, proxy, environment = proxied
    asked = {"TAXI_CLUSTER_PERMISSIONS": "group:ml=CAN_VIEW,user:a@b.c=CAN_MANAGE"}
    assert launch(environment, **asked) == (0, "said: success")
    (told,) = [r for r, _ in proxy.exchanged if r.path.startswith("/api/2.0/permissions/jobs/")]
    assert json.loads(told.body) == {
        "access_control_list": [
            {"group_name": "ml", "permission_level": "CAN_VIEW"},
            {"user_name": "a@b.c", "permission_level": "CAN_MANAGE"},
        ]
    }

    def refuse(request: Request) -> None:
        if request.path.startswith("/api/2.0/permissions/"):
            raise AnsweredError(403, "PERMISSION_DENIED", "only an owner grants")

    proxy.fault = refuse
    code, said = launch(environment, **asked)
    assert code == 1
    assert "only an owner grants" in said
    until(lambda: runs(home)[0]["state"].get("result_state") == "CANCELED", 30)
    until(lambda: not tasks(home), 15)
    assert staged(home) == []


def test_a_secret_is_read_where_the_step_runs_and_named_when_it_is_not_there(
    proxied: Proxied,
) -> None:
    home, _, environment = proxied
    code, said = launch(environment, TAXI_CLUSTER_SECRETS="ALERT_URL=taxi/alert-url")
    assert code == 1
    assert f"#run/{runs(home)[0]['run_id']}" in said
    assert "The emulator keeps no secrets: taxi/alert-url" in said
    assert staged(home) == []


@pytest.mark.parametrize("compute", ["run", "job", "existing"])
def test_what_a_killed_orchestrator_left_at_work_is_ended_by_the_next_run(
    proxied: Proxied, compute: str
) -> None:
    home, _, environment = proxied
    cluster = compute
    if compute == "existing":
        made = client(home).clusters.create(SPARK_VERSION, node_type_id=NODE_TYPES["azure"])
        cluster = str(made.response.cluster_id)
    environment = {**environment, "TAXI_COMPUTE": cluster}
    with orchestrator(MONTHS[0], environment) as killed:
        until(lambda: tasks(home), 60)
        killed.kill()
    (task,) = tasks(home)
    os.kill(task, signal.SIGSTOP)  # else it may have ended before anybody looks
    left = runs(home)[0]
    on = left["tasks"][0].get("existing_cluster_id")
    assert (on is None) == (compute == "job")
    assert (on == cluster) == (compute == "existing")
    assert len(staged(home)) >= 4
    again = orchestrator(MONTHS[0], environment)
    until(lambda: _life(home, left["run_id"]) == "TERMINATING", 60)
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
    wheels = folder.with_name(WHEELS)
    wheels.mkdir(exist_ok=True)
    for name, days in (("old.whl", 8), ("new.whl", 6)):
        (wheels / name).write_bytes(b"x")
        at = time.time() - days * 86_400
        os.utime(wheels / name, (at, at))
    assert launch(environment) == (0, "said: success")
    assert {each.name for each in wheels.iterdir()} == {"new.whl", wheel()[0]}
    assert sorted(each.name for each in folder.iterdir()) == ["at-work", "of-yesterday"]
    assert {file.parts[-3:] for file in staged(home)} == {
        ("at-work", "trips", "code.zip"),
        ("of-yesterday", "trips", "code.zip"),
    }
    for file in staged(home):
        file.unlink()
