"""What `taxi-assets status` tells of checks, sensors and problems, from a real Dagster instance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from dagster._core.scheduler.instigation import TickStatus
from test_sensor_alerting import NAME, run, sensor_state, ticked
from world import World

from databricks_steps.settings import Settings
from taxi_assets import status
from taxi_assets.resources.alerts import AlertLog


def test_a_home_where_nothing_ran_is_not_made_by_the_question(tmp_path: Path) -> None:
    settings = replace(Settings(), home=tmp_path / "none")
    found = status.watched(settings)
    none = {"problems": [], "acknowledged": 0, "dead_letters": 0}
    assert found == {"failing_checks": {}, "sensors": {}, **none}
    assert not settings.home.exists()
    assert status.watched_lines(found) == [
        "failing   no check",
        f"sensors   never ticked{status.UNWATCHED}",
        "problems  0 open",
    ]


def test_the_newest_evaluation_of_a_check_counts(world: World) -> None:
    run(world, "new_month", "2023-01", failing=["trips", "drift_report"])
    world.tick(NAME)
    found = status.watched(world.settings)
    assert set(found["failing_checks"]) == {"drift_report: triage", "trips: volume"}
    assert found["problems"] == [
        "check drift_report: triage 2023-01",
        "check trips: volume 2023-01",
    ]
    assert "failing   2 checks" in status.watched_lines(found)
    assert status.watched_lines(found)[-1] == "problems  2 open: taxi-assets alerts"
    log = AlertLog(world.settings)
    log.acknowledge(log.problems()[0].id, "somebody")
    assert status.watched(world.settings)["acknowledged"] == 1
    log.acknowledge(log.problems()[0].id, "somebody", seconds=-1)  # its time is over
    assert status.watched(world.settings)["acknowledged"] == 0
    run(world, "new_month", "2023-01")
    assert status.watched(world.settings)["failing_checks"] == {}


def test_the_last_tick_of_a_sensor_is_told(world: World) -> None:
    state = sensor_state(world, "new_trips_sensor")
    ticked(world, state, TickStatus.SUCCESS, 1_700_000_000.0)
    ticked(world, state, TickStatus.SKIPPED, 1_700_000_060.0)
    found = status.watched(world.settings)["sensors"]
    assert found == {
        "new_trips_sensor": {"at": "2023-11-14T22:14:20+00:00", "status": "skipped", "why": ""}
    }


def test_what_became_of_months_is_told_from_the_sensors_cursor() -> None:
    def tick(name: str, cursor: str | None) -> tuple[str]:
        status = {"__enum__": "TickStatus.SKIPPED"}
        body = {"job_name": name, "timestamp": 1_700_000_000.0, "status": status}
        return (json.dumps({**body, "cursor": cursor}),)

    told = {"version": 1, "months": {"2023-01": "concept drift: waits for its retrain"}}
    ticks = [tick("drift", json.dumps(told)), tick("other", "{}"), tick("third", "no json")]
    found = status.last_ticks(lambda *_: ticks)
    assert [each.get("months") for each in found.values()] == [told["months"], None, None]
    lines = status.watched_lines(
        {
            "failing_checks": {},
            "sensors": found,
            "problems": ["a", "b"],
            "acknowledged": 1,
            "dead_letters": 0,
        }
    )
    assert "  2023-01  concept drift: waits for its retrain" in lines
    assert lines[-1] == "problems  2 open, 1 acknowledged: taxi-assets alerts"
