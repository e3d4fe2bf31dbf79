"""The ledger of deployments: one row for each move of the alias `champion`."""

from __future__ import annotations

import getpass
import json
from datetime import datetime, timezone
from typing import Any

from databricks_steps import schemas
from databricks_steps.interfaces import TableLog
from databricks_steps.settings import METRICS, Settings
from databricks_steps.training.registry import Version

PROMOTED, ROLLED_BACK = "promoted", "rolled back"
_NAME = schemas.DEPLOYMENTS.name


def entries(tables: TableLog) -> list[dict[str, Any]]:
    """Every row, the oldest first."""
    return sorted(tables.records(_NAME), key=lambda row: int(row["number"]))


def record(
    settings: Settings,
    tables: TableLog,
    champion: Version,
    before: str | None,
    action: str,
    why: str,
    by: str = "",
) -> str | None:
    """Append that `champion` is champion now, unless the last row says so; the version before it.

    `by` is who moved it, where the process runs as nobody in particular.

    Rows follow from what is, not from what a process did: one that was killed between the
    alias and the ledger leaves a row to write, and the next call writes it.
    """
    known = entries(tables)
    last = known[-1] if known else None
    if last is not None and last["to_version"] == champion.number:
        found: str | None = last["from_version"]
        return found
    before = last["to_version"] if last is not None else before
    metrics = {m.name: champion.metrics[m.name] for m in METRICS if m.name in champion.metrics}
    row = {
        "number": len(known) + 1,
        "action": action,
        "moved_at": datetime.now(timezone.utc),
        "moved_by": by or who(),
        "model": settings.registered_model,
        "from_version": before,
        "to_version": champion.number,
        "run_id": champion.run_id,
        "metrics": json.dumps(metrics),
        "why": why,
    }
    tables.append(_NAME, [row])
    return before


def who() -> str:
    """The user this process runs as."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return "unknown"
