"""Commands of the endpoint and its workspace: `serve | stop | query | deploy`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from databricks_steps.errors import SettingsError
from taxi_assets.commands.common import TARGET, answering, embedded, one_line_errors

NEW_YORK = "America/New_York"  # by whose wall clock rides are asked for


@click.command()
@click.option("--access-log", is_flag=True, help="Write a line for each request to the log.")
@one_line_errors
def serve(access_log: bool) -> None:
    """Start the emulator; the endpoint answers as it did before."""
    from taxi_assets.emulator import auth, process

    settings = embedded().settings
    if access_log and process.status(settings).running:
        raise SettingsError(
            "--access-log is for an emulator that starts", "it runs already", "taxi-assets stop"
        )
    host = process.ensure_running(settings, *(["--access-log"] if access_log else []))
    hours = auth.PASS_SECONDS // 3600
    click.echo(f"{process.page_link(settings)}  its pages in a browser, for {hours} hours")
    click.echo(f"{host}  for programs, with the token in {settings.token_file}")


@click.command()
@one_line_errors
def stop() -> None:
    """Stop the emulator; `taxi-assets dev` goes on, and is named."""
    from taxi_assets import dev_lock
    from taxi_assets.emulator import process

    settings = embedded().settings
    click.echo("stopped" if process.stop(settings) else "was not running")
    if watching := dev_lock.holder(settings):
        click.echo(f"taxi-assets dev goes on as process {watching[0]}: kill {watching[0]} ends it")


@click.command()
@click.argument(
    "file", required=False, type=click.Path(dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option(
    "--now",
    nargs=3,
    type=(int, int, float),
    metavar="PICKUP DROPOFF MILES",
    help="Ask for a ride of now between two zones.",
)
@one_line_errors
def query(file: Path | None, now: tuple[int, int, float] | None) -> None:
    """Send a request to the endpoint and print the fares.

    FILE is a request as JSON; - reads standard input. --now prints the fare with its range.
    """
    from taxi_assets.resources.workspace import Workspace

    if (file is None) == (now is None):
        raise SettingsError("query takes FILE or --now", "neither or both are given", "Give one")
    payload = _read(file) if file is not None else _ride(*(now or ()))
    click.echo(json.dumps(Workspace(answering().settings).answer(payload)))


def _read(file: Path) -> Any:
    """A request of a file, or of standard input."""
    try:
        with click.open_file(str(file), encoding="utf-8") as stream:
            return json.loads(stream.read(), parse_constant=_no_json)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            "A request must be a JSON file", f"{file}: {error}", "Correct it"
        ) from error


def _ride(pickup: int, dropoff: int, miles: float) -> dict[str, Any]:
    """A request for a ride that begins now, New York wall clock."""
    ride = {
        "pickup_location_id": pickup,
        "dropoff_location_id": dropoff,
        "trip_distance": miles,
        "pickup_datetime": f"{datetime.now(ZoneInfo(NEW_YORK)):%Y-%m-%d %H:%M:%S}",
    }
    return {"dataframe_records": [ride], "params": {"interval": True}}


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
