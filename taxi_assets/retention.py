"""Once a day, after a run: what is old enough goes, so that a home without news does not grow.

How long things stay is in the settings: `keep_runs`, `keep_requests`, `keep_files`. What a model
has learned from, and the newest of everything in Dagster, stays for ever.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from databricks_steps import schemas
from databricks_steps.errors import ModelError, SettingsError
from databricks_steps.settings import EMBEDDED, Settings
from databricks_steps.training import reproduction
from taxi_assets import backup, status, vacuum
from taxi_assets.sensors import runs
from taxi_assets.status import DiskLog

DUE_SECONDS = 20 * 3600
BATCH = 500  # runs that are removed at once, at most
JUDGED_DAYS = 90  # trips are published 60 days late: then a request will not be judged any more
WEEK = timedelta(days=7)
MANY_FILES = 10  # more of a month than one
LOG_BYTES = 20 * 2**20
CUT_LOGS = ("workspace.log", "spark.log")
MATERIALIZED = "ASSET_MATERIALIZATION"
_LOG = logging.getLogger(__name__)


def apply(settings: Settings, instance: dg.DagsterInstance, *, due: bool = True) -> None:
    """Remove what is older than the settings keep; call it under the run lock.

    With `due` only if the last time is a day ago. A backup that is under way puts it off.
    """
    log = DiskLog(settings)
    if due and time.time() - log.last < DUE_SECONDS:
        return
    parts = [_prune_requests, _prune_files, _cut_logs] if settings.platform == EMBEDDED else []
    with suppress(SettingsError), backup.files_may_go(settings):
        _attempt(lambda: prune_runs(settings, instance))
        for part in parts:
            _attempt(partial(part, settings))
        log.note()


def _attempt(remove: Callable[[], object]) -> None:
    """The run has ended well: what cannot be removed stays another day, and is told."""
    try:
        remove()
    except Exception as error:
        _LOG.warning("what is old was not removed: %s", error)


def prune_runs(settings: Settings, instance: dg.DagsterInstance) -> int:
    """Remove the records of runs beyond the newest `keep_runs`; answers how many.

    A run stays that is not over, that a sensor asked for, or that has the newest materialization of
    an asset or partition, or the newest evaluation of a check.
    """
    if not settings.keep_runs:
        return 0
    over = instance.get_runs_count() - settings.keep_runs
    if over <= 0:
        return 0
    needed = _needed_runs(instance)
    records = instance.get_run_records(limit=min(over, BATCH), ascending=True)
    old = [r.dagster_run for r in records if r.dagster_run.is_finished]
    # What a sensor asked for by a key stays: without its record it would be asked for again.
    free = [run for run in old if runs.RUN_KEY not in run.tags]
    gone = [run.run_id for run in free if run.run_id not in needed]
    for run_id in gone:
        instance.delete_run(run_id)
        _remove_files(settings, run_id)
    _prune_evaluations(instance, gone)
    return len(gone)


def _remove_files(settings: Settings, run_id: str) -> None:
    """A run's own database in SQLite, emptied by now, and what its steps have printed."""
    home = settings.home / "dagster"
    for suffix in ("", "-wal", "-shm", "-journal"):
        (home / "history" / "runs" / f"{run_id}.db{suffix}").unlink(missing_ok=True)
    shutil.rmtree(home / "storage" / run_id, ignore_errors=True)


@contextmanager
def _events(instance: dg.DagsterInstance) -> Iterator[Any]:
    """A connection to the events of all runs, in SQLite or PostgreSQL."""
    storage: Any = instance.event_log_storage
    with storage.index_connection() as connection:
        yield connection


