"""The main job from the command line: which assets, which months, what came out."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.definitions.job_base import IJob, InMemoryJob
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run

from databricks_steps import check_cache
from databricks_steps.errors import (
    ModelError,
    SettingsError,
    SourceError,
    TableError,
    TaxiError,
    reason,
)
from databricks_steps.months import spans
from databricks_steps.platforms.embedded import sail, session
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import DATABRICKS, SAIL, Settings
from databricks_steps.training import registry
from databricks_steps.trips import ingest
from databricks_steps.trips.sources import looked_at, require_months
from taxi_assets import dagster_instance, retention, status
from taxi_assets.definitions import build_defs
from taxi_assets.graph import BY_MONTH, JUDGING, PAYLOADS, SERVING, TRAINING, made_by
from taxi_assets.jobs import REPORTED, fare_pipeline
from taxi_assets.partitions import RANGE_TAGS, without
from taxi_assets.progress import progress
from taxi_assets.resources import run_cluster, step_launcher
from taxi_assets.resources.targets import Target, export
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk.service.jobs import BaseRun

FEATURES = made_by("pickup_features", "dropoff_features")
NOT_JUDGED = "A run judges its latest month; the champion learns from those before it."


@dataclass(frozen=True)
class Options:
    """What the command line asks for. `months` None: every month the source holds."""

    months: tuple[str, ...] | None = None
    skip_features: bool = False
    force_features: bool = False
    skip_training: bool = False


class PipelineError(TaxiError):
    """A stage or a blocking check failed."""


def run(target: Target, options: Options, report: dict[str, Any]) -> None:
    """Run the main job; `report` gets the contents of `last_run.json`, which is written, too.

    Raises:
        TaxiError: something needed is missing, a stage failed, or a blocking check did.
    """
    settings, started = target.settings, time.monotonic()
    report |= {"status": "failed", "source": settings.source}
    with dagster_instance.only_run(settings):
        on_databricks = settings.platform == DATABRICKS
        months = _named(target, options) if on_databricks else _prepared(settings, options)
        origin = "tables at hand" if options.skip_features else settings.source
        place = target.name if on_databricks else str(settings.home)
        progress.say(f"{origin}, {months[0]} to {months[-1]}, in {place}")
        report |= {"source": origin, "months": list(months)}
        if absent := sorted({*(options.months or ())} - {*months}):
            progress.say(f"  {origin} has no trips of {', '.join(absent)}")
        try:
            _materialize(target, options, months)
            report["status"] = "success"
        except TaxiError as error:
            report["error"] = str(error)
            raise
        finally:
            report |= status.results(settings, months, progress)
            report["seconds"] = round(time.monotonic() - started, 1)
            status.write(settings, report)


def _prepared(settings: Settings, options: Options) -> tuple[str, ...]:
    """The months of a run on this machine, whose processes are started beside."""
    from taxi_assets.emulator import process  # no part of the wheel

    _preflight(settings, options)
    if options.force_features:
        shutil.rmtree(settings.home / check_cache.FOLDER, ignore_errors=True)
    months, new = _months(settings, options)
    process.require_port(settings)
    threading.Thread(target=_serve, args=(settings,), daemon=True).start()
    if new or options.force_features:
        # The engine starts beside the rest; where nothing is new it may not be needed at all.
        # Imports do not: two threads that import the same packages can see them half made.
        import pyspark.sql  # noqa: F401

        threading.Thread(target=session.prepare, args=(settings,), daemon=True).start()
    return months


def _named(target: Target, options: Options) -> tuple[str, ...]:
    """The months of a run on Databricks, and whether its workspace answers at all.

    Raises:
        SettingsError: no months are named, or the workspace does not know who asks.
    """
    if options.months is None:
        raise SettingsError(
            "A run on Databricks names its months", target.name, "Say --months 2022-01:2022-03"
        )
    Workspace(target.settings).user()
    return options.months


def _serve(settings: Settings) -> None:
    """Start the workspace early; a failure is met again by the stage that needs it."""
    from taxi_assets.emulator import process

    with suppress(TaxiError):
        process.ensure_running(settings)


def _preflight(settings: Settings, options: Options) -> None:
    """Everything that can be known to be missing before a minute of work."""
    if settings.in_jvm:
        session.require_java()
    elif settings.spark == SAIL:
        sail.size(settings.driver_memory)
    tables = status.logs(settings)
    if options.skip_features:
        empty = [name for name in ("trips", *FEATURES) if not tables.rows(name)]
        if empty:
            raise TableError(
                "--skip-features needs features", f"{empty[0]} is empty", "Run without it once"
            )
    if options.skip_training and registry.version(settings, registry.CHAMPION) is None:
        name = f"{settings.registered_model}@{registry.CHAMPION}"
        raise ModelError("--skip-training needs a model", f"no {name}", "Run without it once")


def _months(settings: Settings, options: Options) -> tuple[tuple[str, ...], bool]:
    """The months of the run, and whether the source holds anything new of them."""
    if options.skip_features:
        held = status.logs(settings).months("trips")
        chosen = [m for m in held if options.months is None or m in options.months]
        if not chosen:
            raise TableError(
                "--skip-features needs trips of the months",
                ", ".join(options.months or ()),
                f"The table trips holds {', '.join(held)}",
            )
        return tuple(chosen), False
    platform = EmbeddedPlatform(settings)
    found = looked_at(settings.source, options.months, settings, lambda: platform.spark)
    try:
        require_months(found, options.months)
    except SourceError:
        if found.refused and not found.files:
            ingest.recorded(platform.tables, found)  # no step will
        raise
    return found.months, bool(ingest.planned(platform.tables, found).stale)


def _materialize(target: Target, options: Options, months: Sequence[str]) -> None:
    by_month = () if options.skip_features else BY_MONTH
    training = () if options.skip_training else TRAINING
    forced = {name: {"config": {"force": True}} for name in FEATURES if options.force_features}
    *earlier, last = spans(months)
    job = _job(target)
    parts = [(by_month, span, forced) for span in earlier if by_month]
    parts.append(((*by_month, *training, *SERVING), last, forced))
    # Predictions are for the latest month alone; the earlier ones taught the model.
    parts.append(((*JUDGING, *PAYLOADS), last[-1:], {}))
    progress.planned = sum(len(_subset(job, assets).nodes) for assets, _, _ in parts)
    with dagster_instance.instance(target.settings) as found, run_cluster.SHARED.held():
        _end_leftovers(target, found)
        dagster_instance.hold_months(target.settings, found, months)
        for assets, span, config in parts:
            if assets[0] in JUDGING:
                without(found, assets, months[:-1], NOT_JUDGED)
            _execute(job, found, assets, span, config)
        dagster_instance.hold_months(target.settings, found)  # real trips replace those of demo
        retention.apply(target.settings, found)


def end_leftovers(target: Target) -> None:
    """Cancel the launched steps of runs that are over, this process's own among them.

    Nobody waits for their end: the run would see its step fail, and tell people that.

    Raises:
        PipelineError: the workspace does not let one be cancelled.
    """
    if target.cluster is not None:
        with dagster_instance.instance(target.settings) as found:
            _end_leftovers(target, found, wait=False)


def _end_leftovers(target: Target, found: dg.DagsterInstance, *, wait: bool = True) -> None:
    """End what killed runs have left: open records, and launched steps that are still at work.

    Nobody hears those any more, and two would write.

    Raises:
        PipelineError: one does not end, or the workspace does not let it be cancelled.
    """
    dagster_instance.close_killed_runs(target.settings, found)
    if target.cluster is None:
        return
    from databricks.sdk.errors import OperationFailed
    from databricks.sdk.errors.base import DatabricksError

    jobs = Workspace(target.settings).client.jobs
    try:
        active = list(jobs.list_runs(active_only=True, expand_tasks=True))
        for run in active:
            if run.run_id is not None and _is_leftover(run, found):
                cancelled = jobs.cancel_run(run.run_id)
                with suppress(OperationFailed):  # it has ended, in a way of its own
                    if wait:
                        cancelled.result()
    except (DatabricksError, OSError, TimeoutError) as error:
        raise PipelineError(
            "Steps that a killed run has left at work must end",
            reason(error),
            "Cancel them in the workspace, then run again",
        ) from error


def _is_leftover(run: BaseRun, found: dg.DagsterInstance) -> bool:
    """Whether a run is a step of a Dagster run that has ended, on whichever cluster it is."""
    for task in run.tasks or []:
        number = ""
        if task.spark_python_task is not None:
            step = PurePosixPath(task.spark_python_task.python_file).parent  # where it is staged
            number = step.parent.name
        elif task.python_wheel_task is not None:
            number = (task.python_wheel_task.parameters or [""])[0]
        dagster_run = found.get_run_by_id(number)
        if dagster_run is not None and dagster_run.is_finished:
            return True
    return False


def _job(target: Target) -> IJob:
    """The whole pipeline; by reference where its steps are launched: others make it anew."""
    if target.cluster is None or target.cluster.is_serverless:
        return InMemoryJob(build_defs(target).resolve_job_def(fare_pipeline.name))
    export(target.settings.to_environment() | {"TAXI_TARGET": target.name})
    step_launcher.LISTENERS[:] = [progress.record]
    repository = ReconstructableRepository.for_module("taxi_assets.definitions", "from_environment")
    return repository.get_reconstructable_job(fare_pipeline.name)


def _execute(
    job: IJob,
    found: dg.DagsterInstance,
    assets: Sequence[str],
    months: Sequence[str],
    config: Mapping[str, Any],
) -> None:
    tags = {RANGE_TAGS[0]: months[0], RANGE_TAGS[1]: months[-1]}
    run_config = {
        "loggers": {"stages": {}},
        "ops": {name: each for name, each in config.items() if name in assets},
    }
    chosen = _subset(job, assets)
    run = dagster_instance.create_run(found, job, chosen, tags, run_config)
    result = execute_run(job, run, found)
    if not result.success:
        raise _failure(result)


def _subset(job: IJob, assets: Sequence[str]) -> dg.JobDefinition:
    """The job of these assets and their checks alone."""
    keys = frozenset(dg.AssetKey(name) for name in assets)
    whole = job.get_definition()
    return whole.get_subset(asset_selection=keys, asset_check_selection=_checks(whole, keys))


def _checks(job: dg.JobDefinition, keys: Set[dg.AssetKey]) -> frozenset[dg.AssetCheckKey]:
    """The checks of the assets, but for those that wait for a report: they go with it."""
    reported = REPORTED if dg.AssetKey("drift_report") in keys else ()
    return frozenset(
        check
        for check in job.asset_layer.asset_graph.asset_check_keys
        if check in reported or (check.asset_key in keys and check not in REPORTED)
    )


def _failure(result: dg.JobExecutionResult) -> TaxiError:
    """The one message of a failed run: the failed check, or what the failed step said."""
    if progress.failures:
        return PipelineError(
            "A blocking check failed", progress.failures[0], "See it in taxi-assets dev"
        )
    for event in result.all_events:
        if event.is_step_failure:
            return PipelineError(
                f"Stage {event.step_key} failed",
                dagster_instance.error_message(event.step_failure_data.error),
                "See the run in taxi-assets dev",
            )
    return PipelineError("The run failed", result.run_id, "See the run in taxi-assets dev")
