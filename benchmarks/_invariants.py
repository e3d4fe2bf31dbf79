"""What must hold of a home at any time, read by deltalake, DuckDB and sqlite3 alone."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from databricks_steps import schemas
from databricks_steps.settings import Settings

PASSING = ("*.part", "*.tmp", ".new-*", ".token-*", ".*.restored")


def broken(settings: Settings) -> list[str]:
    """Rules that a home breaks, in words; its workspace and its runs are stopped."""
    roots = sorted(log.parent for log in settings.warehouse.rglob("_delta_log"))
    found = [text for root in roots for text in _table(settings, root)]
    found += [text for file in sorted(settings.home.rglob("*.db")) for text in _database(file)]
    champions = {
        "alias": champion(settings),
        "ledger": _ledger(settings),
        "endpoint": _endpoint(settings),
    }
    if len({*champions.values()}) != 1 or None in champions.values():
        found.append(f"champions differ: {champions}")
    return found


def remains(settings: Settings) -> list[str]:
    """Processes of the home, files of unfinished writes there, and held locks."""
    found = [f"process {pid}: {command}" for pid, command in _processes(settings.home)]
    for folder in (settings.home, settings.home.parent):
        found += unfinished(folder)
    locks = {file.stat().st_ino: file for file in settings.home.rglob("*.lock")}
    for line in Path("/proc/locks").read_text().splitlines():
        inode = int(line.split(":")[-1].split()[0]) if line.count(":") >= 3 else 0
        if inode in locks:
            found.append(f"locked {locks[inode].name}")
    return found


def unfinished(folder: Path) -> list[str]:
    """Files of a folder that somebody began to write."""
    files = (file for pattern in PASSING for file in folder.glob(pattern))
    return [f"unfinished {file.name}" for file in files]


def _table(settings: Settings, root: Path) -> list[str]:
    """Every file is there, its rows are as many as the log says, and keys are unique."""
    table = DeltaTable(str(root))
    files = [path.removeprefix("file://") for path in table.file_uris()]
    if absent := [path for path in files if not Path(path).exists()]:
        return [f"{root.name}: {len(absent)} of {len(files)} files are gone"]
    if not files:
        return []
    adds = pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()
    counts = (sum(adds.column("num_records").to_pylist()),)
    read = f"read_parquet({files}, hive_partitioning = true, union_by_name = true)"
    rows = _row(f"SELECT count(*) FROM {read}")
    found = [] if rows == counts else [f"{root.name}: {rows} rows, {counts} in the log"]
    known = schemas.TABLES.get(root.name)
    key = ("databricks_request_id",) if known is None else known.primary_key
    held = {field.name for field in table.schema().fields}
    if key and held.issuperset(key) and root == settings.table_path(root.name):
        query = f"SELECT count(*) FROM (SELECT DISTINCT {', '.join(key)} FROM {read})"
        if (keys := _row(query)) != rows:
            found.append(f"{root.name}: {rows} rows with {keys} keys")
    return found


def _row(query: str) -> tuple[Any, ...] | None:
    with closing(duckdb.connect()) as database:
        found: tuple[Any, ...] | None = database.execute(query).fetchone()
    return found


def _database(file: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        (told,) = database.execute("PRAGMA integrity_check").fetchone()
    return [] if told == "ok" else [f"{file.name}: {told}"]


def _one(file: Path, query: str, *values: str) -> Any:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        found = database.execute(query, values).fetchone()
    return found and found[0]


def champion(settings: Settings) -> str | None:
    """The version that the alias names."""
    query = "SELECT version FROM registered_model_aliases WHERE alias = 'champion' AND name = ?"
    version = _one(settings.home / "mlflow.db", query, settings.registered_model)
    return None if version is None else str(version)


def _ledger(settings: Settings) -> str | None:
    files = DeltaTable(str(settings.table_path("deployments"))).file_uris()
    query = f"SELECT to_version FROM read_parquet({files}) ORDER BY number DESC LIMIT 1"
    found = _row(query)
    return None if found is None else str(found[0])


def _endpoint(settings: Settings) -> str | None:
    query = "SELECT body FROM documents WHERE name = ? AND kind = 'endpoint'"
    body = _one(settings.home / "workspace.db", query, settings.endpoint)
    if body is None:
        return None
    config = json.loads(body)["config"] or {}
    return str(config["served_entities"][0]["entity_version"]) if config else None


def _processes(home: Path) -> list[tuple[int, str]]:
    """Live processes whose environment names the home."""
    found, wanted = [], f"TAXI_HOME={home}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found.append((int(folder.name), command.decode(errors="replace")[:80]))
            except OSError:
                continue
    return found
