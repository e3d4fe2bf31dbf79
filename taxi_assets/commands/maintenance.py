"""Commands that take care of a home: `backup | restore | vacuum`."""

from __future__ import annotations

from pathlib import Path

import click

from databricks_steps.settings import inherited
from taxi_assets.commands.common import embedded, one_line_errors

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=FILE)
@one_line_errors
def backup(file: Path) -> None:
    """Write this TAXI_HOME to a new FILE (.tar.gz), whatever runs meanwhile. Tokens stay out."""
    from taxi_assets import backup as backups
    from taxi_assets import storage

    kept = backups.backup(embedded().settings, file)
    click.echo(f"{file}: {kept.files:,} files, {kept.size / 2**20:.1f} MiB before compression")
    for table, number in kept.tables.items():
        click.echo(f"  {table:<20} version {number}")
    if inherited().get(storage.POSTGRES):
        click.echo("Dagster's records are in PostgreSQL: back them up with pg_dump")


@click.command()
@click.argument("file", type=FILE)
@one_line_errors
def restore(file: Path) -> None:
    """Make an empty or missing TAXI_HOME of a backup."""
    from taxi_assets import backup as backups

    settings = embedded().settings
    kept = backups.restore(settings, file)
    click.echo(f"{settings.home}: {kept.files:,} files. taxi-assets serve starts the endpoint")


@click.command()
@click.option("--keep", "days", default=30, show_default=True, help="Days that stay whole.")
@click.option("--dry-run", is_flag=True, help="Tell what would go.")
@one_line_errors
def vacuum(days: int, dry_run: bool) -> None:
    """Remove data files that were replaced, save what a registered model has learned from."""
    from taxi_assets import vacuum as vacuums
    from taxi_assets.quiet import settle

    settings = embedded().settings
    settle(settings)
    click.echo(vacuums.told(vacuums.vacuum(settings, days, dry_run), dry_run))
