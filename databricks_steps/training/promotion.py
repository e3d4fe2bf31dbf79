"""Who is champion: the alias moves from one checked version to the next, and keeps the last one."""

from __future__ import annotations

from dataclasses import dataclass

from databricks_steps.errors import ModelError
from databricks_steps.settings import Settings
from databricks_steps.training import registry
from databricks_steps.training.registry import CANDIDATE, CHAMPION, CHECKS, PREVIOUS


@dataclass(frozen=True)
class Promotion:
    """From which version to which; equal when the candidate was champion already."""

    before: str | None
    after: str


def promote(settings: Settings) -> Promotion:
    """Make the candidate the champion.

    Raises:
        ModelError: there is no candidate, or its blocking checks have not all passed.
    """
    candidate = registry.require(settings, CANDIDATE)
    champion = registry.version(settings, CHAMPION)
    before = champion.number if champion else None
    if before == candidate.number:
        return Promotion(before, candidate.number)
    if candidate.tags.get(CHECKS) != "passed":
        raise ModelError(
            "A champion must have passed its blocking checks",
            f"version {candidate.number}: checks {candidate.tags.get(CHECKS, 'not run')}",
            "Materialize fare_model again and read its failed checks",
        )
    if before is not None:
        registry.point(settings, PREVIOUS, before)
    registry.point(settings, CHAMPION, candidate.number)
    return Promotion(before, candidate.number)
