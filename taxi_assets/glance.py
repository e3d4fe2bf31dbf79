"""What Dagster and the alerts of a home say at a glance: failing checks, sensors, open problems."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType

from databricks_steps.settings import Settings
from databricks_steps.training.registry import Version
from taxi_assets import instance
from taxi_assets.resources.alerts import AlertLog

EVALUATIONS = 2_000  # the newest of a home's history that are looked through


def watched(settings: Settings) -> dict[str, Any]:
    """`failing_checks` asset: check → reason; `sensors` name → last tick; `problems` open keys.

    Empty where Dagster has never run in this home, which is not made for the question.
    """
    if not (settings.home / "dagster" / "dagster.yaml").exists():
        return {"failing_checks": {}, "sensors": {}, "problems": []}
    with instance.instance(settings) as found:
        return {
            "failing_checks": failing_checks(found),
            "sensors": last_ticks(found),
            "problems": [problem.key for problem in AlertLog(settings).problems()],
        }


def failing_checks(found: dg.DagsterInstance) -> dict[str, str]:
    """Checks whose newest evaluation failed."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    records = found.get_event_records(dg.EventRecordsFilter(kind), limit=EVALUATIONS)
    newest: dict[str, Any] = {}
    for record in records:  # the newest first
        event = record.event_log_entry.dagster_event
        if event is not None:
            told = event.asset_check_evaluation_data
            newest.setdefault(f"{told.asset_key.to_user_string()}: {told.check_name}", told)
    return {
        name: told.description or "" for name, told in sorted(newest.items()) if not told.passed
    }


def last_ticks(found: dg.DagsterInstance) -> dict[str, dict[str, Any]]:
    """Sensor → when it last looked (UTC), with what result, and why it did nothing."""
    ticks = {}
    for state in found.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        newest = found.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        if newest:
            at = datetime.fromtimestamp(newest[0].timestamp, timezone.utc)
            ticks[state.instigator_name] = {
                "at": at.isoformat(timespec="seconds"),
                "status": newest[0].status.value.lower(),
                "why": newest[0].skip_reason or "",
            }
    return dict(sorted(ticks.items()))


def age_days(champion: Version) -> float:
    """Days since a version was registered."""
    at = datetime.fromtimestamp(champion.registered_at / 1000, timezone.utc)
    return (datetime.now(timezone.utc) - at).total_seconds() / 86_400


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    failing = [f"  {name}: {why}" for name, why in found["failing_checks"].items()]
    ticks = [
        f"  {name:<24}{tick['at']}  {tick['status']}  {tick['why']}".rstrip()
        for name, tick in found["sensors"].items()
    ]
    problems = found["problems"]
    return [
        f"failing   {len(failing)} checks" if failing else "failing   no check",
        *failing,
        "sensors" if ticks else "sensors   have not looked yet: taxi-assets dev starts them",
        *ticks,
        f"problems  {len(problems)} open{': taxi-assets alerts' if problems else ''}",
    ]
