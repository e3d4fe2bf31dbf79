"""What Dagster's events say of checks, runs and sensors, as observations for the alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from sqlalchemy import select

from databricks_steps.trips import arrivals
from taxi_assets.dagster_instance import error_message
from taxi_assets.resources.alerts import Observation, Where, instant
from taxi_assets.runbook import TOLD_BY_TRIAGE, remedy
from taxi_assets.sensors import runs

if TYPE_CHECKING:
    from dagster._core.scheduler.instigation import InstigatorTick

CHECK = dg.DagsterEventType.ASSET_CHECK_EVALUATION
FAILED, SUCCEEDED = dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_SUCCESS
BATCH = 1_000  # events of each type that a tick handles
BLOCKED = "DagsterAssetCheckFailedError"
RUN_REMEDY = "Read the run's log, correct the cause, then execute the run again in Dagster"
TICK_REMEDY = "Read the tick in Dagster; the sensor goes on by itself once the cause is gone"


@dataclass(frozen=True)
class Batch:
    """Events in the order in which they were stored.

    The next batch begins after the event with the id `after`, which is of this run and time.
    """

    records: Sequence[dg.EventLogRecord]
    after: int
    identity: Sequence[str]
    more: bool


def events(instance: dg.DagsterInstance, after: int, identity: Sequence[str]) -> Batch:
    """The next events of checks and ended runs of all runs.

    They are asked of the storage's index, where one counter numbers the events of all runs; by
    Dagster's public call the storage of a laptop, a file for each run, forgets where it was.

    SQLite gives the ids of deleted newest events again, and a restored home begins at older ones.
    So where the event `after` is gone or is another, all are read again: alerts are not written
    twice.
    """
    storage = instance.event_log_storage
    assert isinstance(storage, SqlEventLogStorage)  # noqa: S101 - all of Dagster's own are
    if _identity(storage, after) != [*identity]:
        after = 0
    last = storage.get_maximum_record_id() or 0
    found: list[dg.EventLogRecord] = []
    for kind in (CHECK, FAILED, SUCCEEDED):
        asked = dg.EventRecordsFilter(kind, after_cursor=after, before_cursor=last + 1)
        records = SqlEventLogStorage.get_event_records(storage, asked, BATCH, ascending=True)
        if len(records) == BATCH:  # those of other types beyond wait for the next batch
            last = min(last, records[-1].storage_id)
        found += records
    kept = sorted((r for r in found if r.storage_id <= last), key=lambda r: r.storage_id)
    more = len(found) > len(kept) or len(kept) >= BATCH
    return Batch(kept, last, _identity(storage, last), more)


def _identity(storage: SqlEventLogStorage, number: int) -> list[str]:
    """The run and the time of the event with this id; empty where there is none."""
    columns = SqlEventLogStorageTable.c
    with storage.index_connection() as connection:
        row = connection.execute(
            select(columns.run_id, columns.timestamp).where(columns.id == number)
        ).first()
    return [str(value) for value in row] if row else []


@dataclass
class Reader:
    """Events as observations; it asks for each run once."""

    instance: dg.DagsterInstance
    ui: str
    runs: dict[str, dg.DagsterRun | None] = field(default_factory=dict)

    def read(self, record: dg.EventLogRecord) -> list[Observation]:
        """What an event says; nothing for a run whose failed check is told already."""
        entry, at = record.event_log_entry, instant(record.event_log_entry.timestamp)
        run = self._run(entry.run_id)
        event = entry.dagster_event
        if event is None:
            return []
        if event.event_type == CHECK:
            found = event.asset_check_evaluation_data
            if (found.asset_key.to_user_string(), found.check_name) in TOLD_BY_TRIAGE:
                return []
            if found.check_name == arrivals.READABLE and run and runs.SENSOR in run.tags:
                return []  # of the landing folder: the sensor tells it, a problem a cause
            return [self._check(found, run, entry.run_id, at)]
        return [] if run is None else self._ended(run, event, at)

    def _run(self, run_id: str) -> dg.DagsterRun | None:
        if run_id not in self.runs:
            self.runs[run_id] = self.instance.get_run_by_id(run_id) if run_id else None
        return self.runs[run_id]

    def _check(
        self, found: dg.AssetCheckEvaluation, run: dg.DagsterRun | None, run_id: str, at: str
    ) -> Observation:
        asset = found.asset_key.to_user_string()
        todo = remedy(asset, found.check_name)
        month = runs.months_of(run) if run else found.partition or ""
        link = f"{self.ui}/runs/{run_id}" if run else f"{self.ui}/assets/{asset}?view=checks"
        return Observation(
            "check",
            f"{asset}: {found.check_name}",
            found.passed,
            found.description or ("passes again" if found.passed else "failed"),
            at,
            Where(asset, month, link),
            severity=found.severity.value.lower(),
            remedy=todo.text,
            by_month=todo.by_month,
        )

    def _ended(self, run: dg.DagsterRun, event: dg.DagsterEvent, at: str) -> list[Observation]:
        root = (self._run(run.root_run_id) if run.root_run_id else None) or run
        where = Where("", runs.months_of(run), f"{self.ui}/runs/{run.run_id}")
        passed = event.event_type == SUCCEEDED
        told = f"{runs.named(run)} succeeded"
        if not passed:
            failures = self._failures(run)
            if failures and all(each.error_name == BLOCKED for each in failures):
                return []
            step = failures[0] if failures else None
            where = Where(step.step if step else "", where.month, where.link)
            reason = step.reason if step else _why(event)
            told = f"{runs.named(run)} failed{f' in {step.step}' if step else ''}: {reason}"
        seen = Observation("run", _subject(root), passed, told, at, where, remedy=RUN_REMEDY)
        return [seen]

    def _failures(self, run: dg.DagsterRun) -> list[StepFailure]:
        kind = dg.DagsterEventType.STEP_FAILURE
        records = self.instance.get_records_for_run(run.run_id, of_type=kind).records
        found = []
        for record in records:
            event = record.event_log_entry.dagster_event
            if event is not None:
                error = event.step_failure_data.error
                name = (error.cls_name if error else "") or ""
                found.append(StepFailure(event.step_key or "", name, error_message(error)))
        return found


@dataclass(frozen=True)
class StepFailure:
    """A step of a run that failed, by which error, and why."""

    step: str
    error_name: str
    reason: str


def tick(sensor: str, found: InstigatorTick, ui: str) -> Observation:
    """A sensor's tick that ended."""
    failed = found.is_failure
    told = f"{sensor} failed: {error_message(found.error)}" if failed else f"{sensor} ticks again"
    where = Where(link=f"{ui}/automation")
    at = instant(found.timestamp)
    return Observation("sensor", sensor, not failed, told, at, where, remedy=TICK_REMEDY)


def _subject(run: dg.DagsterRun) -> str:
    """What succeeds or fails: a job, or a part of it by its assets."""
    if run.asset_selection:
        keys = sorted(key.to_user_string() for key in run.asset_selection)
        name = "" if run.job_name.startswith("__") else f"{run.job_name} "
        return f"{name}({', '.join(keys)})"
    return run.job_name


def _why(event: dg.DagsterEvent) -> str:
    """Why a run failed in which no step did."""
    data: Any = event.event_specific_data
    error = getattr(data, "error", None)
    return error_message(error) if error else event.message or "no reason given"
