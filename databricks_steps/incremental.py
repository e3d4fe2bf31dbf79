"""Month by month: what a month was made from is kept beside it, so that only changes are computed.

A step tells a digest of all inputs of each month; months whose digest differs are stale, are
computed together and committed with their digests (docs/adr/0002). The rest is skipped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from databricks_steps.interfaces import Tables


@dataclass(frozen=True)
class Plan:
    """The months of a step in their order, and those of them that have to be computed."""

    digests: Mapping[str, int]
    stale: list[str]

    @property
    def made_from(self) -> dict[str, int]:
        """Stale month → digest, to be committed with its rows."""
        return {month: self.digests[month] for month in self.stale}

    @property
    def figures(self) -> dict[str, Any]:
        """What the step tells of its months."""
        skipped = [month for month in self.digests if month not in self.stale]
        return {"months": list(self.digests), "skipped_months": skipped}


def plan(
    tables: Tables,
    names: Collection[str],
    digests: Mapping[str, int],
    force: bool | Collection[str] = False,
) -> Plan:
    """Stale is a month of which one of the tables was made from something else, or by `force`.

    `digests` is month → digest of its inputs as they are now; `force` is all months, or those.
    """
    forced = digests if force is True else force or ()

    def is_stale(month: str) -> bool:
        return month in forced or any(
            tables.made_from(name, month) != digests[month] for name in names
        )

    return Plan(digests, [month for month in digests if is_stale(month)])
