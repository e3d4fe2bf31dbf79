"""Rollback: alias and endpoint go back to a version that the online tables can serve now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from databricks_steps.errors import ModelError
from databricks_steps.inference import feature_spec
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.interfaces import TableLog
from databricks_steps.settings import Settings
from databricks_steps.training import deployment_log, registry
from databricks_steps.training.promotion import LEFT, require_fit, settle
from databricks_steps.training.registry import CHAMPION, PREVIOUS, Version
from taxi_assets.deployment import online_store
from taxi_assets.deployment.endpoint import ensure_endpoint

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

WHY = "rolled back by hand"


@dataclass(frozen=True)
class Rollback:
    """From which version to which; `endpoint` says what became of it: updated or unchanged."""

    before: str
    after: str
    endpoint: str
    seconds: float


def rollback(
    client: WorkspaceClient,
    settings: Settings,
    tables: TableLog,
    to: str | None = None,
    why: str = WHY,
    dry_run: bool = False,
    by: str = "",
) -> Rollback:
    """Go back to version `to`, default: the champion before this one; safe to repeat.

    `by` is who asks: the user of the process where it is empty.

    The endpoint swaps first, while the old version still answers: when that fails, the alias
    has not moved. `dry_run` checks everything and changes nothing.

    Raises:
        ModelError: there is no such version, or it may not be champion.
        ServingError: the online tables lack a feature of it, or the endpoint cannot serve it.
    """
    started = time.perf_counter()
    served = online_store.published_columns(client, settings)
    champion = registry.require(settings, CHAMPION)
    target = _target(settings, tables, champion, to)
    require_fit(settings, target)
    require_served(_spec(settings, target), served, target.number)
    if dry_run:
        return Rollback(champion.number, target.number, "dry run", time.perf_counter() - started)
    state = ensure_endpoint(client, settings, target.number)
    if target.number != champion.number:
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        left = f"{at} by {by or deployment_log.who()}: {why}"
        registry.tag(settings, champion.number, LEFT, left)
        registry.untag(settings, target.number, LEFT)
        registry.point(settings, CHAMPION, target.number)
    settle(settings, tables, target, champion.number, deployment_log.ROLLED_BACK, why, by)
    return Rollback(champion.number, target.number, state.action, time.perf_counter() - started)


def require_served(
    spec: FeatureSpec, served: Mapping[str, tuple[str, ...] | None], number: str
) -> None:
    """Refuse a version that looks up what the online tables do not hold.

    `served` is feature table → the columns of its online table, None when not published.

    Raises:
        ModelError: the message names table and features.
    """
    for lookup in spec.lookups:
        columns = served.get(lookup.table)
        lacking = sorted(set(lookup.features) - set(columns or ()))
        if lacking:
            found = f"lacks {', '.join(lacking)}" if columns else "is not published"
            raise ModelError(
                "The online tables must hold every feature of a served version",
                f"version {number}: {lookup.table} {found}",
                "Publish that table with these features, or choose another version with --to",
            )


def _target(settings: Settings, tables: TableLog, champion: Version, to: str | None) -> Version:
    if to is not None:
        return registry.numbered(settings, to)
    known = deployment_log.entries(tables)
    if known and known[-1]["to_version"] != champion.number:
        return champion  # a rollback was killed before its row was written: finish it
    previous = registry.version(settings, PREVIOUS)
    if previous is None or previous.number == champion.number:
        raise ModelError(
            "Rollback needs a champion before this one",
            f"version {champion.number} is the first",
            "Name a version with --to",
        )
    if LEFT in previous.tags:
        raise ModelError(
            "Rollback does not return to a version that was rolled back",
            f"version {previous.number}, {previous.tags[LEFT]}",
            f"If you mean it: taxi-assets rollback --to {previous.number}",
        )
    return previous


def _spec(settings: Settings, version: Version) -> FeatureSpec:
    folder = registry.folder(settings, version.number) / feature_spec.FOLDER
    try:
        return FeatureSpec.from_json((folder / feature_spec.FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            "A version must hold its feature spec",
            f"version {version.number}: {error}",
            "Choose another version with --to",
        ) from error
