"""Status of a home: last_run.json, the summary of a run, what is held, failing checks and sensors.

Dagster's records are read by SQL: to import Dagster takes longer than the answer. A test holds what
is read equal to what Dagster says itself.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from databricks_steps import atomic_write, schemas
from databricks_steps.errors import SettingsError, TaxiError
from databricks_steps.interfaces import TableLog
from databricks_steps.platforms.embedded.tables import DeltaTables
from databricks_steps.settings import DEMO, EMBEDDED, Settings, inherited
from databricks_steps.training import registry
from databricks_steps.training.registry import Version
from databricks_steps.trips import arrivals
from taxi_assets.resources.alerts import AlertLog, JsonLines, instant
from taxi_assets.resources.dead_letters import DeadLetters
from taxi_assets.resources.targets import POSTGRES
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from taxi_assets.progress import Progress

DISK_LOG = "disk.jsonl"  # a line a day: when, and bytes by entry of the home
DISK_DAYS = 30  # days over which growth is told
FAR_DAYS = 3_650  # a disk that is full later than that is not told of
NOT_RUNNING = "not running: taxi-assets serve starts it, on Databricks taxi-assets deploy"
UNWATCHED = ": no alert is raised before taxi-assets dev watches"
LAST_RUN = "last_run.json"
_REFUSED = ("source", "name", "reason", "remedy", "bytes")  # of a refused file, in a status
SHOWN = 10  # refused files in a summary
TRIP_MONTHS = ("trip_month", "known_month")
Answer = TypeVar("Answer")
_LOG = logging.getLogger(__name__)
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


def logs(settings: Settings) -> DeltaTables:
    """The tables for what their logs tell: months, rows, versions. Reading rows needs Spark."""

    def no_spark() -> Any:
        raise AssertionError("a table's log is read without Spark")

    return DeltaTables(settings, no_spark)


def results(settings: Settings, months: Sequence[str], seen: Progress) -> dict[str, Any]:
    """What a run has made: on this machine the tables themselves say, elsewhere its events."""
    found: dict[str, Any] = {"tables": dict(seen.rows)}
    if settings.platform == EMBEDDED:
        tables = logs(settings)
        found["tables"] = {
            # Requests are of the months in which they were asked, not of months of trips.
            name: tables.rows(name, list(months) if table.month in TRIP_MONTHS else None)
            for name, table in schemas.TABLES.items()
            if tables.exists(name)
        }
    champion = _told(lambda: registry.version(settings, registry.CHAMPION))
    if champion is not None:
        metrics = {name: champion.metrics.get(name) for name in ("rmse", "mae", "r2")}
        found["model"] = {
            "name": settings.registered_model,
            "version": champion.number,
            "alias": registry.CHAMPION,
            "metrics": metrics,
        }
    found["endpoint"] = _told(lambda: endpoint_state(settings))
    # The table holds fares of earlier champions, too.
    found["batch_predictions"] = {"rows": seen.rows.get("batch_predictions", 0)}
    found["refused_files"] = dict(seen.refused)
    return found | {"checks": dict(seen.checks), "stages": list(seen.stages)}


def _told(ask: Callable[[], Answer]) -> Answer | None:
    """The answer, or None with a warning: what became of the run is known and not to be hidden."""
    try:
        return ask()
    except (TaxiError, OSError) as error:
        _LOG.warning("the report of the run goes without an answer: %s", error)
        return None


def endpoint_state(settings: Settings) -> dict[str, Any] | None:
    """Name, address, version and state of the endpoint; None when there is none."""
    if settings.platform == EMBEDDED:
        from taxi_assets.emulator import process  # no part of the wheel

        if not process.status(settings).running:
            return None
    workspace = Workspace(settings)
    found = workspace.endpoint()
    if found is None:
        return None
    entities = found.get("config", {}).get("served_entities") or [{}]
    return {
        "name": settings.endpoint,
        "url": f"{workspace.host}/serving-endpoints/{settings.endpoint}/invocations",
        "version": entities[0].get("entity_version"),
        "state": found.get("state", {}).get("ready"),
    }


def held(settings: Settings, tables: TableLog | None = None) -> dict[str, Any]:
    """What a home holds, as the tables' logs, the registry, the endpoint and Dagster tell.

    `tables` stand in for those of the home, on a Databricks target.
    """
    tables = tables or logs(settings)
    held = {
        name: {"rows": tables.rows(name), "months": tables.months(name) if table.month else []}
        for name, table in schemas.TABLES.items()
        if tables.exists(name)
    }
    champion = registry.version(settings, registry.CHAMPION) if held else None
    model = None
    if champion is not None:
        model = {
            "version": champion.number,
            "metrics": dict(champion.metrics),
            "age_days": round(age_days(champion), 2),
        }
    found = {"home": str(settings.home), "tables": held, "champion": model}
    found["arrivals"] = arrived(tables)
    found["disk"] = DiskLog(settings).forecast()
    return found | {"endpoint": endpoint_state(settings)} | watched(settings)


class DiskLog:
    """The size of a home, a line a day, from which its growth is told."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home
        self._lines = JsonLines(settings.home / DISK_LOG)

    @property
    def last(self) -> float:
        """When a size was noted last, in seconds since 1970; 0 for never.

        What a clock has noted that was ahead does not count.
        """
        now = time.time()
        return max((at for at, _ in self._noted() if at <= now), default=0.0)

    def note(self) -> None:
        """Write down what the home's entries hold now."""
        self._lines.append([{"at": time.time(), "bytes": _sizes(self._home)}])

    def forecast(self) -> dict[str, Any]:
        """`bytes` now, `free` on the disk, `daily` growth in bytes of the last month.

        `daily` is None where less than a day is known of, and `days` is over how many it is told.
        """
        now, size = time.time(), sum(_sizes(self._home).values())
        since = now - DISK_DAYS * 86_400
        known = [(at, held) for at, held in self._noted() if since <= at <= now - 86_400]
        at, before = min(known, default=(now, 0))
        days = (now - at) / 86_400
        free = shutil.disk_usage(self._home).free if self._home.exists() else None
        daily = round((size - before) / days) if known else None
        return {"bytes": size, "free": free, "daily": daily, "days": round(days, 1)}

    def _noted(self) -> list[tuple[float, int]]:
        found = []
        for row in self._lines.rows():
            with suppress(KeyError, TypeError, ValueError, AttributeError):  # of another shape
                found.append((float(row["at"]), sum(map(int, row["bytes"].values()))))
        return found


