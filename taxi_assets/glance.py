"""What Dagster and the alerts of a home say at a glance: failing checks, sensors, open problems.

Dagster's records are read by SQL: to import Dagster takes longer than the answer. A test holds what
is read equal to what Dagster says itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings, inherited
from databricks_steps.training.registry import Version
from taxi_assets.resources.alerts import AlertLog
from taxi_assets.storage import POSTGRES

Rows = Callable[[str, str], list[Any]]  # of a storage's query; the storage is a file of SQLite
CHECKS, SCHEDULES = "history/runs/index.db", "schedules/schedules.db"
_FAILING = """
SELECT asset_key, check_name, evaluation_event FROM asset_check_executions
WHERE execution_status = 'FAILED' AND evaluation_event_storage_id IN (
    SELECT max(evaluation_event_storage_id) FROM asset_check_executions
    WHERE evaluation_event IS NOT NULL GROUP BY asset_key, check_name)
"""
_TICKS = """
SELECT tick_body FROM job_ticks WHERE id IN (
    SELECT max(id) FROM job_ticks WHERE type = 'SENSOR' GROUP BY selector_id)
"""


def watched(settings: Settings) -> dict[str, Any]:
    """`failing_checks` asset: check → reason; `sensors` name → last tick; `problems` open keys.

    Empty where Dagster has never run in this home, which is not made for the question.

    Raises:
        SettingsError: Dagster's records cannot be read.
    """
    home = settings.home / "dagster"
    if not (home / "dagster.yaml").exists():
        return {"failing_checks": {}, "sensors": {}, "problems": []}
    url = inherited().get(POSTGRES)
    rows = _of_postgres(url) if url else _of_sqlite(home)
    return {
        "failing_checks": failing_checks(rows),
        "sensors": last_ticks(rows),
        "problems": [problem.key for problem in AlertLog(settings).problems()],
    }


def failing_checks(rows: Rows) -> dict[str, str]:
    """Checks whose newest evaluation failed, with its reason."""
    found = {}
    for asset, check, event in rows(CHECKS, _FAILING):
        evaluation = json.loads(event)["dagster_event"]["event_specific_data"]
        found[f"{'/'.join(json.loads(asset))}: {check}"] = evaluation["description"] or ""
    return dict(sorted(found.items()))


def last_ticks(rows: Rows) -> dict[str, dict[str, Any]]:
    """Sensor → when it last looked (UTC), with what result, and why it did nothing."""
    ticks = {}
    for (body,) in rows(SCHEDULES, _TICKS):
        tick = json.loads(body)
        at = datetime.fromtimestamp(tick["timestamp"], timezone.utc)
        ticks[tick["job_name"]] = {
            "at": at.isoformat(timespec="seconds"),
            "status": tick["status"]["__enum__"].rpartition(".")[2].lower(),
            "why": tick.get("skip_reason") or "",
        }
    return dict(sorted(ticks.items()))


def _of_sqlite(home: Path) -> Rows:
    def rows(storage: str, query: str) -> list[Any]:
        file = home / storage
        if not file.exists():
            return []
        try:
            address = f"{file.absolute().as_uri()}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=20)) as database:
                return database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(file, error) from error

    return rows


def _of_postgres(url: str) -> Rows:
    def rows(_: str, query: str) -> list[Any]:
        import sqlalchemy

        try:
            with sqlalchemy.create_engine(url).connect() as database:
                return list(database.execute(sqlalchemy.text(query)))
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            raise _unreadable(POSTGRES, error) from error

    return rows


def _unreadable(where: object, error: Exception) -> SettingsError:
    said = str(error).strip().splitlines()
    return SettingsError(
        "Dagster's records must be readable",
        f"{where}: {said[0] if said else type(error).__name__}",
        "Restore TAXI_HOME/dagster from a backup, or start PostgreSQL",
    )


def age_days(champion: Version) -> float:
    """Days since a version was registered."""
    at = datetime.fromtimestamp(champion.registered_at / 1000, timezone.utc)
    return (datetime.now(timezone.utc) - at).total_seconds() / 86_400


def lines(found: Mapping[str, Any]) -> list[str]:
    """The same for people."""
    failing = [f"  {name}: {why}" for name, why in found["failing_checks"].items()]
    ticks = [
        f"  {name:<24}{tick['at']}  {tick['status']}  {tick['why']}".rstrip()
        for name, tick in found["sensors"].items()
    ]
    problems = found["problems"]
    return [
        f"failing   {len(failing)} checks" if failing else "failing   no check",
        *failing,
        "sensors" if ticks else "sensors   have not looked yet: taxi-assets dev starts them",
        *ticks,
        f"problems  {len(problems)} open{': taxi-assets alerts' if problems else ''}",
    ]
