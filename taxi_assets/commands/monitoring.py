"""Commands of monitoring: `scenario | alerts | backtest`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import indent

import click

from taxi_assets.commands.common import TARGET, absolute, embedded, one_line_errors
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


@click.command()
@click.option(
    "--months", metavar="A:B", required=True, help="The history, such as 2022-01:2023-03."
)
@click.option("--policy", metavar="P", help="never, monthly or drift; default: all.")
@click.option("--source", metavar="S", help="Trips to bring in first, as of run.")
@one_line_errors
def backtest(months: str, policy: str | None, source: str | None) -> None:
    """Walk a history by each retraining policy.

    What was trained and judged is kept in TAXI_HOME/backtest: one that was ended goes on.
    """
    settings = embedded().settings
    from databricks_steps import atomic_write
    from databricks_steps import backtest as walks
    from databricks_steps.months import parse
    from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
    from databricks_steps.steps import raw_trips
    from taxi_assets.dagster_instance import only_run

    asked, chosen = parse(months), walks.policies(policy)
    platform = EmbeddedPlatform(replace(settings, source=absolute(source or settings.source)))
    with only_run(settings), platform.at_work():
        if source:
            raw_trips(platform, asked)
        held = walks.prepared(platform, asked)
        if lost := [month for month in asked if month not in held]:
            click.echo(f"passed over, no trips are held: {', '.join(lost)}")
        history: dict[str, list[walks.Lived]] = {name: [] for name in chosen}
        walk = walks.Backtest(platform, held)
        for number, lived in enumerate(zip(*map(walk.walk, chosen), strict=True), 1):
            for each in lived:
                history[each.policy].append(each)
                click.echo(f"{number}/{len(held)}  {each.line()}")
    for name, (trained, promoted, error) in walks.totals(history).items():
        served = "nothing served" if error is None else f"error served {error:.3f} dollars"
        click.echo(f"{name:<8}{served}, {trained} trained, {promoted} promoted")
    page = settings.home / "reports" / walks.PAGE
    atomic_write.write(page, walks.render(history))
    told = {name: [asdict(each) for each in lived] for name, lived in history.items()}
    atomic_write.write(page.with_suffix(".json"), json.dumps(told, default=str))
    click.echo(page)
