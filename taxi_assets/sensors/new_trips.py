"""`new_trips_sensor`: a month that lands is run once, then learned from where that is routine.

A file waits until it is whole; one that stays unreadable is told by name and blocks no other.
Months go one after another. What was asked for, and what came of it, is read from Dagster's runs,
so that the cursor holds no more than how the files looked last.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from databricks_steps.monitoring.triage import NONE, RETRAIN, SCHEMA
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import EMBEDDED
from databricks_steps.training import registry
from databricks_steps.trips import ingest
from databricks_steps.trips.files import is_hidden
from databricks_steps.trips.sources import Source
from taxi_assets import partitions
from taxi_assets.jobs import fare_pipeline, new_month, retrain
from taxi_assets.resources.delivery import alert_log
from taxi_assets.resources.targets import Target, Watch
from taxi_assets.sensors import cursors, runs
from taxi_assets.sensors.landing import (
    KIND,
    SHOWN,
    Sight,
    arrived,
    landing,
    look,
    memory,
    observations,
    whole_months,
)
from taxi_assets.sensors.publication import published

NAME = "new_trips_sensor"
ROUTINE = (NONE, SCHEMA)  # kinds of month after which learning goes on as usual


def new_trips_sensor(target: Target, watch: Watch) -> dg.SensorDefinition:
    """The sensor of this target's landing folder."""

    @dg.sensor(
        name=NAME,
        jobs=[new_month, retrain, fare_pipeline],
        minimum_interval_seconds=watch.seconds or runs.SECONDS,
        default_status=runs.default_status(watch),
        description="A month that lands is run once it is whole, and learned from when it is quiet",
    )
    def found(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = runs.instance_of(context)
        kept = cursors.read(context.cursor)
        before, asked = kept.get("files", {}), dict(kept.get("asked", {}))
        folder, log = landing(target), alert_log(target.settings, watch.addresses)
        seen = look(folder, before)
        here = arrived(seen, folder.source)
        known = {alert.subject for alert in log.problems() if alert.kind == KIND}
        log.record(observations(seen, known, folder.source))
        if here.files or here.unread:
            _write_ledger(target, here)
        ready = {month: (key, folder.source) for month, key in whole_months(seen).items()}
        held = instance.get_materialized_partitions(dg.AssetKey("raw_trips"))
        source = target.settings.source
        month = published(source, held, asked)
        if month is not None:
            ready.setdefault(month, (f"{month}:{source}", source))
        request, reasons = _next(instance, target, ready)
        if request or _is_added_in_ui(instance, target):
            partitions.hold(instance, runs.months_asked(request))
        reasons += _told([sight.waits for sight in seen if sight.waits and _is_file(sight)])
        reasons += _told([f"{file.name}: {file.problem}" for file in here.refused])
        return dg.SensorResult(
            run_requests=[request] if request else [],
            skip_reason=None if request else "; ".join(reasons) or f"{folder.source} has no trips",
            cursor=cursors.written({"files": memory(seen), "asked": asked}),
        )

    return found


def _is_added_in_ui(instance: dg.DagsterInstance, target: Target) -> bool:
    """Whether a month has come behind later ones, and no run may be looking at them now."""
    return not partitions.is_in_order(instance) and not runs.in_flight(instance, target)


def _is_file(sight: Sight) -> bool:
    return not is_hidden(sight.name) and not (sight.file and sight.file.passed)


def _told(reasons: Sequence[str]) -> list[str]:
    """The first of many reasons, and how many more there are."""
    more = len(reasons) - SHOWN
    return [*reasons[:SHOWN], *([f"and {more:,} more"] if more > 0 else [])]


def _write_ledger(target: Target, here: Source) -> None:
    """On this machine; on Databricks the run of a month writes it."""
    if target.settings.platform == EMBEDDED:
        ingest.recorded(EmbeddedPlatform(target.settings).tables, here)


def _next(
    instance: dg.DagsterInstance, target: Target, ready: Mapping[str, tuple[str, str]]
) -> tuple[dg.RunRequest | None, list[str]]:
    """The one run to ask for now, or why there is none."""
    if not ready:
        return None, []
    if busy := runs.in_flight(instance, target):
        return None, [busy]
    reasons: list[str] = []
    for month, (key, source) in sorted(ready.items()):
        asked = runs.asked_for(instance, NAME, key)
        if not asked:
            return _arrived(instance, target, month, key, source), []
        request, reason = _learned(instance, month, asked)
        if request is not None:
            return request, []
        reasons.append(f"{month}: {reason}")
    return None, reasons


def _arrived(
    instance: dg.DagsterInstance, target: Target, month: str, key: str, source: str
) -> dg.RunRequest:
    """The run of a month that is new. Where there is no model yet, it makes the first."""
    job = new_month if _has_champion(instance, target) else fare_pipeline
    return dg.RunRequest(
        run_key=key,
        job_name=job.name,
        tags=runs.month_tags(month),
        run_config={"ops": {"raw_trips": {"config": {"source": source}}}},
    )


def _has_champion(instance: dg.DagsterInstance, target: Target) -> bool:
    made = instance.get_latest_materialization_event(dg.AssetKey("champion_model"))
    return made is not None or registry.version(target.settings, registry.CHAMPION) is not None


def _learned(
    instance: dg.DagsterInstance, month: str, asked: Sequence[dg.DagsterRun]
) -> tuple[dg.RunRequest | None, str]:
    """The retrain after a month's run, or why there is none. `asked`: the run, newest first."""
    newest, first = asked[0], asked[-1]
    if newest.status != runs.STATUS.SUCCESS:
        told = f"{runs.named(newest)} is {newest.status.value}"
        return None, f"{told}; execute it again, or bring a new file"
    if first.job_name == fare_pipeline.name:
        return None, f"{runs.named(first)} made its model"
    if reason := _not_routine(runs.report_of(instance, asked, month)):
        return None, f"{runs.named(newest)}: {reason}"
    key = f"retrain:{first.run_id}"
    if done := runs.asked_for(instance, NAME, key):
        return None, f"{runs.named(done[0])} is {done[0].status.value}"
    held = max(instance.get_materialized_partitions(dg.AssetKey("trips")), default=month)
    if held > month:
        return None, f"no retrain for a month older than {held}"
    return dg.RunRequest(run_key=key, job_name=retrain.name, tags=runs.month_tags(month)), ""


def _not_routine(report: Mapping[str, Any] | None) -> str:
    """Why nothing learns from a month as a matter of course; empty when it does."""
    if report is None:
        return "it reported no drift_report"
    if report["kind"] in RETRAIN:
        return f"{report['kind']}, left to drift_retrain_sensor"
    return "" if report["kind"] in ROUTINE else f"{report['kind']}, nobody trains on it"
