"""Commands that look after a home: `status | report | doctor`, backups; and `certify`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from databricks_steps.settings import inherited
from taxi_assets.commands.common import (
    TARGET,
    answering,
    embedded,
    named,
    one_line_errors,
    table_log,
)
from taxi_assets.resources.targets import POSTGRES

FILE = click.Path(path_type=Path, dir_okay=False)
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "differs": "red", "unknown": "yellow"}


@click.command()
@TARGET
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def status(target_name: str | None, as_json: bool) -> None:
    """What this TAXI_HOME holds: months, rows, champion, endpoint, failing checks, sensors."""
    where = answering(target_name)
    from taxi_assets import status as home_status

    found = home_status.held(where.settings, table_log(where))
    click.echo(json.dumps(found, indent=2) if as_json else home_status.status_text(found))


@click.command()
@TARGET
@one_line_errors
def report(target_name: str | None) -> None:
    """Write one page of HTML: pipeline, models, drift, endpoint, time and memory."""
    where = answering(target_name)
    from taxi_assets import html_report

    click.echo(html_report.write(where.settings, table_log(where)))


@click.command()
@TARGET
@click.option("--deep", is_flag=True, help="Read every file of the home, too.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def doctor(target_name: str | None, deep: bool, as_json: bool) -> None:
    """What must be right before a run: each line ok, or the fix. Exit code 1 if one fails."""
    target = named(target_name)
    from taxi_assets.doctor import examined

    found = examined(target, deep)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in found:
            click.secho(str(each), fg=COLOURS[each.level])
    sys.exit(any(each.level == "fail" for each in found))


@click.command()
@TARGET
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def certify(target_name: str | None, as_json: bool) -> None:
    """Probe what only an account can tell.

    Starts one cluster for a minute's task. A report to send when something differs; exit code 1
    then.
    """
    where = answering(target_name)
    from taxi_assets.doctor.certify import certified

    found = certified(where)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in found:
            click.secho(str(each), fg=COLOURS[each.state])
    sys.exit(any(each.state == "differs" for each in found))


@click.command()
@click.argument("file", type=FILE)
@one_line_errors
def backup(file: Path) -> None:
    """Write this TAXI_HOME to a new FILE (.tar.gz), whatever runs meanwhile. Tokens stay out."""
    from taxi_assets import backup as backups

    held = backups.backup(embedded().settings, file)
    click.echo(f"{file}: {held.files:,} files, {held.size / 2**20:.1f} MiB before compression")
    for table, number in held.tables.items():
        click.echo(f"  {table:<20} version {number}")
    if held.unknown:
        click.echo(f"Left out, as not of this project: {', '.join(held.unknown)}")
    if inherited().get(POSTGRES):
        click.echo("Dagster's records are in PostgreSQL: back them up with pg_dump")


@click.command()
@click.argument("file", type=FILE)
@one_line_errors
def restore(file: Path) -> None:
    """Make an empty or missing TAXI_HOME of a backup."""
    from taxi_assets import backup as backups

    settings = embedded().settings
    held = backups.restore(settings, file)
    click.echo(f"{settings.home}: {held.files:,} files. taxi-assets serve starts the endpoint")


@click.command()
@click.option("--keep", "days", default=30, show_default=True, help="Days that stay whole.")
@click.option("--dry-run", is_flag=True, help="Tell what would go.")
@one_line_errors
def vacuum(days: int, dry_run: bool) -> None:
    """Remove data files that were replaced, save what a registered model has learned from."""
    settings = embedded().settings
    from taxi_assets import vacuum as vacuums

    freed = vacuums.vacuum(settings, days, dry_run)
    for each in freed:
        kept = f"  keeps {', '.join(f'version {n}' for n in each.kept)}" if each.kept else ""
        size = f"{each.size / 2**20:>10.1f} MiB"
        click.echo(f"{each.table:<20}{each.files:>8,} files {size}{kept}")
    total = sum(each.size for each in freed) / 2**20
    click.echo(f"{total:.1f} MiB {'would go' if dry_run else 'gone'}")