def _sizes(home: Path) -> dict[str, int]:
    """Entry of the home → bytes of its files."""
    found: dict[str, int] = {}
    for folder, _, files in os.walk(home):
        for name in files:
            path = Path(folder, name)
            with suppress(OSError):  # it went meanwhile
                entry = path.relative_to(home).parts[0]
                found[entry] = found.get(entry, 0) + path.lstat().st_size
    return found


def disk_line(found: Mapping[str, Any]) -> str:
    """What `DiskLog.forecast` found, for people."""
    told = f"disk      {found['bytes'] / 2**20:,.0f} MiB"
    if found["daily"] is None:
        return f"{told}; growth is told from the second day with a run"
    daily, free = found["daily"], found["free"]
    told += f", {daily / 2**20:+,.1f} MiB a day over {found['days']:.0f} days"
    if daily <= 0 or free is None or free // daily > FAR_DAYS:
        return told
    return f"{told}, {free / 2**30:,.1f} GiB free: full in {free // daily:,} days"


def arrived(tables: TableLog) -> dict[str, Any]:
    """The ledger of arrivals: entries by status, and what is refused, by cause."""
    rows = tables.records(arrivals.NAME)
    return {
        "entries": arrivals.counts(rows),
        "refused": {
            cause: [{name: row[name] for name in _REFUSED} for row in files]
            for cause, files in arrivals.by_cause(rows).items()
        },
    }


def arrived_lines(found: Mapping[str, Any]) -> list[str]:
    """What `arrived` found, as lines for people: a line a cause."""
    entries = ", ".join(f"{count:,} {name}" for name, count in found["entries"].items())
    lines = [f"arrivals  {entries or 'nothing came yet'}"]
    for files in found["refused"].values():
        first, more = files[0], len(files) - 1
        others = f" (and {more:,} more)" if more else ""
        lines.append(f"  refused {first['name']}{others}: {first['reason']}. {first['remedy']}")
    return lines


def status_text(found: Mapping[str, Any]) -> str:
    """The status for people."""
    lines = [f"home      {found['home']}"]
    for name, table in found["tables"].items():
        months = f"{table['months'][0]} to {table['months'][-1]}" if table["months"] else ""
        lines.append(f"  {name:<20}{table['rows']:>14,} rows  {months}".rstrip())
    if not found["tables"]:
        lines.append("  no tables yet: ./run_mlops.sh makes them")
    model, endpoint = found["champion"], found["endpoint"]
    lines.append(
        f"champion  version {model['version']}, {model['age_days']:.1f} days old, "
        f"{_measures(model['metrics'])}"
        if model
        else "champion  none yet"
    )
    lines.append(
        f"endpoint  {endpoint['state']}, version {endpoint['version']}, {endpoint['url']}"
        if endpoint
        else f"endpoint  {NOT_RUNNING}"
    )
    disk = [disk_line(found["disk"])]
    return "\n".join([*lines, *disk, *arrived_lines(found["arrivals"]), *watched_lines(found)])


