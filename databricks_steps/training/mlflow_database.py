"""What a home's `mlflow.db` holds, by SQL: to import MLflow takes longer than a run without news.

It reads alone, and only what `registry.py` asks; a test holds it equal to MLflow's own client.
"""

from __future__ import annotations

import fcntl
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from databricks_steps.settings import Settings

# MLflow keeps where artifacts are as whole addresses: table → column.
ADDRESSES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
_OF_MODEL = "workspace = 'default' AND name = ?"
# MLflow keeps a row of a version that was deleted, in a stage of its own.
_VERSIONS = f"FROM model_versions WHERE {_OF_MODEL} AND current_stage <> 'Deleted_Internal'"


@dataclass(frozen=True)
class VersionRow:
    """A registered version. `registered_at` is in milliseconds since 1970."""

    number: str
    run_id: str
    registered_at: int
    files: Path
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


class MlflowDatabase:
    """The registry of a home, read only; without a database it holds nothing.

    Raises:
        sqlite3.Error: from every method; the file is no database of MLflow.
    """

    def __init__(self, settings: Settings, model: str | None = None) -> None:
        """Of a registered model, the settings' own if none is named."""
        self._file, self._artifacts = settings.home / "mlflow.db", settings.artifacts
        self._model = model or settings.registered_model

    def aliased(self, alias: str) -> str | None:
        """The number of the version that an alias points to."""
        query = f"SELECT version FROM registered_model_aliases WHERE {_OF_MODEL} AND alias = ?"
        return next((str(number) for (number,) in self._rows(query, self._model, alias)), None)

    def numbers(self) -> list[str]:
        """The numbers of all versions, the newest first."""
        query = f"SELECT version {_VERSIONS} ORDER BY version DESC"
        return [str(number) for (number,) in self._rows(query, self._model)]

    def version(self, number: str) -> VersionRow | None:
        if not re.fullmatch("[1-9][0-9]{0,9}", number):
            return None
        model = (self._model, int(number))
        for run, registered_at, files in self._rows(
            "SELECT run_id, creation_time, coalesce(nullif(storage_location, ''), source) "
            f"{_VERSIONS} AND version = ?",
            *model,
        ):
            tags = self._rows(
                f"SELECT key, value FROM model_version_tags WHERE {_OF_MODEL} AND version = ?",
                *model,
            )
            metrics = self._rows(
                "SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", run
            )
            measured = {key: float("nan") if nan else value for key, value, nan in metrics}
            return VersionRow(
                number, run or "", registered_at, self._path(files), measured, dict(tags)
            )
        return None

    def tagged(self, key: str, value: str) -> str | None:
        """The number of the newest version with this tag."""
        query = (
            f"SELECT version FROM model_version_tags WHERE {_OF_MODEL} AND key = ? AND value = ?"
        )
        found = {str(number) for (number,) in self._rows(query, self._model, key, value)}
        return next((number for number in self.numbers() if number in found), None)

    def artifacts(self, run_id: str) -> Path | None:
        """The folder of a run's files; None for no such run."""
        query = "SELECT artifact_uri FROM runs WHERE run_uuid = ?"
        return next((self._path(address) for (address,) in self._rows(query, run_id)), None)

    def _path(self, address: str) -> Path:
        """Where an artifact is, also in a home that was moved since."""
        path = Path(url2pathname(urlsplit(address).path))
        _, moved, inside = str(path).partition(f"/{self._artifacts.name}/")
        return self._artifacts / inside if moved and not path.exists() else path

    def _rows(self, query: str, *values: object) -> list[Any]:
        if not self._file.exists():
            return []
        address = f"{self._file.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=20)) as database:
            return database.execute(query, values).fetchall()


def make(settings: Settings) -> None:
    """Let MLflow make its database, whole or not at all: half of its tables it cannot mend.

    Raises:
        OSError, sqlalchemy.exc.SQLAlchemyError: the home cannot be written.
    """
    file = settings.home / "mlflow.db"
    if file.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with (settings.home / "mlflow.start.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in settings.home.glob(f".new-{file.name}*"):
            left.unlink()
        if not file.exists():
            part = file.with_name(f".new-{file.name}.part")
            made: Any = SqlAlchemyStore
            made(f"sqlite:///{part}", settings.artifacts.as_uri()).engine.dispose()
            part.replace(file)


def move_in(settings: Settings) -> None:
    """Let MLflow look for artifacts in this home, where it was moved or copied from another place.

    Raises:
        sqlite3.Error: the file is no database of MLflow.
    """
    file = settings.home / "mlflow.db"
    if not file.exists():
        return
    query = "SELECT artifact_location FROM experiments WHERE name = ?"
    with closing(sqlite3.connect(file, timeout=20)) as database, database:
        for (address,) in database.execute(query, (settings.experiment,)).fetchall():
            path = Path(url2pathname(urlsplit(address).path))
            if path.name == settings.artifacts.name and path != settings.artifacts:
                point_to(database, path.parent, settings.home)


def point_to(database: sqlite3.Connection, before: Path, home: Path) -> None:
    """Change the addresses in a home's database, which are paths and URIs, to another home."""
    forms = [(str(before), str(home))]
    if quote(str(before)) != str(before):  # as URIs write it
        forms.append((quote(str(before)), quote(str(home))))
    for table, column in ADDRESSES.items():
        for old, new in forms:
            database.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?) "
                f"WHERE instr({column}, ?) > 0",
                (f"{old}/", f"{new}/", f"{old}/"),
            )
