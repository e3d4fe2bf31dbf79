"""What lies in TAXI_HOME: its entries, which of them a backup holds, and every table on disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

from databricks_steps import schemas
from databricks_steps.settings import Settings
from taxi_assets.graph import BY_MONTH

# Entries of the home that a backup holds. What names others is copied before what it names.
BACKED_UP = (
    "alerts_told.jsonl",
    "alerts_dead_letters.jsonl",
    "alerts_acknowledged.jsonl",
    "alerts.jsonl",
    "last_run.json",
    "dagster",
    "online.db",
    "workspace.db",
    "mlflow.db",
    "mlartifacts",
    "warehouse",
    "workspace",
    "reports",
    "landing",
)
# Made anew by whoever needs them, or of this machine alone.
LEFT_OUT = (
    "token",
    "backtest",
    "alert_attempts.json",
    "check_cache",
    "disk.jsonl",
    "downloads",
    "file_sums.json",
    "logs",
    "matplotlib",
    "scratch",
    "source_files.json",
    "spark-warehouse",
    "workspace.json",
)
OF_THIS_MACHINE = ("dagster/dagster.yaml",)  # where Dagster's storage is, and its classes
PASSING = (".lock", ".part", ".tmp", "-wal", "-shm", "-journal")  # ends of names
UNFINISHED = (".new-", ".token-")  # beginnings of names
_COMMITTING = re.compile(r"\.json#\d+$")  # as Delta's log has a commit that is being written


def is_database(place: PurePath) -> bool:
    """Whether a file, by its place in the home, is a database in SQLite; `Thumbs.db` is none.

    Dagster keeps the events that are of no run in a file that is called `.db`.
    """
    ours = len(place.parts) == 1 or place.parts[0] == "dagster"
    return ours and place.name.endswith(".db")


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk`; a folder that goes meanwhile has nothing, one that cannot be read is an error."""

    def told(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, folders, names in os.walk(root, onerror=told):
        yield Path(folder), folders, names


def files(root: Path) -> list[Path]:
    """The files below a folder, in order."""
    return sorted(folder / name for folder, _, names in walk(root) for name in names)


def is_passing(path: Path) -> bool:
    """Whether it is a lock, or a file that somebody is writing now."""
    name = path.name
    return name.endswith(PASSING) or name.startswith(UNFINISHED) or bool(_COMMITTING.search(name))


def unknown(settings: Settings) -> list[str]:
    """Entries of the home that this project does not make."""
    known = {*BACKED_UP, *LEFT_OUT}
    entries = settings.home.iterdir() if settings.home.exists() else ()
    return sorted(e.name for e in entries if e.name not in known and not is_passing(e))


def tables(settings: Settings) -> dict[str, Path]:
    """Every Delta table on disk, also of the endpoint and of `system`: name → folder.

    The name is that of `schemas.py`, else the three-level one. Those that models name come last.
    """
    own = {settings.table_path(name): name for name in schemas.TABLES}
    roots = []
    for folder, folders, _ in walk(settings.warehouse):
        if "_delta_log" in folders:
            roots.append(folder)
            folders.clear()  # no table lies in another
    roots.sort()
    found = {own.get(r, ".".join(r.relative_to(settings.warehouse).parts)): r for r in roots}
    order = sorted(found, key=lambda name: name in BY_MONTH)
    return {name: found[name] for name in order}
