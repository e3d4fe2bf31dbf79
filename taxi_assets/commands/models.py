"""Commands of model versions: `rollback | approve | reproduce | replay`."""

from __future__ import annotations

import sys

import click

from taxi_assets.commands.common import answering, embedded, one_line_errors
from taxi_assets.resources.targets import TARGETS


@click.command()
@click.option("--to", metavar="VERSION", help="Go to this version; default: the champion before.")
@click.option("--why", default="rolled back by hand", help="The reason, for the ledger.")
@click.option("--dry-run", is_flag=True, help="Check everything, change nothing.")
@one_line_errors
def rollback(to: str | None, why: str, dry_run: bool) -> None:
    """Move alias and endpoint back to a version, without a failed request."""
    from taxi_assets import operations

    click.echo(operations.rollback(embedded(), to, why, dry_run))


@click.command()
@click.argument("version")
@click.option("--target", "target_name", type=click.Choice(TARGETS), help="Of which registry.")
@one_line_errors
def approve(version: str, target_name: str | None) -> None:
    """Approve a version where a person must (TAXI_REQUIRE_APPROVAL, prod)."""
    from taxi_assets import operations

    click.echo(operations.approve(answering(target_name), version))


@click.command()
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def reproduce(version: str, as_json: bool) -> None:
    """Train a version again from its recorded table versions and compare its metrics."""
    from taxi_assets import operations

    text, equal = operations.reproduce(embedded(), version, as_json)
    click.echo(text)
    sys.exit(0 if equal else 1)


@click.command()
@click.option(
    "--hours",
    metavar="A:B",
    default="24:0",
    show_default=True,
    help="Asked from A to B hours ago; or two instants (UTC): 2026-11-25T08:00/2026-11-25T09:30.",
)
@click.option("--version", required=True, metavar="V", help="The registered version that scores.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def replay(hours: str, version: str, as_json: bool) -> None:
    """Score captured requests again on any version and compare with what was answered.

    With the features that were captured with each request; where there are none, with those of the
    offline tables as known at the pickup, and says so.
    """
    from taxi_assets import replay as again

    click.echo(again.replay(embedded(), hours, version, as_json))
