"""The far side: what a task on Databricks' compute is asked for, by name, in plain values.

Runs from the wheel, as its entry point `taxi-call`, where there is no Dagster. A step is asked for
by Dagster Pipes, everything else by files of a folder on a volume.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from databricks_steps import schemas
from databricks_steps.errors import TaxiError
from databricks_steps.interfaces import Platform
from databricks_steps.platforms import factory
from databricks_steps.platforms.databricks import probe
from databricks_steps.platforms.databricks.platform import cluster_session
from databricks_steps.settings import EMBEDDED
from databricks_steps.training import registry
from taxi_assets.resources.targets import export, target

CALL, ANSWER = "call.json", "answer.json"
# Small tables whose rows are told with the number of rows and the months of all.
RECORDS = ("arrivals", "deployments", "drift_report", "live_performance")
Tracked = Callable[[], AbstractContextManager[str]]


def report(
    platform: Platform, step: str, months: Sequence[str] | None, force: bool, source: str
) -> list[dict[str, Any]]:
    """What a step reports of each of its outcomes."""
    from databricks_steps.reports import reported

    return [each.to_json() for each in reported(platform, step, months, force, source)]


def python_workers(platform: Platform) -> str:
    """What workers there made of a function of the wheel: all that is installed can be had."""
    return probe.workers(platform.spark)


def train_serve_parity(platform: Platform, trips: int) -> dict[str, Any]:
    """Holdout trips, as many as asked for, sent to the endpoint and computed offline."""
    from taxi_assets.deployment.verification import parity
    from taxi_assets.resources.workspace import Workspace

    champion = registry.require(platform.settings, registry.CHAMPION)
    files = registry.folder(platform.settings, champion.number)
    client = Workspace(platform.settings).client
    return asdict(parity(client, platform, files, trips))


def snapshot(platform: Platform) -> dict[str, Any]:
    """By table: its version, rows by month (of an uncut one under ""), and for small ones all."""
    tables, found = platform.tables, {}
    for name, table in schemas.TABLES.items():
        if not tables.exists(name):
            continue
        months = tables.months(name) if table.month else [""]
        found[name] = {
            "rows": {m: tables.rows(name, [m] if table.month else None) for m in months},
            "records": tables.records(name) if name in RECORDS else [],
        }
    return found


def append(platform: Platform, table: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return asdict(platform.tables.append(table, [from_plain(table, row) for row in rows]))


def reproduce(platform: Platform, version: str) -> dict[str, Any]:
    from databricks_steps.training import reproduction

    return reproduction.reproduce(platform, version).to_json()


def replay(platform: Platform, version: str, since: str, until: str) -> dict[str, Any]:
    from datetime import datetime

    from databricks_steps.monitoring import replay as again

    times = (datetime.fromisoformat(text) for text in (since, until))
    return again.replay(platform, version, *times).to_json()


CALLS: Mapping[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        report,
        python_workers,
        train_serve_parity,
        snapshot,
        append,
        reproduce,
        replay,
    )
}


def answered(call: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> Any:
    """The answer to a call, in plain values; `tags` are those of an MLflow run it may open."""
    export(call["variables"])
    settings = target().settings
    start = cluster_session if settings.platform == EMBEDDED else None
    platform = factory.platform(settings, start, lambda: registry.tracked_run(settings, tags))
    with platform.at_work():
        found = CALLS[call["name"]](platform, **call["arguments"])
    return plain(found)


def plain(found: Any) -> Any:
    """As JSON has it: what that has no word for is text."""
    return json.loads(json.dumps(found, default=str))


def from_plain(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table as its columns' types are, of plain values."""
    from datetime import datetime

    times = {c.name for c in schemas.TABLES[table].columns if c.type == "timestamp"}
    return {
        name: datetime.fromisoformat(value) if name in times and value else value
        for name, value in row.items()
    }


def task() -> None:
    """The entry point: the folder of a call, or the options of Pipes."""
    if len(sys.argv) == 2:
        _by_files(Path(sys.argv[1]))
    else:
        _by_pipes()


def _by_files(folder: Path) -> None:
    call = json.loads((folder / CALL).read_text(encoding="utf-8"))
    try:
        answer = {"answer": answered(call)}
    except TaxiError as error:
        answer = {"error": str(error)}
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")


def _by_pipes() -> None:
    from dagster_pipes import (
        PipesCliArgsParamsLoader,
        PipesUnityCatalogVolumesContextLoader,
        PipesUnityCatalogVolumesMessageWriter,
        open_dagster_pipes,
    )

    with open_dagster_pipes(
        params_loader=PipesCliArgsParamsLoader(),  # type: ignore[no-untyped-call]
        context_loader=PipesUnityCatalogVolumesContextLoader(),
        message_writer=PipesUnityCatalogVolumesMessageWriter(interval=1),
    ) as pipes:
        pipes.report_custom_message(answered(pipes.extras, {"dagster_run_id": pipes.run_id}))
