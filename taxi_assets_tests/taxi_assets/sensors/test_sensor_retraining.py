"""`drift_retrain_sensor`: retrains once for what drifted and stays so, and for nothing else."""

from __future__ import annotations

import time
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World

from taxi_assets.partitions import RANGE_TAGS
from taxi_assets.resources.targets import Target, Watch
from taxi_assets.sensors import retraining
from taxi_assets.sensors.retraining import Policy

pytestmark = pytest.mark.slow  # runs of Dagster
NAME = "drift_retrain_sensor"
OVER = [["2023-01-01", False], ["2023-01-08", True], ["2023-01-15", True], ["2023-01-22", True]]
DRIFT = {"kind": "concept drift", "windows": OVER, "model_version": "1"}


def report(world: World, month: str, **triage: Any) -> dg.DagsterRun:
    """A run of new_month for the month whose drift report says so."""
    world.tell(triage={month: triage})
    done = world.repository.get_job("new_month").execute_in_process(
        instance=world.instance, tags=dict.fromkeys(RANGE_TAGS, month)
    )
    run = world.instance.get_run_by_id(done.run_id)
    assert run is not None
    return run


@pytest.mark.parametrize("kind", ["concept drift", "covariate drift"])
def test_a_month_that_drifted_is_retrained_on_once(served: World, kind: str) -> None:
    assert served.said(NAME) == "no drift report yet"
    report(served, "2023-01", **{**DRIFT, "kind": kind})
    request = served.asked(NAME)
    assert (request.job_name, request.run_key) == ("retrain", "drift:2023-01:1")
    assert [request.tags[tag] for tag in RANGE_TAGS] == ["2023-01", "2023-01"]
    assert served.tick(NAME, keep=False).run_requests[0].run_key == "drift:2023-01:1"
    run = served.execute(NAME, request)
    for _ in range(5):
        served = served.restarted()
        assert served.said(NAME) == (
            f"2023-01, version 1: run {run.run_id[:8]} of retrain for 2023-01 "
            "was asked for, SUCCESS"
        )


@pytest.mark.parametrize("kind", ["none", "data problem", "upstream schema change"])
def test_other_kinds_are_no_reason(served: World, kind: str) -> None:
    report(served, "2023-01", **{**DRIFT, "kind": kind})
    assert served.said(NAME) == f"2023-01, version 1: {kind}: no retrain"


def test_no_champion_yet_is_said(world: World) -> None:
    report(world, "2023-01", kind="none", model_version="")
    assert world.said(NAME) == "2023-01, version none: none: no retrain"
    report(world, "2023-01", **DRIFT)
    assert world.said(NAME) == "2023-01, version 1: the report is stale: the champion is none"


def test_a_report_on_another_version_than_the_champion_is_stale(served: World) -> None:
    report(served, "2023-01", **DRIFT)
    served.champion(2)
    assert served.said(NAME) == "2023-01, version 1: the report is stale: the champion is 2"
    report(served, "2023-01", **{**DRIFT, "model_version": "2"})
    assert served.asked(NAME).run_key == "drift:2023-01:2"


def test_the_latest_month_counts_and_of_it_the_newest_report(served: World) -> None:
    report(served, "2023-01", **DRIFT)
    report(served, "2022-12", kind="none")
    assert served.asked(NAME).run_key == "drift:2023-01:1"
    report(served, "2023-01", kind="none")
    assert served.said(NAME) == "2023-01, version 1: none: no retrain"


def test_never_beside_another_run(served: World) -> None:
    report(served, "2023-01", **DRIFT)
    run = served.queue("new_month", dg.DagsterRunStatus.STARTED)
    assert served.said(NAME) == (
        f"2023-01, version 1: waits for run {run.run_id[:8]} of new_month, STARTED"
    )


def test_it_cools_down(served: World, monkeypatch: pytest.MonkeyPatch) -> None:
    report(served, "2023-01", **DRIFT)
    served.execute(NAME, served.asked(NAME))
    report(served, "2023-02", **DRIFT)
    assert served.said(NAME) == (
        "2023-02, version 1: cools down: a retrain was asked for 0.0 hours ago, of 24"
    )
    now = time.time()
    monkeypatch.setattr(retraining.time, "time", lambda: now + 24 * 3600 + 60)
    assert served.asked(NAME).run_key == "drift:2023-02:1"


def test_a_retrain_that_the_other_sensor_asked_for_does_not_cool_it(served: World) -> None:
    report(served, "2023-01", **DRIFT)
    other = dg.RunRequest("x", job_name="retrain", tags=dict.fromkeys(RANGE_TAGS, "2022-12"))
    served.execute("new_trips_sensor", other)
    report(served, "2023-01", **DRIFT)
    assert served.asked(NAME).run_key == "drift:2023-01:1"


def test_windows_that_come_and_go_are_no_reason(served: World) -> None:
    calm = [*OVER, ["2023-01-29", False]]
    report(served, "2023-01", **{**DRIFT, "windows": calm})
    assert served.said(NAME) == (
        "2023-01, version 1: concept drift, but the latest window, 2023-01-29, is under the limit"
    )
    report(served, "2023-01", **{**DRIFT, "windows": OVER[:3]})
    assert served.said(NAME) == (
        "2023-01, version 1: concept drift, but 2 of the last 3 windows over the limit, not 3"
    )


@given(st.lists(st.booleans(), max_size=12), st.integers(1, 6), st.integers(1, 6))
def test_hysteresis_by_brute_force(over: list[bool], k: int, n: int) -> None:
    windows = [[f"w{i}", each] for i, each in enumerate(over)]
    count = sum(1 for i, each in enumerate(over) if each and i >= len(over) - n)
    wanted = count >= k and over[-1]
    assert (Policy(k, n).against(windows) == "") == bool(wanted)


def test_no_windows_are_no_reason() -> None:
    assert Policy().against([]) == "0 of the last 0 windows over the limit, not 3"


def test_a_policy_can_be_given(served: World) -> None:
    sensor = retraining.drift_retrain_sensor(
        Target("local", served.settings), Watch(), Policy(over=1, windows=1)
    )
    report(served, "2023-01", **{**DRIFT, "windows": [["w", True]]})
    context = dg.build_sensor_context(served.instance, repository_def=served.repository)
    assert len(sensor.evaluate_tick(context).run_requests or ()) == 1
