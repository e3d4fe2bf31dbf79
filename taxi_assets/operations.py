"""What people do by hand: roll back, approve, reproduce, rehearse; each answers with a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_steps.settings import LANDING
from taxi_assets import quiet
from taxi_assets.resources.targets import Target
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from databricks_steps.training.reproduction import Reproduction


def rollback(target: Target, to: str | None, why: str, dry_run: bool) -> str:
    """Alias and endpoint back to a version; see `training.rollback`."""
    from taxi_assets import status
    from taxi_assets.deployment import rollback as back

    settings = target.settings
    quiet.settle(settings)
    client = Workspace(settings).client
    done = back.rollback(client, settings, status.logs(settings), to, why, dry_run)
    said = f"version {done.before} to version {done.after}"
    already = f"version {done.after} is champion already"
    if dry_run:
        moves = already if done.before == done.after else f"would move {said}"
        return f"dry run: {moves}; the online tables hold every feature it needs"
    if done.before == done.after:
        return f"{already}; endpoint {done.endpoint}"
    return f"moved {said}, endpoint {done.endpoint}, in {done.seconds:.1f} s"


def deploy(target: Target, plan_only: bool) -> str:
    """What is in the workspace and what is not, and the latter made; see `serving.deployment`."""
    from databricks_steps.training import registry
    from taxi_assets.deployment import plan

    settings = target.settings
    quiet.settle(settings)
    client = Workspace(settings).client
    champion = registry.require(settings, registry.CHAMPION).number
    do = plan.plan if plan_only else plan.deploy
    changes = do(client, settings, champion)
    open_changes = sum(change.sign != plan.UNCHANGED for change in changes)
    said = "to make" if plan_only else "made"
    return "\n".join([*map(str, changes), f"{open_changes} {said}, target {target.name}"])


def approve(target: Target, version: str) -> str:
    """A person's word that a version may become champion."""
    from databricks_steps.training import promotion

    quiet.settle(target.settings)
    approved = promotion.approve(target.settings, version)
    name = f"version {approved.number} of {target.settings.registered_model}"
    return f"{name} is approved; materialize champion_model to promote it"


def reproduce(target: Target, version: str, as_json: bool) -> tuple[str, bool]:
    """A version trained again: the comparison as text, and whether every metric is equal."""
    from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
    from databricks_steps.training import reproduction

    quiet.settle(target.settings)
    found = reproduction.reproduce(EmbeddedPlatform(target.settings), version)
    return (_json(found) if as_json else _text(found)), found.equal


def _json(found: Reproduction) -> str:
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


def _text(found: Reproduction) -> str:
    lines = [f"version {found.version}{'recorded':>22}{'now':>18}{'difference':>14}"]
    for name, (recorded, now) in found.metrics.items():
        lines.append(f"  {name:<20}{recorded:>18.12f}{now:>18.12f}{now - recorded:>14.1e}")
    lines += [f"changed since: {change}" for change in found.changes]
    lines.append("equal" if found.equal else f"not equal: {found.largest:.1e} at most")
    return "\n".join(lines)


def scenario(target: Target, name: str, month: str | None, source: Path | None) -> str:
    """A changed month landed, as if it had been delivered; see `trips.scenarios`.

    Raises:
        SourceError: no scenario has the name, or the home holds real trips and none were named.
    """
    from databricks_steps.trips import scenarios
    from databricks_steps.trips.files import month_in
    from taxi_assets.status import logs

    chosen, settings = scenarios.named(name), target.settings
    held = logs(settings).months("raw_trips")
    at = month or (source and month_in(source.name)) or scenarios.next_month(held)
    path = scenarios.landed(chosen, settings.home / LANDING, at, source)
    expected = chosen.refused or ", ".join(chosen.fires) or "no check"
    return f"{path}: {chosen.story}; to be noticed: {expected} ({chosen.kind})"
