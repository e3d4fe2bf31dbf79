"""Who is champion: the alias moves from one checked version to the next, and keeps the last one."""

from __future__ import annotations

from dataclasses import dataclass

from databricks_steps.errors import ModelError
from databricks_steps.interfaces import TableLog
from databricks_steps.settings import Settings
from databricks_steps.training import deployment_log, registry
from databricks_steps.training.registry import CANDIDATE, CHAMPION, CHECKS, PREVIOUS, Version

APPROVAL, APPROVED = "approval", "Approved"  # as the approval task of Databricks' deployment jobs
LEFT = "rolled_back"  # version tag: it was champion, and someone went back to another


@dataclass(frozen=True)
class Promotion:
    """From which version to which, and why; equal when nothing moved."""

    before: str | None
    after: str
    why: str


def promote(settings: Settings, tables: TableLog, by: str = "") -> Promotion:
    """Make the candidate the champion, and write it into the ledger; safe to repeat.

    `by` is who moves it: the user of the process where it is empty.

    A version someone rolled back from stays away until someone asks for it.

    Raises:
        ModelError: there is no candidate, its blocking checks have not all passed, or it
            needs an approval that nobody gave.
    """
    candidate = registry.require(settings, CANDIDATE)
    champion = registry.version(settings, CHAMPION)
    before = champion.number if champion else None
    why = "the first champion" if before is None else candidate.tags.get(registry.JUDGED, "")
    if champion is not None and before != candidate.number and LEFT in candidate.tags:
        left = f"version {candidate.number} was rolled back: {candidate.tags[LEFT]}"
        # Whoever moved the alias by hand has written no row.
        settle(settings, tables, champion, candidate.number, deployment_log.ROLLED_BACK, left, by)
        return Promotion(before, champion.number, left)
    if before != candidate.number:
        require_fit(settings, candidate)
        registry.point(settings, CHAMPION, candidate.number)
    settle(settings, tables, candidate, before, deployment_log.PROMOTED, why, by)
    return Promotion(
        before, candidate.number, "champion already" if before == candidate.number else why
    )


def settle(
    settings: Settings,
    tables: TableLog,
    champion: Version,
    before: str | None,
    action: str,
    why: str,
    by: str = "",
) -> None:
    """Bring the ledger and the alias `previous` in line with the champion."""
    left = deployment_log.record(settings, tables, champion, before, action, why, by)
    previous = registry.version(settings, PREVIOUS)
    if left is not None and (previous is None or previous.number != left):
        registry.point(settings, PREVIOUS, left)


def require_fit(settings: Settings, version: Version) -> None:
    """Refuse a version whose checks did not pass, or that waits for its approval.

    Raises:
        ModelError: it is one.
    """
    if version.tags.get(CHECKS) != "passed":
        raise ModelError(
            "A champion must have passed its blocking checks",
            f"version {version.number}: checks {version.tags.get(CHECKS, 'not run')}",
            "Materialize fare_model again and read its failed checks",
        )
    if settings.require_approval and version.tags.get(APPROVAL, "").lower() != APPROVED.lower():
        raise ModelError(
            "A champion must be approved by a person here",
            f"version {version.number} has no tag {APPROVAL}={APPROVED}",
            f"Read its model card, then taxi-assets approve {version.number} for the same target",
        )


def approve(settings: Settings, number: str) -> Version:
    """Tag a version as approved.

    Raises:
        ModelError: there is no such version.
    """
    version = registry.numbered(settings, number)
    registry.tag(settings, version.number, APPROVAL, APPROVED)
    registry.tag(settings, version.number, f"{APPROVAL}_by", deployment_log.who())
    return version
