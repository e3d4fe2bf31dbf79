"""Commands of monitoring: `scenario | alerts | backtest`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from textwrap import indent

import click

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings
from taxi_assets.commands import completing
from taxi_assets.commands.common import TARGET, absolute, embedded, one_line_errors
from taxi_assets.resources.targets import target, watch


@click.command()
@click.argument("name", shell_complete=completing.scenarios)
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
    """Problems that are open, and what an address did not take."""
    from taxi_assets import status
    from taxi_assets.resources import alerts, delivery
    from taxi_assets.resources.dead_letters import DeadLetters

    context.obj = settings = target(target_name).settings
    if context.invoked_subcommand is not None:
        return
    log = alerts.AlertLog(settings)
    problems, acknowledged, quiet = log.problems(), log.acknowledgements(), 0
    for problem in problems:
        click.echo(f"{delivery.title(problem)}\n{indent(delivery.body(problem), '  ')}")
        said = acknowledged.get(problem.key)
        now = alerts.instant()
        if said is not None and said.covers(problem, now) and said.active(now):
            until = f", quiet until {delivery.shown(said.until)}" if said.until else ""
            click.echo(f"  Acknowledged: {delivery.shown(said.at)} by {said.by}{until}")
            quiet += 1
    told = f", {quiet} acknowledged" if quiet else ""
    click.echo(f"{len(problems)} open{told if problems else status.unwatched(settings)}")
    if letters := DeadLetters(settings.home).waiting():
        keys = {alert.id: delivery.title(alert) for alert in log.alerts()}
        for letter in letters:
            told = keys.get(letter.alert.partition("@")[0], letter.alert)
            tried = f"{letter.attempts} attempts since {delivery.shown(letter.since)}"
            click.echo(f"not taken by {letter.address}: {told}; {tried}: {letter.reason}")
        click.echo(f"{len(letters)} given up: taxi-assets alerts deliver tries them again")


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


@alerts.command()
@click.option("--drop", is_flag=True, help="Then drop what is still not taken.")
@click.pass_obj
@one_line_errors
def deliver(settings: Settings, drop: bool) -> None:
    """Send what was given up, and all that waits, now.

    Exit code 1 if an address does not take it.
    """
    from taxi_assets.resources import delivery
    from taxi_assets.resources.dead_letters import DeadLetters

    addresses = watch().addresses
    done = delivery.deliver(addresses, delivery.alert_log(settings, addresses), again=True)
    for failure in done.failures:
        click.echo(failure)
    letters = DeadLetters(settings.home)
    if drop:
        click.echo(f"{letters.drop()} dropped")
    left = letters.waiting()
    click.echo(f"{done.sent} told, {len(left)} given up")
    sys.exit(bool(done.failures or left))


@alerts.command()
@click.argument("alert")
@click.option("--for", "time", metavar="8h", help="Minutes, hours or days: 30m, 8h, 2d.")
@click.pass_obj
@one_line_errors
def ack(settings: Settings, alert: str, time: str | None) -> None:
    """Say that a person knows of a problem.

    It is told no more until it is over or worse, or with --for until then.
    """
    from databricks_steps.training import deployment_log
    from taxi_assets.resources import delivery

    log = delivery.alert_log(settings, watch().addresses)
    said = log.acknowledge(alert, deployment_log.who(), _seconds(time) if time else None)
    until = f"until {delivery.shown(said.until)}" if said.until else "until it is over"
    click.echo(f"{said.key}: quiet {until}")


def _seconds(time: str) -> float:
    found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", time, re.ASCII)
    if found is None:
        raise SettingsError("--for must be minutes, hours or days", repr(time), "30m, 8h, 2d")
    return int(found[1]) * {"m": 60.0, "h": 3_600.0, "d": 86_400.0}[found[2]]


@click.command()
@click.option(
    "--months",
    metavar="A:B",
    required=True,
    shell_complete=completing.months,
    help="The history, such as 2022-01:2023-03.",
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
