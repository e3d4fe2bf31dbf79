"""The command line: `taxi-assets run | dev | serve | … | alerts | rollback | replay`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from textwrap import indent
from typing import Any, TypeVar

import click

from databricks_steps.errors import SettingsError, TaxiError
from databricks_steps.settings import DATABRICKS, LOOPBACK, REPOSITORY, inherited
from taxi_assets.resources.targets import TARGETS, UI, Target, export, target, watch

Command = TypeVar("Command", bound=Callable[..., Any])


def _one_line_errors(command: Command) -> Command:
    """Expected errors as one line and exit code 1; anything else is a bug and shows its trace."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except TaxiError as error:
            click.secho(f"error: {error}", err=True, fg="red")
            sys.exit(1)

    return guarded  # type: ignore[return-value]


def _embedded() -> Target:
    """The environment's target, for what only this machine's tables and workspace can do.

    Raises:
        SettingsError: it is a Databricks target.
    """
    chosen = target()
    if chosen.settings.platform == DATABRICKS:
        raise SettingsError(
            "This command works on the tables and the workspace of this machine",
            f"target {chosen.name}",
            "Unset TAXI_TARGET; docs/databricks.md says what to do there",
        )
    return chosen


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taxi-assets")
def main() -> None:
    """New York taxi trips to a served, checked fare model."""


@main.command()
@click.option(
    "--source",
    metavar="S",
    help="demo (default), a file or folder of TLC files, tlc:green, tlc:yellow, or a table name.",
)
@click.option("--months", metavar="M", help="2022-01, 2022-01:2022-03; default: all of the source.")
@click.option("--skip-features", is_flag=True, help="Use the trips and features at hand.")
@click.option("--force-features", is_flag=True, help="Compute features anew even if unchanged.")
@click.option("--skip-training", is_flag=True, help="Deploy the champion at hand.")
@click.option("--target", "target_name", type=click.Choice(TARGETS), help="Where steps run.")
@click.option("--json", "as_json", is_flag=True, help="Print last_run.json on standard output.")
@_one_line_errors
def run(
    source: str | None,
    months: str | None,
    skip_features: bool,
    force_features: bool,
    skip_training: bool,
    target_name: str | None,
    as_json: bool,
) -> None:
    """Run the pipeline: trips, features, training, serving, predictions."""
    from databricks_steps.months import parse
    from taxi_assets import quiet

    if skip_features and force_features:
        raise SettingsError(
            "Features are skipped or forced", "--skip-features --force-features", "Give one"
        )
    chosen = target(target_name)
    found = _absolute(source or chosen.settings.source)  # a launched step runs in another folder
    chosen = replace(chosen, settings=replace(chosen.settings, source=found))
    quiet.settle(chosen.settings)
    from taxi_assets import pipeline, reports
    from taxi_assets.stages import progress

    options = pipeline.Options(
        parse(months) if months else None, skip_features, force_features, skip_training
    )
    progress.reset(lambda line: click.echo(line, err=as_json))
    report = pipeline.run(chosen, options)
    click.echo(json.dumps(report, indent=2) if as_json else reports.summary(report))


@main.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@_one_line_errors
def dev(port: int) -> None:
    """Start `dagster dev` on TAXI_HOME: assets, runs and checks in the browser."""
    from taxi_assets import instance

    settings = target().settings
    export({"DAGSTER_HOME": str(instance.dagster_home(settings))})
    export({UI: inherited().get(UI) or f"http://{LOOPBACK}:{port}"})
    workspace = REPOSITORY / "workspace.yaml"
    where = ["-w", str(workspace)] if workspace.exists() else ["-m", "taxi_assets.definitions"]
    command = [sys.executable, "-m", "dagster", "dev", *where, "-h", LOOPBACK, "-p", str(port)]
    sys.exit(subprocess.run(command, cwd=_root(), check=False).returncode)


@main.command()
@click.option("--workers", type=click.IntRange(1, 64), help="Processes that answer; default: 1.")
@click.option("--access-log", is_flag=True, help="Write a line for each request to the log.")
@_one_line_errors
def serve(workers: int | None, access_log: bool) -> None:
    """Start the embedded workspace; the endpoint answers as it did before."""
    from databricks_steps.workspace import process

    settings = _embedded().settings
    if workers is not None:
        settings = replace(settings, workers=workers)
    host = process.ensure_running(settings, *(["--access-log"] if access_log else []))
    running = process.status(settings)
    click.echo(f"{host}  workers: {running.workers}, token in {settings.token_file}")
    if workers not in (None, running.workers):
        click.echo("It was running already: taxi-assets stop, then serve, changes the workers")