def _needed_runs(instance: dg.DagsterInstance) -> Set[str]:
    from dagster._core.storage.event_log.schema import (
        AssetCheckExecutionsTable as Checks,
    )
    from dagster._core.storage.event_log.schema import (
        SqlEventLogStorageTable as Events,
    )
    from sqlalchemy import func, select

    of_assets = (
        select(func.max(Events.c.id))
        .where(Events.c.dagster_event_type == MATERIALIZED)
        .group_by(Events.c.asset_key, Events.c.partition)
    )
    of_checks = (
        select(func.max(Checks.c.id))
        .where(Checks.c.evaluation_event.is_not(None))
        .group_by(Checks.c.asset_key, Checks.c.check_name, Checks.c.partition)
    )
    with _events(instance) as connection:
        rows = [
            *connection.execute(select(Events.c.run_id).where(Events.c.id.in_(of_assets))),
            *connection.execute(select(Checks.c.run_id).where(Checks.c.id.in_(of_checks))),
        ]
    return {run_id for (run_id,) in rows}


def _prune_evaluations(instance: dg.DagsterInstance, gone: list[str]) -> None:
    """The evaluations of checks of these runs: Dagster leaves them when a run is deleted."""
    from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable as Checks

    with _events(instance) as connection:
        connection.execute(Checks.delete().where(Checks.c.run_id.in_(gone)))


def _prune_requests(settings: Settings) -> None:
    """Captured requests of days that are old, and rows of those that no trip will judge any more.

    A week at a time: a month that has lost some of its days is looked through anew by the next run.
    """
    from deltalake import DeltaTable, WriterProperties

    if not settings.keep_requests:
        return
    raw, rows = settings.payload_table, schemas.ENDPOINT_PAYLOADS.name
    if (path := settings.table_path(raw)).exists():
        table, begin = DeltaTable(str(path)), _days_ago(settings.keep_requests)
        if _first_captured(table) < begin - WEEK:
            table.delete(f"request_date < '{begin}'")
    if (path := settings.table_path(rows)).exists():
        tables = status.logs(settings)
        trips = tables.months("trips") if tables.exists("trips") else []
        begin = _days_ago(max(JUDGED_DAYS, 2 * settings.keep_requests))
        old = [m for m in tables.months(rows) if m <= f"{begin:%Y-%m}" and m not in trips]
        table = DeltaTable(str(path))
        if old and _first_asked(table, old) < begin - WEEK:
            named = ", ".join(f"'{month}'" for month in old)
            table.delete(f"request_month IN ({named}) AND requested_at < '{begin} 00:00:00'")
        if len(table.file_uris()) - len(tables.months(rows)) >= MANY_FILES:
            # Each day adds files; one of them all, packed well, takes fewer bytes.
            table.optimize.compact(writer_properties=WriterProperties(compression="ZSTD"))


def _first_captured(table: Any) -> date:
    """The day of the oldest captured request, by the statistics of the log; today if none."""
    import pyarrow as pa

    actions = pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()
    if "min.request_date" not in actions.column_names:
        return _days_ago(0)
    found = [str(day) for day in actions["min.request_date"].to_pylist() if day is not None]
    return min(map(date.fromisoformat, found), default=_days_ago(0))


def _first_asked(table: Any, months: Sequence[str]) -> date:
    """The day of the oldest row of the months."""
    import pyarrow.compute as pc

    data = table.to_pyarrow_dataset([("request_month", "in", list(months))])
    oldest: datetime = pc.min(data.to_table(["requested_at"])["requested_at"]).as_py()
    return oldest.date()


def _days_ago(days: int) -> date:
    return (datetime.now(timezone.utc) - timedelta(days=days)).date()


def _prune_files(settings: Settings) -> None:
    if settings.keep_files and settings.warehouse.exists():
        try:
            needed = reproduction.table_versions(settings)
        except ModelError as error:  # a person has to look: taxi-assets vacuum says the same
            _LOG.warning("no data files are removed: %s", error)
            return
        vacuum.tables(settings, settings.keep_files, needed)


def _cut_logs(settings: Settings) -> None:
    """Of a log that is too large, all goes to `….1`; its server writes on into an empty file."""
    for name in CUT_LOGS:
        log: Path = settings.home / "logs" / name
        if log.exists() and log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{name}.1"))
            with log.open("r+b") as stream:
                stream.truncate(0)
