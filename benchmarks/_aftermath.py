"""What a home holds after a kill and a rerun: its rows against a clean run's, and leftovers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.platforms.embedded.session import SCRATCH
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

# Requests are captured as they come, and a killed run has sent some of its own: only a part of
# these tables is a clean run's.
CAPTURED = ("endpoint_payloads",)
ENDED = ("FINISHED", "FAILED", "KILLED")  # states of an MLflow run
NAMES_A_RUN = ("run_id",)
VERSIONS = ("model_version", "from_version", "to_version")
# They follow from a model that was fitted anew: the same to rounding, each within its bound.
FITTED = {
    "predicted_fare": 0.01,
    "population_stability_index": 1e-6,
    "jensen_shannon": 1e-6,
    "wasserstein": 1e-6,
    "rmse": 1e-6,
    "mae": 1e-6,
    "bias": 1e-6,
}


@dataclass(frozen=True)
class Contents:
    """Every table of a home, rows in order of their key; metrics of the champion; its number."""

    tables: Mapping[str, pa.Table]
    metrics: Mapping[str, float]
    version: str


def contents(settings: Settings) -> Contents:
    """What the home holds, without what says when or by which run it was made.

    A version that a killed run registered and did not finish is never used, and its number
    is not given again: the champion is called `champion`, whatever its number.
    """
    report = json.loads((settings.home / "last_run.json").read_text())
    version = str(report["model"]["version"])
    tables, metrics = {}, dict(report["model"]["metrics"])
    for table in schemas.TABLES.values():
        path = settings.table_path(table.name)
        if table.name not in CAPTURED and path.exists():
            tables[table.name] = _rows(path, table, version)
    return Contents(tables, metrics, version)


def differences(ours: Contents, clean: Contents) -> list[str]:
    """Where the two differ, in words; empty where they do not."""
    found = []
    for name in sorted({*ours.tables, *clean.tables}):
        if name not in ours.tables or name not in clean.tables:
            found.append(f"{name} is in one of the two alone")
            continue
        found += _differences(name, ours.tables[name], clean.tables[name])
    for metric, value in clean.metrics.items():
        if abs(ours.metrics.get(metric, float("nan")) - value) > 1e-6 * abs(value):
            found.append(f"{metric} {ours.metrics.get(metric)} against {value}")
    return found


def _rows(path: Path, table: schemas.Table, version: str) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc
    from deltalake import DeltaTable

    rows = DeltaTable(str(path)).to_pyarrow_table()
    if table.name == "live_performance":
        rows = rows.filter(pc.field("predictions") == "batch")
    left_out = {*table.computed, *NAMES_A_RUN}
    if table.name == "deployments":
        left_out.add("metrics")  # JSON of numbers that are compared as such
    rows = rows.select([name for name in table.names if name not in left_out])
    for name in set(VERSIONS).intersection(rows.column_names):
        values = rows.column(name)
        called = pc.if_else(pc.equal(values, version), "champion", values)
        rows = rows.set_column(rows.column_names.index(name), name, called)
    key = [(name, "ascending") for name in table.primary_key or table.names]
    ordered: pa.Table = rows.cast(pa.schema(rows.schema)).sort_by(key).combine_chunks()
    return ordered


def _differences(name: str, ours: pa.Table, clean: pa.Table) -> list[str]:
    if ours.num_rows != clean.num_rows:
        return [f"{name} has {ours.num_rows:,} rows, not {clean.num_rows:,}"]
    found = []
    for column in clean.column_names:
        differing = _differing(column, ours.column(column), clean.column(column))
        if differing:
            found.append(f"{name}.{column} differs in {differing:,} of {ours.num_rows:,} rows")
    return found


def _differing(column: str, ours: Any, clean: Any) -> int:
    import numpy as np
    import pyarrow.compute as pc

    if ours.equals(clean):
        return 0
    if column in FITTED:
        given = [pc.fill_null(side, float("nan")).to_numpy() for side in (ours, clean)]
        near = np.isclose(*given, rtol=1e-6, atol=FITTED[column], equal_nan=True)
        return int((~near).sum())
    pairs = zip(ours.to_pylist(), clean.to_pylist(), strict=True)
    return sum(mine != other for mine, other in pairs)


def leftovers(settings: Settings, temporary: Path) -> list[str]:
    """What a killed run has left that the rerun should have ended or removed, in words."""
    there = (f"temporary {path.name}" for path in sorted(temporary.iterdir()))
    return [*_files(settings), *there, *_open_runs(settings)]


def _files(settings: Settings) -> list[str]:
    found = []
    for table in schemas.TABLES:
        root = settings.table_path(table)
        known = _logged(root)
        for path in sorted(root.rglob("*")):
            place = path.relative_to(root)
            if place.parts[0] == "_staging":
                if len(place.parts) == 2:
                    found.append(f"{table}: staged {place.name}")
            elif place.parts[0] == "_delta_log":
                if path.is_file() and path.suffix not in (".json", ".parquet", ".checkpoint"):
                    found.append(f"{table}: {place}")
            elif path.is_file() and str(place) not in known:
                found.append(f"{table}: {place}, in no commit")
    scratch = [*settings.home.rglob(".new-*"), *settings.home.glob(".token-*")]
    # The lock of the run that has just ended is swept by the next one; it is empty.
    spilled = (settings.home / SCRATCH).rglob("*")
    scratch += [path for path in spilled if path.is_file() and path.suffix != ".lock"]
    return found + [f"unfinished {path.relative_to(settings.home)}" for path in scratch]


def _logged(root: Path) -> set[str]:
    """Every data file that some commit of the table names."""
    from urllib.parse import unquote

    found = set()
    for commit in (root / "_delta_log").glob("*.json"):
        for line in commit.read_text().splitlines():
            for kind in ("add", "cdc"):
                action = json.loads(line).get(kind)
                if action:
                    found.add(unquote(action["path"]))
    return found


def _open_runs(settings: Settings) -> list[str]:
    import dagster as dg

    from databricks_steps.training import registry

    with dg.DagsterInstance.from_config(str(settings.home / "dagster")) as instance:
        left = [run for run in instance.get_runs() if not run.is_finished]
    found = [f"Dagster run {run.run_id[:8]} is {run.status.value}" for run in left]
    client = registry.client(settings)
    experiment = client.get_experiment_by_name(settings.experiment)
    assert experiment is not None
    tracked = client.search_runs([experiment.experiment_id])
    running = [run.info for run in tracked if run.info.status not in ENDED]
    return found + [f"MLflow run {info.run_id[:8]} is {info.status}" for info in running]


def stage_under_way(settings: Settings) -> str:
    """The step that the newest failed run was at, from its events; no such run, no step."""
    import dagster as dg

    filters = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
    with dg.DagsterInstance.from_config(str(settings.home / "dagster")) as instance:
        runs = instance.get_runs(filters, limit=1)
        if not runs:
            return ""
        under_way, last = "", "the run's start"
        for entry in instance.all_logs(runs[0].run_id):
            event = entry.dagster_event
            if event is not None and event.event_type_value == "STEP_START":
                under_way = event.step_key or ""
            elif event is not None and event.event_type_value == "STEP_SUCCESS":
                under_way, last = "", event.step_key or ""
    return under_way or f"after {last}"
