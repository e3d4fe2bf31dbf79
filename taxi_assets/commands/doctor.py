"""The command `doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from taxi_assets.commands.common import one_line_errors
from taxi_assets.resources.targets import TARGETS, target

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--target", "target_name", type=click.Choice(TARGETS), help="Default: TAXI_TARGET.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@one_line_errors
def doctor(target_name: str | None, as_json: bool) -> None:
    """What must be right before a run: each line ok, or the fix. Exit code 1 if one fails."""
    from taxi_assets.doctor import examined
    from taxi_assets.quiet import settle

    chosen = target(target_name)
    settle(chosen.settings)
    found = examined(chosen)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in found:
            click.secho(str(each), fg=COLOURS[each.level])
    sys.exit(any(each.level == "fail" for each in found))
