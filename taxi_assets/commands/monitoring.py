"""Commands of monitoring: `scenario | alerts`."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import indent

import click

from taxi_assets.commands.common import TARGET, embedded, one_line_errors
from taxi_assets.resources.targets import target, watch


@click.command()
@click.argument("name")
@click.option("--month", metavar="YYYY-MM", help="Which month; default: the one after the newest.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A parquet file of the month as published; default: the demo generator makes it.",
)
@one_line_errors
def scenario(name: str, month: str | None, source: Path | None) -> None:
    """Land a month that is changed as the world changes it, to see what is noticed.

    docs/monitoring.md lists the scenarios, and which checks fire for each.
    """
    settings = embedded().settings
    from databricks_steps.settings import LANDING
    from databricks_steps.trips import scenarios
    from databricks_steps.trips.files import month_in
    from taxi_assets.status import logs

    found = scenarios.named(name)
    held = logs(settings).months("raw_trips")
    at = month or (source and month_in(source.name)) or scenarios.next_month(held)
    path = scenarios.landed(found, settings.home / LANDING, at, source)
    expected = found.refused or ", ".join(found.fires) or "no check"
    click.echo(f"{path}: {found.story}; to be noticed: {expected} ({found.kind})")


@click.group(invoke_without_command=True)
@TARGET
@click.pass_context
@one_line_errors
def alerts(context: click.Context, target_name: str | None) -> None:
    """Problems that are open; `alerts test` sends a message to every address."""
    from taxi_assets.resources import alerts, delivery

    if context.invoked_subcommand is None:
        problems = alerts.AlertLog(target(target_name).settings).problems()
        for problem in problems:
            click.echo(f"{delivery.title(problem)}\n{indent(delivery.body(problem), '  ')}")
        click.echo(f"{len(problems)} open")


@alerts.command()
@one_line_errors
def test() -> None:
    """Send a test message to every address of TAXI_ALERT_URLS…; exit code 1 if one fails."""
    from taxi_assets.resources import delivery

    failed = False
    for address, reason in delivery.tested(watch().addresses):
        click.echo(f"{address}: {reason or 'reached'}")
        failed |= bool(reason)
    sys.exit(failed)
