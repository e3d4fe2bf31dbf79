"""`drift_retrain_sensor`: retrains once for what drifted and stays so, and for nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import dagster as dg
import pytest
from world import World

from databricks_steps.training import registry
from taxi_assets import partitions, status
from taxi_assets.partitions import RANGE_TAGS
from taxi_assets.sensors import retraining

pytestmark = pytest.mark.slow  # runs of Dagster
NAME = "drift_retrain_sensor"
DRIFT = {"kind": "concept drift", "model_version": "1"}


def report(world: World, month: str, **triage: Any) -> dg.DagsterRun:
    """A run of new_month for the month whose drift report, of its assets alone, says so."""
    world.tell(triage={month: triage})
    done = world.repository.get_job("new_month").execute_in_process(
        instance=world.instance,
        asset_selection=[dg.AssetKey("drift_report")],
        tags=world.tags(month),
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


def test_a_month_that_is_gone_is_told_of_no_more(served: World) -> None:
    """As those of demo trips, where real ones have come."""
    report(served, "2022-12", kind="none")
    report(served, "2023-01", **DRIFT)
    partitions.hold(served.instance, (), gone=["2023-01"])
    assert served.said(NAME) == "2022-12, version 1: none: no retrain"
    partitions.hold(served.instance, (), gone=["2022-12"])
    assert served.said(NAME) == "no drift report yet"


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
    other = dg.RunRequest("x", job_name="retrain", tags=served.tags("2022-12"))
    served.execute("new_trips_sensor", other)
    report(served, "2023-01", **DRIFT)
    assert served.asked(NAME).run_key == "drift:2023-01:1"


def outcomes(world: World) -> dict[str, str]:
    world.tick(NAME)
    found: dict[str, str] = json.loads(world.cursors[NAME] or "{}")["months"]
    return found


def test_each_month_ends_in_a_retrain_a_refusal_or_a_question(served: World) -> None:
    report(served, "2022-11", kind="data problem")
    report(served, "2022-12", kind="none")
    refused = "data problem: refused, no retrain is asked for a month whose data are at fault"
    assert outcomes(served) == {"2022-11": refused}
    report(served, "2023-01", **DRIFT)
    assert outcomes(served)["2023-01"] == "concept drift: waits for its retrain"
    run = served.execute(NAME, served.asked(NAME))
    assert outcomes(served)["2023-01"] == (
        f"concept drift: retrain, run {run.run_id[:8]} of retrain for 2023-01 is SUCCESS"
    )
    served.champion(2)
    registry.tag(served.settings, "2", "months", "2022-12,2023-01")
    assert outcomes(served) == {
        "2022-11": refused,
        "2023-01": "concept drift: learned by version 2, the champion",
    }
    assert served.problems() == []
    # Learned together with newer months, and by now out of those that a version learns from.
    registry.tag(served.settings, "2", "months", "2023-02,2023-03")
    assert outcomes(served)["2023-01"] == (
        "concept drift: over, version 2, the champion, knows newer months"
    )
    registry.tag(served.settings, "2", "months", "2022-11,2022-12,2023-01")
    assert outcomes(served)["2022-11"].startswith("data problem: asks you: the champion has learn")


def test_a_retrain_that_broke_asks_a_person_until_it_is_over(served: World) -> None:
    report(served, "2023-01", **DRIFT)
    request = served.asked(NAME)
    served.tell(broken=["fare_model"], triage={"2023-01": DRIFT})
    run = served.execute(NAME, request)
    assert outcomes(served)["2023-01"] == (
        f"concept drift: asks you: run {run.run_id[:8]} of retrain for 2023-01 is FAILURE; "
        "execute it again"
    )
    assert served.problems() == ["month retrain 2023-01"]
    found = status.watched(served.settings)
    assert status.watched_lines(found)[-1] == "problems  1 open: taxi-assets alerts"
    served.champion(2)
    registry.tag(served.settings, "2", "months", "2023-01")
    outcomes(served)
    assert served.problems() == []


def test_a_month_that_a_newer_one_overtook_asks_a_person(served: World) -> None:
    report(served, "2023-01", **DRIFT)
    report(served, "2023-02", kind="none")
    assert outcomes(served) == {
        "2023-01": "concept drift: asks you: a newer month came before its retrain; "
        "taxi-assets run --months 2023-01"
    }
    report(served, "2023-01", kind="none", model_version="2")
    assert outcomes(served) == {"2023-01": "concept drift: over, version 2 finds none"}
    report(served, "2023-02", **DRIFT)
    served.champion(2)
    assert outcomes(served)["2023-02"] == (
        "concept drift: asks you: the champion is version 2 now; "
        "materialize drift_report of the month again"
    )
