"""Everything Dagster loads: `build_defs(target)` is the only assembly."""

from __future__ import annotations

import dagster as dg

from taxi_assets import checks, jobs, progress
from taxi_assets.assets import serving, steps, trips
from taxi_assets.resources.mlflow import mlflow_runs
from taxi_assets.resources.platform import platform, pyspark
from taxi_assets.resources.step_launcher import step_launcher
from taxi_assets.resources.targets import Target, target
from taxi_assets.resources.workspace import workspace
from taxi_assets.sensors import sensors


def build_defs(chosen: Target | None = None) -> dg.Definitions:
    """The definitions of a target (default: the one the environment names)."""
    chosen = chosen or target()
    settings = chosen.settings
    return dg.Definitions(
        assets=dg.load_assets_from_modules([trips, steps, serving]),
        asset_checks=checks.checks(settings.platform),
        jobs=jobs.JOBS,
        sensors=sensors(chosen),
        resources={
            "platform": platform(settings),
            "pyspark": pyspark(settings),
            "mlflow": mlflow_runs(settings),
            "workspace": workspace(settings),
            "step_launcher": step_launcher(chosen),
        },
        # One process and one Spark session a run: a JVM for each step would cost seconds each.
        executor=dg.in_process_executor,
        loggers={"stages": progress.stage_logger, "console": dg.colored_console_logger},
    )


def from_environment() -> dg.Definitions:
    """The same without an argument, as Dagster wants to make it anew where a step is launched."""
    return build_defs()


defs = build_defs()
