"""What sensors ask Dagster about runs: which are in flight, what came of those they asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import dagster as dg
from dagster._core.instance import InstanceRef
from dagster._serdes import deserialize_value, serialize_value

from databricks_steps.errors import SettingsError
from taxi_assets import dagster_instance as home
from taxi_assets.jobs import fare_pipeline, new_month, retrain
from taxi_assets.partitions import RANGE_TAGS, run_months
from taxi_assets.resources.targets import Target, Watch

SECONDS = 30  # between two looks of a sensor
RUN_KEY, ROOT, SENSOR = "dagster/run_key", "dagster/root_run_id", "dagster/sensor_name"
STATUS = dg.DagsterRunStatus
IN_FLIGHT = [
    STATUS.QUEUED,
    STATUS.NOT_STARTED,
    STATUS.STARTING,
    STATUS.STARTED,
    STATUS.CANCELING,
]


def instance_of(context: dg.SensorEvaluationContext) -> dg.DagsterInstance:
    """Dagster's records, opened once: a tick's own would read every migration of its storage."""
    ref = context.instance_ref
    return context.instance if ref is None else _opened(serialize_value(ref))


@lru_cache(maxsize=1)
def _opened(ref: str) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_ref(deserialize_value(ref, InstanceRef))


def default_status(watch: Watch) -> dg.DefaultSensorStatus:
    """What a sensor is until a person starts or stops it."""
    return dg.DefaultSensorStatus.RUNNING if watch.started else dg.DefaultSensorStatus.STOPPED


def month_tags(month: str) -> dict[str, str]:
    """The tags of a run for one month."""
    return dict.fromkeys(RANGE_TAGS, month)


def months_asked(request: dg.RunRequest | None) -> tuple[str, ...]:
    """The months of the run that a sensor asks for; none where it asks for none."""
    return run_months(request.tags) or () if request else ()


def months_of(run: dg.DagsterRun) -> str:
    """The months of a run as people write them: `2022-01`, `2022-01:2022-03`, or none."""
    months = run_months(run.tags) or ()
    return months[0] if len(months) == 1 else ":".join((months[0], months[-1])) if months else ""


def in_flight(instance: dg.DagsterInstance, target: Target) -> str:
    """The pipeline's run that is not over, in words; empty when there is none."""
    ours = {job.name for job in (fare_pipeline, new_month, retrain)}
    found = instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT))
    if target.cluster is None and any(home.PID_TAG in run.tags for run in found):
        try:  # who runs holds the lock: when it is free, what is open was killed
            with home.only_run(target.settings):
                home.close_killed_runs(target.settings, instance)
            found = instance.get_runs(dg.RunsFilter(statuses=IN_FLIGHT))
        except SettingsError:
            pass
    run = next((run for run in found if run.job_name in ours), None)
    return "" if run is None else f"waits for {named(run)}, {run.status.value}"


def named(run: dg.DagsterRun) -> str:
    """`run 1a2b3c4d of retrain for 2022-03`."""
    months = months_of(run)
    return f"run {run.run_id[:8]} of {run.job_name}" + (f" for {months}" if months else "")


def asked_for(instance: dg.DagsterInstance, sensor: str, key: str) -> list[dg.DagsterRun]:
    """The run a sensor asked for by that key and all that people made of it, newest first."""
    tags = {RUN_KEY: key, SENSOR: sensor}
    first = list(instance.get_runs(dg.RunsFilter(tags=tags)))
    if not first:
        return []
    again = instance.get_runs(dg.RunsFilter(tags={ROOT: first[-1].run_id}))
    known = {run.run_id for run in again}
    return [*again, *(run for run in first if run.run_id not in known)]


def report_of(
    instance: dg.DagsterInstance, runs: Sequence[dg.DagsterRun], month: str
) -> dict[str, Any] | None:
    """What the drift report of these runs says of a month: its triage."""
    for run in runs:
        records = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        for record in reversed(records):
            for found in triages(record.event_log_entry.asset_materialization):
                if found["month"] == month:
                    return found
    return None


def failed_checks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """The checks that failed in a run with severity error, with their reasons; empty of none."""
    records = instance.get_records_for_run(
        run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION
    ).records
    events = [record.event_log_entry.dagster_event for record in records]
    found = [event.asset_check_evaluation_data for event in events if event is not None]
    return "; ".join(
        f"{check.check_name}: {check.description}"
        for check in found
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
    )


def triages(event: dg.AssetMaterialization | None) -> list[dict[str, Any]]:
    """The triage of each month of a materialization of `drift_report`; none of anything else."""
    if event is None or event.asset_key != dg.AssetKey("drift_report"):
        return []
    every, last = (event.metadata.get(name) for name in ("triages", "triage"))
    values: Any = every.value if every is not None else [last.value if last is not None else None]
    return [value for value in values if isinstance(value, dict)]
