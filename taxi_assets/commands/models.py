"""Commands of model versions: `rollback | approve | reproduce | replay`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from taxi_assets.commands.common import TARGET, answering, embedded, one_line_errors

if TYPE_CHECKING:
    from databricks_steps.monitoring.replay import Replay
    from databricks_steps.training.reproduction import Reproduction


@click.command()
@click.option("--to", metavar="VERSION", help="Go to this version; default: the champion before.")
@click.option("--why", default="rolled back by hand", help="The reason, for the deployment log.")
@click.option("--dry-run", is_flag=True, help="Check everything, change nothing.")
@one_line_errors
def rollback(to: str | None, why: str, dry_run: bool) -> None:
    """Move alias and endpoint back to a version, without a failed request."""
    settings = embedded().settings
    from taxi_assets import status
    from taxi_assets.deployment import rollback as back
    from taxi_assets.resources.workspace import Workspace

    client = Workspace(settings).client
    done = back.rollback(client, settings, status.logs(settings), to, why, dry_run)
    moves = f"version {done.before} to version {done.after}"
    already = f"version {done.after} is champion already"
    same = done.before == done.after
    if dry_run:
        moves = already if same else f"would move {moves}"
        click.echo(f"dry run: {moves}; the online tables hold every feature it needs")
    elif same:
        click.echo(f"{already}; endpoint {done.endpoint}")
    else:
        click.echo(f"moved {moves}, endpoint {done.endpoint}, in {done.seconds:.1f} s")


@click.command()
@click.argument("version")
@TARGET
@one_line_errors
def approve(version: str, target_name: str | None) -> None:
    """Approve a version where a person must (TAXI_REQUIRE_APPROVAL, prod)."""
    settings = answering(target_name).settings
    from databricks_steps.training import promotion

    approved = promotion.approve(settings, version)
    name = f"version {approved.number} of {settings.registered_model}"
    click.echo(f"{name} is approved; materialize champion_model to promote it")


@click.command()
@click.argument("version")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def reproduce(version: str, as_json: bool) -> None:
    """Train a version again from its recorded table versions and compare its metrics."""
    settings = embedded().settings
    from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
    from databricks_steps.training import reproduction

    found = reproduction.reproduce(EmbeddedPlatform(settings), version)
    click.echo(_reproduced_json(found) if as_json else _reproduced(found))
    sys.exit(0 if found.equal else 1)


def _reproduced_json(found: Reproduction) -> str:
    metrics = {
        name: {"recorded": recorded, "now": now, "difference": now - recorded}
        for name, (recorded, now) in found.metrics.items()
    }
    told = {
        "version": found.version,
        "equal": found.equal,
        "largest_difference": found.largest,
        "metrics": metrics,
        "changes": list(found.changes),
    }
    return json.dumps(told, indent=2)


def _reproduced(found: Reproduction) -> str:
    lines = [f"version {found.version}{'recorded':>22}{'now':>18}{'difference':>14}"]
    for name, (recorded, now) in found.metrics.items():
        lines.append(f"  {name:<20}{recorded:>18.12f}{now:>18.12f}{now - recorded:>14.1e}")
    lines += [f"changed since: {change}" for change in found.changes]
    lines.append("equal" if found.equal else f"not equal: {found.largest:.1e} at most")
    return "\n".join(lines)


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
    from datetime import datetime, timezone

    settings = embedded().settings
    from databricks_steps.monitoring import replay as again
    from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
    from taxi_assets.emulator.runtime import capture

    since, until = again.between(hours, datetime.now(timezone.utc))
    capture.flush(settings)  # also what was asked a second ago
    found = again.replay(EmbeddedPlatform(settings), version, since, until)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else _replayed(found))


def _replayed(found: Replay) -> str:
    by = ", ".join(f"version {name}: {trips:,}" for name, trips in found.answered_by.items())
    spread = ", ".join(f"{name} {size:.4f}" for name, size in found.quantiles.items())
    asked = f"{found.requests:,} requests for {found.trips:,} trips"
    lines = [
        f"version {found.version} on {asked}, asked from {found.since} until {found.until}",
        f"answered by {by}",
        f"{found.different:,} differences of more than {found.tolerance:g} dollars",
        f"largest {found.largest:.4f}, mean {found.mean:+.4f}, sizes: {spread}",
    ]
    lines += [
        f"  {each.request_id} row {each.request_row}: {each.answered:.4f} answered, "
        f"{each.replayed:.4f} now ({each.dollars:+.4f})"
        for each in found.worst
    ]
    if found.looked_up_now:
        lines.append(
            f"features of {found.looked_up_now:,} trips were not captured, but looked up now"
        )
    lines += [f"{count:,} requests left out: {why}" for why, count in found.skipped.items()]
    return "\n".join(lines)
