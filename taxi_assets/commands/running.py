"""Commands that run the pipeline and open its pages: `run | dev | mlflow | configure`."""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import click

from databricks_steps.errors import SettingsError, TaxiError
from databricks_steps.settings import EMBEDDED, LANDING, LOOPBACK, inherited
from taxi_assets.commands import completing
from taxi_assets.commands.common import (
    TARGET,
    absolute,
    become,
    embedded,
    named,
    one_line_errors,
    root,
)
from taxi_assets.commands.signals import stoppable
from taxi_assets.resources.targets import UI, export, target

SHELLS = ("bash", "fish", "zsh")


@click.command()
@click.option(
    "--source",
    metavar="S",
    help="demo (default), a file or folder of TLC files, tlc:green, tlc:yellow, or a table name.",
)
@click.option(
    "--months",
    metavar="M",
    shell_complete=completing.months,
    help="2022-01, 2022-01:2022-03; default: all of the source.",
)
@click.option("--skip-features", is_flag=True, help="Use the trips and features at hand.")
@click.option("--force-features", is_flag=True, help="Compute features anew even if unchanged.")
@click.option("--skip-training", is_flag=True, help="Deploy the champion at hand.")
@TARGET
@click.option("--json", "as_json", is_flag=True, help="Print last_run.json on standard output.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors; last_run.json has it all.")
@one_line_errors
def run(
    source: str | None,
    months: str | None,
    skip_features: bool,
    force_features: bool,
    skip_training: bool,
    target_name: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the pipeline: trips, features, training, serving, predictions."""
    from databricks_steps.months import parse

    if skip_features and force_features:
        raise SettingsError(
            "--skip-features and --force-features exclude each other", "both are given", "Give one"
        )
    where = named(target_name)
    found = absolute(source or where.settings.source)  # a launched step runs in another folder
    where = replace(where, settings=replace(where.settings, source=found))
    gc.disable()  # what is imported stays: to look through it again and again is in vain
    from taxi_assets import pipeline
    from taxi_assets import status as home_status
    from taxi_assets.progress import progress

    gc.freeze()
    gc.enable()
    options = pipeline.Options(
        parse(months) if months else None, skip_features, force_features, skip_training
    )
    progress.reset(lambda line: None if quiet else click.echo(line, err=as_json))
    report: dict[str, Any] = {}
    watched: AbstractContextManager[None] = nullcontext()
    if sys.stdout.isatty() and not (as_json or quiet):
        from taxi_assets import terminal

        watched = terminal.shown(progress)
    try:
        with watched:
            stoppable(
                where.settings,
                lambda: pipeline.run(where, options, report),
                lambda: pipeline.end_leftovers(where),
            )
    except TaxiError as error:
        report.setdefault("error", str(error))
        raise
    finally:
        if as_json:
            click.echo(json.dumps(report, indent=2))
    if not (as_json or quiet):
        click.echo(home_status.summary(report))


@click.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@one_line_errors
def dev(port: int) -> None:
    """Start Dagster's UI and daemon on TAXI_HOME: assets, runs and checks in the browser."""
    from taxi_assets import dagster_instance, dev_lock

    settings = target().settings
    export({"DAGSTER_HOME": str(dagster_instance.dagster_home(settings))})
    _require_free(port)
    with dagster_instance.instance(settings) as found:
        dagster_instance.hold_months(settings, found)
    dev_lock.hold(settings, f"http://{LOOPBACK}:{port}")
    if settings.platform == EMBEDDED:
        (settings.home / LANDING).mkdir(exist_ok=True)  # so that months can be copied into it
    export({UI: inherited().get(UI) or f"http://{LOOPBACK}:{port}"})
    os.chdir(root())
    become([sys.executable, "-m", "taxi_assets.supervisor", LOOPBACK, str(port)])


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            raise SettingsError(
                "--port must be a free port of this machine", f"{port}: {error}", "Name another"
            ) from error


@click.command()
@one_line_errors
def configure() -> None:
    """Write dagster.yaml of TAXI_HOME for Dagster's own commands, and print its DAGSTER_HOME."""
    from taxi_assets import dagster_instance

    settings = target().settings
    with dagster_instance.instance(settings) as found:  # the storage answers, and has its tables
        dagster_instance.hold_months(settings, found)
        click.echo(dagster_instance.dagster_home(settings))


@click.command()
@click.option("--port", default=5000, show_default=True, help="Port of the tracking UI.")
@one_line_errors
def mlflow(port: int) -> None:
    """Start MLflow's UI on the runs and models of TAXI_HOME."""
    settings = embedded().settings
    database = settings.home / "mlflow.db"
    if not database.exists():
        raise SettingsError(
            "MLflow's UI shows what a run has tracked",
            f"there is no {database}",
            "Run taxi-assets run once",
        )
    _require_free(port)
    # Nothing here asks for its evaluation jobs: seven processes that take most of a core.
    export({"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", settings.mlflow_uri]
    become([*command, "-h", LOOPBACK, "-p", str(port)])


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands: eval "$(taxi-assets completion bash)"."""
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    found = dict(zip(SHELLS, (BashComplete, FishComplete, ZshComplete), strict=True))[shell]
    group = click.get_current_context().find_root().command
    click.echo(found(group, {}, "taxi-assets", "_TAXI_ASSETS_COMPLETE").source())
