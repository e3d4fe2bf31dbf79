"""Dagster's own storage under TAXI_HOME, one run at a time, and runs that a kill left open."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import dagster as dg
from dagster._core.definitions.job_base import IJob
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.api import create_execution_plan
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.snap import snapshot_from_execution_plan

from databricks_steps import atomic_write
from databricks_steps.errors import SettingsError
from databricks_steps.months import is_month, this_month
from databricks_steps.settings import EMBEDDED, Settings, inherited
from databricks_steps.training import registry
from taxi_assets import partitions
from taxi_assets.resources.targets import POSTGRES
from taxi_assets.supervisor import LOCATION

OURS = ("databricks_steps.", "taxi_assets.")  # modules whose errors are written for people
REPOSITORY = "__repository__"  # of the code location, which holds one alone
PID_TAG = "taxi_assets/pid"
DAGSTER_RUN = "dagster_run_id"  # tag of an MLflow run, as dagster-mlflow calls it
_OPEN = [
    dg.DagsterRunStatus.NOT_STARTED,  # killed between the record and its first event
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]
_HELD: dict[Path, IO[str]] = {}  # run locks that this process holds
# Dagster is at home with this driver; SQLAlchemy would take another one for postgresql://.
SCHEME = "postgresql+psycopg2://"
_HEAD = """\
# Dagster's instance of this TAXI_HOME; everything else is Dagster's default{storage}.
nux:
  enabled: false
telemetry:
  enabled: false
"""
_QUEUE = """\
# Runs share tables, and Spark takes the whole machine: one after another.
concurrency:
  runs:
    max_concurrent_runs: 1
"""
_WATCHED = """\
# A run that never gets to work is told as failed. A retry is asked for by the run's own tag
# dagster/max_retries; a check that fails fails again, so only a run that was lost is retried.
run_monitoring:
  enabled: true
  start_timeout_seconds: 600
run_retries:
  enabled: true
  max_retries: 0
  retry_on_asset_or_op_failure: false
"""
_RETENTION = """\
# A tick that found nothing to do is a row of each sensor every half a minute.
retention:
  sensor:
    purge_after_days:
      skipped: 1
      success: 30
      failure: 30
"""
_UNUSED = """\
# Two daemons that look every few seconds for what no asset here has: automation conditions and
# freshness policies.
auto_materialize:
  enabled: false
  use_sensors: false
freshness:
  enabled: false
"""
_STORAGE = f"""\
storage:
  postgres:
    postgres_url:
      env: {POSTGRES}
"""
_HEADS = _HEAD.format(storage=" (SQLite)"), _HEAD.format(storage="") + _STORAGE
_PARTS = _QUEUE, _WATCHED, _RETENTION, _UNUSED  # in the order in which they came
IN_SQLITE, IN_POSTGRES = ("".join((head, *_PARTS)) for head in _HEADS)
# As this project writes it, or did before: replaced, unless a person changed it.
OWN = tuple("".join((head, *_PARTS[:n])) for head in _HEADS for n in range(len(_PARTS) + 1))


def dagster_home(settings: Settings) -> Path:
    """DAGSTER_HOME of this TAXI_HOME, made when missing.

    Raises:
        SettingsError: it cannot be written.
    """
    home = settings.home / "dagster"
    try:
        home.mkdir(parents=True, exist_ok=True)
        config = home / "dagster.yaml"
        wanted = IN_POSTGRES if inherited().get(POSTGRES) else IN_SQLITE
        if not config.exists() or config.read_text(encoding="utf-8") in {*OWN} - {wanted}:
            atomic_write.write(config, wanted)
    except OSError as error:
        raise SettingsError(
            "TAXI_HOME must be a folder that can be written",
            f"{settings.home}: {error.strerror}",
            "Set TAXI_HOME to another folder",
        ) from error
    return home


def instance(settings: Settings) -> dg.DagsterInstance:
    """Dagster's records of this home: in SQLite there, or in the PostgreSQL of the environment.

    Raises:
        SettingsError: the home cannot be written, or PostgreSQL cannot be used.
    """
    home = str(dagster_home(settings))
    url = inherited().get(POSTGRES)
    if not url:
        return dg.DagsterInstance.from_config(home)
    if not url.startswith(SCHEME):
        raise SettingsError(
            f"{POSTGRES} must begin with {SCHEME}",
            f"{url.partition(':')[0][:20]}:…",
            f"Write {SCHEME}USER:PASSWORD@HOST:5432/DATABASE",
        )
    try:
        from dagster_postgres.utils import DagsterPostgresException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise SettingsError(
            f"{POSTGRES} needs Dagster's storage for PostgreSQL",
            str(error),
            "Install the extra: pip install taxi-assets[postgres]",
        ) from error
    try:
        return dg.DagsterInstance.from_config(home)
    except (DagsterPostgresException, SQLAlchemyError) as error:
        first = str(error.__cause__ or error).strip().splitlines()[0]
        raise SettingsError(
            f"The PostgreSQL of {POSTGRES} must answer", first, "Start it, or correct the URL"
        ) from error


def hold_months(settings: Settings, found: dg.DagsterInstance, months: Iterable[str] = ()) -> None:
    """Let the partitions be the months that the home holds, those asked for, and these.

    Months of demo trips that real ones have replaced are none any more, and what people added in
    the UI that is no month, or not over.
    """
    made = found.get_materialized_partitions(dg.AssetKey("raw_trips"))
    held = _months_of_trips(settings) or made
    wrong = {
        each
        for each in found.get_dynamic_partitions(partitions.NAME)
        if not (is_month(each) and each < this_month())
    }
    gone = {*made, *wrong} - {*held, *months}
    partitions.hold(found, {*held, *months}, gone)


def _months_of_trips(settings: Settings) -> list[str]:
    """The months that the table of this machine's home holds."""
    if settings.platform != EMBEDDED:
        return []
    from databricks_steps.platforms.embedded.tables import DeltaTables

    def no_spark() -> Any:
        raise AssertionError("a table's log is read without Spark")

    return DeltaTables(settings, no_spark).months("raw_trips")


