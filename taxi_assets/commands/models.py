"""Commands of model versions: `rollback | approve | reproduce | replay`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from databricks_steps.settings import DATABRICKS
from taxi_assets.commands import completing
from taxi_assets.commands.common import TARGET, answering, one_line_errors, table_log

if TYPE_CHECKING:
    from taxi_assets.resources.targets import Target


@click.command()
@TARGET
@click.option(
    "--to",
    metavar="VERSION",
    shell_complete=completing.versions,
    help="Go to this version; default: the champion before.",
)
@click.option("--why", default="rolled back by hand", help="The reason, for the deployment log.")
@click.option("--dry-run", is_flag=True, help="Check everything, change nothing.")
@one_line_errors
def rollback(target_name: str | None, to: str | None, why: str, dry_run: bool) -> None:
    """Move alias and endpoint back to a version, without a failed request."""
    where = answering(target_name)
    from taxi_assets.deployment import rollback as back
    from taxi_assets.resources import run_cluster
    from taxi_assets.resources.workspace import Workspace

    workspace, there = Workspace(where.settings), where.settings.platform == DATABRICKS
    by = workspace.user() if there else ""
    with run_cluster.SHARED.held():  # for all that is asked of the tables there
        tables = table_log(where)
        done = back.rollback(workspace.client, where.settings, tables, to, why, dry_run, by)
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
@click.argument("version", shell_complete=completing.versions)
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
@click.argument("version", shell_complete=completing.versions)
@TARGET
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def reproduce(version: str, target_name: str | None, as_json: bool) -> None:
    """Train a version again from its recorded table versions and compare its metrics."""
    found = _called(answering(target_name), "reproduce", version=version)
    click.echo(json.dumps(found, indent=2) if as_json else _reproduced(found))
    sys.exit(0 if found["equal"] else 1)


def _called(where: Target, name: str, **arguments: str) -> dict[str, Any]:
    """What one of `remote_calls.CALLS` answers, on this machine's platform or on the target's."""
    from taxi_assets.resources import remote, remote_calls

    if where.settings.platform == DATABRICKS:
        found = remote.call(where, name, **arguments)
    else:
        from databricks_steps.platforms.embedded.platform import EmbeddedPlatform

        found = remote_calls.CALLS[name](EmbeddedPlatform(where.settings), **arguments)
    answer: dict[str, Any] = found
    return answer


def _reproduced(found: dict[str, Any]) -> str:
    lines = [f"version {found['version']}{'recorded':>22}{'now':>18}{'difference':>14}"]
    for name, each in found["metrics"].items():
        values = f"{each['recorded']:>18.12f}{each['now']:>18.12f}{each['difference']:>14.1e}"
        lines.append(f"  {name:<20}{values}")
    lines += [f"changed since: {change}" for change in found["changes"]]
    far = f"not equal: {found['largest_difference']:.1e} at most"
    lines.append("equal" if found["equal"] else far)
    return "\n".join(lines)


@click.command()
@click.option(
    "--hours",
    metavar="A:B",
    default="24:0",
    show_default=True,
    help="Asked from A to B hours ago; or two instants (UTC): 2026-11-25T08:00/2026-11-25T09:30.",
)
@click.option(
    "--version",
    required=True,
    metavar="V",
    shell_complete=completing.versions,
    help="The registered version that scores.",
)
@TARGET
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def replay(hours: str, version: str, target_name: str | None, as_json: bool) -> None:
    """Score captured requests again on any version and compare with what was answered.

    With the features that were captured with each request; where there are none, with those of the
    offline tables as known at the pickup, and says so.
    """
    from datetime import datetime, timezone

    where = answering(target_name)
    from databricks_steps.monitoring import replay as again

    since, until = again.between(hours, datetime.now(timezone.utc))
    if where.settings.platform != DATABRICKS:
        from taxi_assets.emulator.runtime import capture

        capture.flush(where.settings)  # also what was asked a second ago
    times = {"since": since.isoformat(), "until": until.isoformat()}
    found = _called(where, "replay", version=version, **times)
    click.echo(json.dumps(found, indent=2) if as_json else _replayed(found))


def _replayed(found: dict[str, Any]) -> str:
    by = ", ".join(f"version {name}: {trips:,}" for name, trips in found["answered_by"].items())
    spread = ", ".join(f"{name} {size:.4f}" for name, size in found["quantiles"].items())
    asked = f"{found['requests']:,} requests for {found['trips']:,} trips"
    times = f"asked from {found['since']} until {found['until']}"
    lines = [
        f"version {found['version']} on {asked}, {times}",
        f"answered by {by}",
        f"{found['different']:,} differences of more than {found['tolerance']:g} dollars",
        f"largest {found['largest']:.4f}, mean {found['mean']:+.4f}, sizes: {spread}",
    ]
    lines += [
        f"  {each['request_id']} row {each['request_row']}: {each['answered']:.4f} answered, "
        f"{each['replayed']:.4f} now ({each['difference']:+.4f})"
        for each in found["worst"]
    ]
    if found["looked_up_now"]:
        lines.append(
            f"features of {found['looked_up_now']:,} trips were not captured, but looked up now"
        )
    lines += [f"{count:,} requests left out: {why}" for why, count in found["skipped"].items()]
    return "\n".join(lines)