@main.command()
@_one_line_errors
def stop() -> None:
    """Stop the embedded workspace."""
    from databricks_steps.workspace import process

    click.echo("stopped" if process.stop(_embedded().settings) else "was not running")


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_one_line_errors
def query(file: Path) -> None:
    """Send a request, a JSON file, to the endpoint and print the fares."""
    from databricks_steps.serving import endpoint
    from taxi_assets.resources.workspace import Workspace

    try:
        payload = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise SettingsError(
            "A request must be a JSON file", f"{file}: {error}", "Correct it"
        ) from (error)
    settings = target().settings
    click.echo(json.dumps(endpoint.answer(Workspace(settings).client, settings, payload)))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_one_line_errors
def status(as_json: bool) -> None:
    """What this TAXI_HOME holds: months, rows, champion, endpoint."""
    from taxi_assets import quiet, reports

    settings = _embedded().settings
    quiet.settle(settings)
    found = reports.status(settings)
    click.echo(json.dumps(found, indent=2) if as_json else reports.status_text(found))


@main.command()
@click.option("--to", metavar="VERSION", help="Go to this version; default: the champion before.")
@click.option("--why", default="rolled back by hand", help="The reason, for the ledger.")
@click.option("--dry-run", is_flag=True, help="Check everything, change nothing.")
@_one_line_errors
def rollback(to: str | None, why: str, dry_run: bool) -> None:
    """Move alias and endpoint back to a version, without a failed request."""
    from taxi_assets import operations

    click.echo(operations.rollback(_embedded(), to, why, dry_run))


@main.command()
@click.option("--plan", is_flag=True, help="Say what would change, and touch nothing.")
@click.option("--target", "target_name", type=click.Choice(TARGETS), help="Which workspace.")
@_one_line_errors
def deploy(plan: bool, target_name: str | None) -> None:
    """Online store, online tables, endpoint and payload capture, as the champion needs them."""
    from taxi_assets import operations

    click.echo(operations.deploy(target(target_name), plan))


@main.command()
@click.argument("version")
@click.option("--target", "target_name", type=click.Choice(TARGETS), help="Of which registry.")
@_one_line_errors
def approve(version: str, target_name: str | None) -> None:
    """Approve a version where a person must (TAXI_REQUIRE_APPROVAL, prod)."""
    from taxi_assets import operations

    click.echo(operations.approve(target(target_name), version))


@main.command()
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_one_line_errors
def reproduce(version: str, as_json: bool) -> None:
    """Train a version again from its recorded table versions and compare its metrics."""
    from taxi_assets import operations

    text, equal = operations.reproduce(_embedded(), version, as_json)
    click.echo(text)
    sys.exit(0 if equal else 1)


@main.command()
@click.option(
    "--hours",
    metavar="A:B",
    default="24:0",
    show_default=True,
    help="Asked from A to B hours ago; or two instants (UTC): 2026-11-25T08:00/2026-11-25T09:30.",
)
@click.option("--version", required=True, metavar="V", help="The registered version that scores.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@_one_line_errors
def replay(hours: str, version: str, as_json: bool) -> None:
    """Score captured requests again on any version and compare with what was answered.

    With the features that were captured with each request; where there are none, with those of the
    offline tables as known at the pickup, and says so.
    """
    from taxi_assets import replay as again

    click.echo(again.replay(_embedded(), hours, version, as_json))


@main.command()
@click.argument("name")
@click.option("--month", metavar="YYYY-MM", help="Which month; default: the one after the newest.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A parquet file of the month as published; default: the demo generator makes it.",
)
@_one_line_errors
def scenario(name: str, month: str | None, source: Path | None) -> None:
    """Land a month that is changed as the world changes it, to see what is noticed.

    docs/monitoring.md lists the scenarios, and which checks fire for each.
    """
    from taxi_assets import operations

    click.echo(operations.scenario(_embedded(), name, month, source))


@main.group(invoke_without_command=True)
@click.pass_context
@_one_line_errors
def alerts(context: click.Context) -> None:
    """Problems that are open; `alerts test` sends a message to every address."""
    from taxi_assets.resources import alerts, delivery

    if context.invoked_subcommand is None:
        problems = alerts.AlertLog(target().settings).problems()
        for problem in problems:
            click.echo(f"{delivery.title(problem)}\n{indent(delivery.body(problem), '  ')}")
        click.echo(f"{len(problems)} open")


@alerts.command()
@_one_line_errors
def test() -> None:
    """Send a test message to every address of TAXI_ALERT_URLS…; exit code 1 if one fails."""
    from taxi_assets.resources import delivery

    failed = False
    for address, reason in delivery.tested(watch().addresses):
        click.echo(f"{address}: {reason or 'reached'}")
        failed |= bool(reason)
    sys.exit(failed)


def _absolute(source: str) -> str:
    """A path as an absolute one: steps may run in another folder. Other sources as they are."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() or source.startswith((".", "/", "~")) else source


def _root() -> Path:
    return REPOSITORY if (REPOSITORY / "workspace.yaml").exists() else Path.cwd()


if __name__ == "__main__":
    main()