@contextmanager
def only_run(settings: Settings) -> Iterator[None]:
    """Hold the run lock of this home; it goes with the process, however that ends.

    Raises:
        SettingsError: another run holds it.
    """
    dagster_home(settings)
    path = settings.home / "run.lock"
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise SettingsError(
                "Only one run at a time may use a TAXI_HOME",
                f"process {lock.read().strip() or 'unknown'} holds {path}",
                "Wait for it, or set TAXI_HOME to another folder",
            ) from error
        _sign(path, lock)
        try:
            yield
        finally:
            del _HELD[path]


def create_run(
    found: dg.DagsterInstance,
    job: IJob,
    chosen: dg.JobDefinition,
    tags: Mapping[str, str],
    run_config: Mapping[str, Any],
) -> dg.DagsterRun:
    """Record a run of this process, of a subset of the code location's job.

    So the location's timeline shows it, and people can execute it again from there. Its months
    are partitions from now on.
    """
    partitions.hold(found, partitions.run_months(tags) or ())
    name = job.get_definition().name
    plan = create_execution_plan(chosen, run_config, instance_ref=found.get_ref(), tags=tags)
    location = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin(LOCATION), REPOSITORY)
    return found.create_run(
        job_name=name,
        run_id=None,
        run_config=run_config,
        status=None,
        tags={**tags, PID_TAG: str(os.getpid())},
        root_run_id=None,
        parent_run_id=None,
        step_keys_to_execute=plan.step_keys_to_execute,
        execution_plan_snapshot=snapshot_from_execution_plan(plan, chosen.get_job_snapshot_id()),
        job_snapshot=chosen.get_job_snapshot(),
        parent_job_snapshot=chosen.get_parent_job_snapshot(),
        asset_selection=chosen.asset_selection,
        asset_check_selection=chosen.asset_check_selection,
        resolved_op_selection=None,
        op_selection=None,
        remote_job_origin=RemoteJobOrigin(location, name),
        job_code_origin=job.get_python_origin() if isinstance(job, ReconstructableJob) else None,
        asset_graph=chosen.asset_layer.asset_graph,
    )


def hold(settings: Settings, run: dg.DagsterRun, found: dg.DagsterInstance | None) -> None:
    """Wait for the run lock and keep it until this process ends, which is there for the run alone.

    Its record gets the process's number, so that it can be told from one that was killed.
    """
    path = settings.home / "run.lock"
    if path in _HELD:
        return
    lock = path.open("a+")
    fcntl.flock(lock, fcntl.LOCK_EX)
    _sign(path, lock)
    if found is not None:
        found.add_run_tags(run.run_id, {PID_TAG: str(os.getpid())})


def _sign(path: Path, lock: IO[str]) -> None:
    """Say in a lock that is held who holds it."""
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    _HELD[path] = lock


def cancel_own_runs(settings: Settings) -> None:
    """Mark the runs of this process as canceled: it was told to stop."""
    with instance(settings) as found:
        tags = {PID_TAG: str(os.getpid())}
        own = found.get_runs(dg.RunsFilter(statuses=_OPEN, tags=tags))
        if own and settings.platform == EMBEDDED and (settings.home / "mlflow.db").exists():
            _end_tracked_runs(settings, {run.run_id for run in own})
        for run in own:
            found.report_run_canceled(run)


def close_killed_runs(settings: Settings, found: dg.DagsterInstance) -> tuple[str, ...]:
    """Mark runs whose process never ended them as failed; answers their ids.

    Call it under the run lock.
    """
    open_runs = found.get_runs(dg.RunsFilter(statuses=_OPEN))
    killed = [run for run in open_runs if _is_signed(found, run)]
    # MLflow's first: killed in between, the next run finds the Dagster run open and does both.
    if killed and settings.platform == EMBEDDED and (settings.home / "mlflow.db").exists():
        _end_tracked_runs(settings, {run.run_id for run in killed})
    for run in killed:
        found.report_run_failed(run, "The process that ran it was killed")
    return tuple(run.run_id for run in killed)


def _is_signed(found: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a process has said that it is at work on the run; a re-execution inherits tags."""
    parent = found.get_run_by_id(run.parent_run_id) if run.parent_run_id else None
    inherited_tag = parent.tags.get(PID_TAG) if parent is not None else None
    return run.tags.get(PID_TAG, inherited_tag) != inherited_tag


def _end_tracked_runs(settings: Settings, dagster_runs: Collection[str]) -> None:
    """Mark what these Dagster runs still have running in MLflow as killed."""
    client = registry.client(settings)
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        return
    for run in client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'"):
        if run.data.tags.get(DAGSTER_RUN) in dagster_runs:
            client.set_terminated(run.info.run_id, "KILLED")


def error_message(error: Any) -> str:
    """The line for people of an error that Dagster has kept, with its causes.

    Of the first of ours among the causes, else of the last of them.
    """
    message = "no reason given"
    while error is not None:
        message = error.message.strip() or message
        kind, _, text = message.partition(": ")
        if kind.startswith(OURS):
            return str(text)
        error = error.cause
    return str(message.splitlines()[0])
