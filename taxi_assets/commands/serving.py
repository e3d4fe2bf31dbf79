"""Commands of the endpoint and its workspace: `serve | stop | query | deploy`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from databricks_steps.errors import SettingsError
from taxi_assets.commands.common import TARGET, answering, embedded, one_line_errors


@click.command()
@click.option("--access-log", is_flag=True, help="Write a line for each request to the log.")
@one_line_errors
def serve(access_log: bool) -> None:
    """Start the emulator; the endpoint answers as it did before."""
    from taxi_assets.emulator import process

    settings = embedded().settings
    host = process.ensure_running(settings, *(["--access-log"] if access_log else []))
    click.echo(f"{host}  token in {settings.token_file}")


@click.command()
@one_line_errors
def stop() -> None:
    """Stop the emulator."""
    from taxi_assets.emulator import process

    click.echo("stopped" if process.stop(embedded().settings) else "was not running")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@one_line_errors
def query(file: Path) -> None:
    """Send a request, a JSON file, to the endpoint and print the fares."""
    from taxi_assets.resources.workspace import Workspace

    try:
        payload = json.loads(file.read_text(encoding="utf-8"), parse_constant=_no_json)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            "A request must be a JSON file", f"{file}: {error}", "Correct it"
        ) from (error)
    settings = answering().settings
    click.echo(json.dumps(Workspace(settings).answer(payload)))


def _no_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@click.command()
@click.option("--plan", is_flag=True, help="Say what would change, and touch nothing.")
@TARGET
@one_line_errors
def deploy(plan: bool, target_name: str | None) -> None:
    """Online store, online tables, endpoint and payload capture, as the champion needs them."""
    target = answering(target_name)
    from databricks_steps.training import registry
    from taxi_assets.deployment import plan as plans
    from taxi_assets.resources.workspace import Workspace

    settings = target.settings
    client = Workspace(settings).client
    champion = registry.require(settings, registry.CHAMPION).number
    changes = (plans.plan if plan else plans.deploy)(client, settings, champion)
    for change in changes:
        click.echo(change)
    different = sum(change.sign != plans.UNCHANGED for change in changes)
    click.echo(f"{different} {'to make' if plan else 'made'}, target {target.name}")
