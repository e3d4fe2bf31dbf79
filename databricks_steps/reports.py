"""What an orchestrator records of a step: its outcomes, and what only the platform can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from databricks_steps import fingerprint, schemas
from databricks_steps.cost import Cost
from databricks_steps.interfaces import Outcome, Platform
from databricks_steps.steps import STEPS


@dataclass(frozen=True)
class Report:
    """An outcome with its seconds and memory among the figures; of a table, where it is.

    `rows_by_month` is month → its own rows, of a table with months. `data_version` changes when
    rows of the months are written, or with a model's version.
    """

    outcome: Outcome
    uri: str | None = None
    table_version: int | None = None
    data_version: str | None = None
    rows_by_month: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"outcome": self.outcome.to_json()}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Report:
        return cls(**{**told, "outcome": Outcome.from_json(told["outcome"])})


def reported(
    platform: Platform,
    step: str,
    months: Sequence[str] | None,
    force: bool = False,
    source: str = "",
) -> tuple[Report, ...]:
    """Run a step for the months (default: all at hand) and report each outcome.

    `source` stands in for the source of the settings.
    """
    if source:
        platform = platform.with_settings(replace(platform.settings, source=source))
    cost = Cost()
    with platform.at_work():
        outcomes = STEPS[step].run(platform, months, force)
    took = cost.figures()
    return tuple(
        _report(platform, replace(each, figures={**each.figures, **took}), months)
        for each in outcomes
    )


def _report(platform: Platform, outcome: Outcome, months: Sequence[str] | None) -> Report:
    name, tables = outcome.name, platform.tables
    if name not in schemas.TABLES:
        version = outcome.figures.get("model_version")
        return Report(outcome, data_version=None if version is None else str(version))
    held = months if schemas.TABLES[name].month else None
    # Of a table that holds more than the step's own rows the step tells how many those are.
    told = outcome.figures.get("rows_by_month", {})
    rows = {m: told[m] if m in told else tables.rows(name, [m]) for m in held or ()}
    # All months of a range share one: a skipped month leaves what depends on it fresh.
    contents = f"{fingerprint.digest(tables.contents(name, held)):x}"
    return Report(outcome, tables.uri(name), tables.version(name), contents, rows)