def summary(report: Mapping[str, Any]) -> str:
    """The end of a run for people: what came out, and what to do with it."""
    model, endpoint = report.get("model"), report.get("endpoint")
    checks = report["checks"]
    names = ("raw_trips", "trips", "quarantined_trips")
    raw, valid, quarantined = (report["tables"].get(name, 0) for name in names)
    scored = report["batch_predictions"]["rows"]
    ours = _program()
    about_model = ["model        not told by the registry"]
    if model:
        about_model = [
            f"model        {model['name']}, version {model['version']}, {model['alias']}",
            f"             {_measures(model['metrics'])} on the holdout{_made_up(report)}",
        ]
    about_endpoint = "not told by the workspace"
    if endpoint:
        about_endpoint = f"{endpoint['state']}, version {endpoint['version']}, {endpoint['url']}"
    return "\n".join(
        (
            f"status: {report['status']} in {report['seconds']} s",
            f"trips        {raw:,} raw = {valid:,} valid + {quarantined:,} quarantined",
            *about_model,
            f"endpoint     {about_endpoint}",
            f"predictions  {scored:,} rows for {report['months'][-1]}",
            f"checks       {', '.join(f'{count} {name}' for name, count in checks.items())}",
            *_refused_lines(report["refused_files"]),
            f"next         {ours} query --now 74 42 1.8  # a fare between zones, with its range",
            f"             {ours} dev  # assets, runs and checks in the browser",
            f"             {ours} serve  # an address for months, models and endpoint",
            f"             {ours} stop  # until then the endpoint serves",
        )
    )


def _made_up(report: Mapping[str, Any]) -> str:
    """Demo trips scatter less than real ones: nobody is to compare the two."""
    return " of made-up trips" if report["source"] == DEMO else ""


def _program() -> str:
    """The program as a shell in this folder finds it, so that lines work when pasted."""
    ours = Path(sys.executable).with_name("taxi-assets")
    found = shutil.which("taxi-assets")
    if found is not None and Path(found).resolve() == ours.resolve():
        return "taxi-assets"
    return str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours)


def _refused_lines(refused: Mapping[str, str]) -> list[str]:
    lines = [f"refused      {name}: {why}" for name, why in list(refused.items())[:SHOWN]]
    more = len(refused) - SHOWN
    return [*lines, *([f"             and {more:,} more: taxi-assets status"] if more > 0 else [])]


def _measures(metrics: Mapping[str, float]) -> str:
    return f"RMSE {metrics['rmse']:.2f}, MAE {metrics['mae']:.2f} dollars, R² {metrics['r2']:.3f}"


def write(settings: Settings, report: Mapping[str, Any]) -> None:
    """Write last_run.json."""
    atomic_write.write(settings.home / LAST_RUN, json.dumps(report, indent=2) + "\n")


def watched(settings: Settings) -> dict[str, Any]:
    """`failing_checks` asset: check → reason; `sensors` name → last tick; `problems` open keys.

    Empty where Dagster has never run in this home, which is not made for the question.

    Raises:
        SettingsError: Dagster's records cannot be read.
    """
    home = settings.home / "dagster"
    if not (home / "dagster.yaml").exists():
        return {
            "failing_checks": {},
            "sensors": {},
            "problems": [],
            "acknowledged": 0,
            "dead_letters": 0,
        }
    url = inherited().get(POSTGRES)
    rows = _of_postgres(url) if url else _of_sqlite(home)
    log = AlertLog(settings)
    problems, acknowledged, now = log.problems(), log.acknowledgements(), instant()
    said = [(acknowledged[p.key], p) for p in problems if p.key in acknowledged]
    quiet = [p for each, p in said if each.covers(p, now) and each.active(now)]
    return {
        "failing_checks": failing_checks(rows),
        "sensors": last_ticks(rows),
        "problems": [problem.key for problem in problems],
        "acknowledged": len(quiet),
        "dead_letters": len(DeadLetters(settings.home).waiting()),
    }


def unwatched(settings: Settings) -> str:
    """That no sensor has raised an alert yet, where that is so; else nothing."""
    return "" if watched(settings)["sensors"] else UNWATCHED


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
        if (months := _months(tick.get("cursor"))) is not None:
            ticks[tick["job_name"]]["months"] = months
    return dict(sorted(ticks.items()))


def _months(cursor: str | None) -> dict[str, str] | None:
    """Month → what became of it, as a sensor's cursor has it; None of other sensors."""
    try:
        found = json.loads(cursor or "{}")
    except ValueError:
        return None
    months = found.get("months") if isinstance(found, dict) else None
    return months if isinstance(months, dict) else None


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


def watched_lines(found: Mapping[str, Any]) -> list[str]:
    """What `watched` found, as lines for people."""
    failing = [f"  {name}: {why}" for name, why in found["failing_checks"].items()]
    ticks = [
        f"  {name:<24}{tick['at']}  {tick['status']}  {tick['why']}".rstrip()
        for name, tick in found["sensors"].items()
    ]
    problems, letters = found["problems"], found["dead_letters"]
    told = f", {found['acknowledged']} acknowledged" if found["acknowledged"] else ""
    told += f", {letters} alerts were not taken" if letters else ""
    months = [
        f"  {month}  {outcome}"
        for tick in found["sensors"].values()
        for month, outcome in tick.get("months", {}).items()
    ]
    count = len(failing) or "no"
    return [
        f"failing   {count} check{'s' if len(failing) > 1 else ''}",
        *failing,
        "sensors" if ticks else f"sensors   never ticked{UNWATCHED}",
        *ticks,
        *(["months", *months] if months else []),
        f"problems  {len(problems)} open{told}{': taxi-assets alerts' if problems or told else ''}",
    ]
