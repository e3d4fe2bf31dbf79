"""What came out of a run and what a home holds: last_run.json, the summary, the status."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from databricks_steps import schemas
from databricks_steps.errors import TaxiError
from databricks_steps.platforms.embedded.tables import DeltaTables
from databricks_steps.settings import EMBEDDED, Settings
from databricks_steps.training import registry
from taxi_assets import glance
from taxi_assets.resources.workspace import Workspace
from taxi_assets.stages import Progress

LAST_RUN = "last_run.json"
TRIP_MONTHS = ("trip_month", "known_month")
Answer = TypeVar("Answer")
_LOG = logging.getLogger(__name__)


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
    from databricks_steps.workspace import process

    if settings.platform == EMBEDDED and not process.status(settings).running:
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


def status(settings: Settings) -> dict[str, Any]:
    """What a home holds, as the tables' logs, the registry, the endpoint and Dagster tell."""
    tables = logs(settings)
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
            "age_days": round(glance.age_days(champion), 2),
        }
    found = {"home": str(settings.home), "tables": held, "champion": model}
    return found | {"endpoint": endpoint_state(settings)} | glance.watched(settings)


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
        else "endpoint  not running: taxi-assets serve starts it"
    )
    return "\n".join([*lines, *glance.lines(found)])


def summary(report: Mapping[str, Any]) -> str:
    """The end of a run for people: what came out, and what to do with it."""
    model, endpoint = report.get("model"), report.get("endpoint")
    checks = report["checks"]
    names = ("raw_trips", "trips", "quarantined_trips")
    raw, valid, quarantined = (report["tables"].get(name, 0) for name in names)
    scored = report["batch_predictions"]["rows"]
    single = "databricks_steps/serving/config/test_single_prediction.json"
    about_model = ["model        not told by the registry"]
    if model:
        about_model = [
            f"model        {model['name']}, version {model['version']}, {model['alias']}",
            f"             {_measures(model['metrics'])} on the holdout",
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
            *(f"refused      {name}: {why}" for name, why in report["refused_files"].items()),
            f"next         taxi-assets query {single}; taxi-assets dev; taxi-assets stop",
        )
    )


def _measures(metrics: Mapping[str, float]) -> str:
    return f"RMSE {metrics['rmse']:.2f}, MAE {metrics['mae']:.2f} dollars, R² {metrics['r2']:.3f}"


def write(settings: Settings, report: Mapping[str, Any]) -> None:
    """Write last_run.json in one step: a reader sees the old one or the new."""
    path = settings.home / LAST_RUN
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)
