"""The states of a run as Databricks tells them, and what whoever waits makes of each."""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from typing import Any

import pytest
from dagster_databricks.databricks import DatabricksError as RunError

from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.resources.clusters import Cluster
from taxi_assets.resources.remote import LaunchError, await_success
from taxi_assets.resources.serverless import _Client
from taxi_assets.resources.staging import Staging
from taxi_assets_tests.documents import databricks

RUNNING = {"life_cycle_state": "RUNNING"}
TERMINATING = {"life_cycle_state": "TERMINATING"}  # its result is told when it has terminated
IMPATIENT = Cluster(poll_seconds=0.01, timeout_seconds=0, grace_seconds=0)
SUCCEEDED = {"life_cycle_state": "TERMINATED", "result_state": "SUCCESS"}


def waited(*states: dict[str, str] | None, limit: float = 20) -> list[Any]:
    """Wait for a run that goes through these states; those that nobody has looked at."""
    told: list[Any] = [*states]

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        state = told.pop(0) if len(told) > 1 else told[0]
        return 200, {"run_id": 7} | ({"state": state} if state else {})

    with databricks(answers) as client:
        staging = Staging(client, Settings(platform=DATABRICKS))
        staging.wait_for_run_to_complete(logging.getLogger(__name__), 7, 0.01, limit)
    return told


@pytest.mark.parametrize(
    "unknown", [None, {"life_cycle_state": "WAITING_FOR_SOMETHING_NEW"}, TERMINATING]
)
def test_a_run_is_waited_for_until_its_result_is_told(unknown: dict[str, str] | None) -> None:
    assert waited(RUNNING, unknown, unknown, SUCCEEDED) == [SUCCEEDED]


def test_a_run_whose_result_is_never_told_is_given_up() -> None:
    with pytest.raises(RunError, match="took more than 0.1s"):
        waited(RUNNING, TERMINATING, limit=0.1)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"result_state": "FAILED", "state_message": "no nodes"}, "no nodes"),
        ({"result_state": "UPSTREAM_FAILED"}, "UPSTREAM_FAILED"),
        ({"result_state": "MAXIMUM_CONCURRENT_RUNS_REACHED"}, "MAXIMUM_CONCURRENT_RUNS_REACHED"),
        ({"result_state": "SUCCESS_WITH_FAILURES"}, "SUCCESS_WITH_FAILURES"),
        ({"life_cycle_state": "SKIPPED", "state_message": "another is active"}, "another is act"),
        ({"life_cycle_state": "INTERNAL_ERROR"}, "failed"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else "",
)
def test_a_run_that_did_not_succeed_is_an_error_with_its_result(
    state: dict[str, str], told: str
) -> None:
    with pytest.raises(RunError, match=told):
        waited(RUNNING, {"life_cycle_state": "TERMINATED"} | state)


@pytest.mark.parametrize(
    ("state", "told"),
    [({"state": {"life_cycle_state": "QUEUED"}}, "it is QUEUED"), ({}, "it is in no state")],
)
def test_a_run_that_never_begins_is_given_up(state: dict[str, Any], told: str) -> None:
    run = {"run_id": 7, "run_name": "call snapshot", "run_page_url": "https://x/#run/7", **state}
    with (
        databricks(lambda method, path, body: (200, run)) as client,
        pytest.raises(
            LaunchError, match=rf"must end within 0 seconds: {told} \(https://x/#run/7\)"
        ),
    ):
        await_success(client, 7, IMPATIENT)


def test_a_short_run_is_seen_soon_and_a_long_one_is_asked_for_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, looks = [0.0], list[float]()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda pause: clock.append(clock.pop() + pause))

    def answers(method: str, path: str, body: Any) -> tuple[int, Any]:
        looks.append(clock[0])
        return 200, {"state": SUCCEEDED if clock[0] >= 600 else RUNNING}

    with databricks(answers) as client:
        await_success(client, 7, Cluster(poll_seconds=5.0))
    gaps = [later - sooner for sooner, later in pairwise(looks)]
    assert gaps[0] == 0.5
    late = [gap - max(0.5, 0.1 * at) for gap, at in zip(gaps, looks, strict=False)]
    assert max(late) < 1e-9
    assert max(gaps) == 5.0
    assert len(gaps) < 160


def test_a_cancelled_run_that_never_ends_is_not_waited_for_without_end() -> None:
    with databricks(lambda method, path, body: (200, {"state": RUNNING})) as client:
        _Client(client, IMPATIENT, "folder")._poll_til_terminating(7)
