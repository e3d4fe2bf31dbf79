"""`taxi-assets backup` and `restore`: a home as one file, consistent while everything runs.

What names others is copied before what it names, as those only ever grow: events name runs, an
endpoint and predictions name model versions, a model version names versions of tables. So whatever
a copy names is in it (docs/adr/0016).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from databricks_steps import schemas
from databricks_steps.errors import SettingsError, TableError
from databricks_steps.settings import Settings
from databricks_steps.training import mlflow_database

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = "care.lock"
# Tables that a model version names by their versions; the others name model versions.
NAMED = ("raw_trips", "trips", "quarantined_trips", "pickup_features", "dropoff_features")
LEFT_OUT = (".lock", ".part", ".tmp", "-wal", "-shm", "-journal")  # ends of names
UNFINISHED = (".new-", ".token-")  # beginnings of names
STAGED = "_staging"
COMMIT_DIGITS = 20  # of a version in the names of a Delta log


@dataclass(frozen=True)
class Kept:
    """What a backup holds: files, bytes before compression, and table → version."""

    files: int
    size: int
    tables: dict[str, int]


@contextmanager
def files_stay(settings: Settings) -> Iterator[None]:
    """Nobody vacuums meanwhile."""
    with _locked(settings, fcntl.LOCK_SH):
        yield


@contextmanager
def files_may_go(settings: Settings) -> Iterator[None]:
    """Nobody takes a backup meanwhile.

    Raises:
        SettingsError: somebody does.
    """
    with _locked(settings, fcntl.LOCK_EX | fcntl.LOCK_NB):
        yield


@contextmanager
def _locked(settings: Settings, how: int) -> Iterator[None]:
    path = settings.home / LOCK
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, how)
        except OSError as error:
            raise SettingsError(
                "Files go while no backup is taken", f"a backup holds {path}", "Wait for it"
            ) from error
        yield


def backup(settings: Settings, file: Path) -> Kept:
    """Write the home to a new file, whole or not at all, whatever runs meanwhile.

    Raises:
        SettingsError: there is no home, or the file exists or cannot be written.
        TableError: a table's files are not there.
    """
    if not settings.warehouse.exists():
        raise SettingsError(
            "A backup needs a home that was used", f"no tables in {settings.home}", "Set TAXI_HOME"
        )
    if file.exists():
        raise SettingsError("A backup is a new file", f"{file} exists", "Name another one")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with files_stay(settings), part.open("wb") as raw:
            with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive:
                kept = _Writer(settings, archive).write()
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except OSError as error:
        raise SettingsError(
            "A backup must be written", f"{file}: {error.strerror or error}", "Name another file"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return kept


@dataclass
class _Writer:
    """Adds the parts of a home to an archive, and keeps the sum of each file for the manifest."""

    settings: Settings
    archive: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def write(self) -> Kept:
        home = self.settings.home
        for name in ("alerts.jsonl", "last_run.json"):
            self._file(home / name)
        self._tree(home / "dagster" / "history" / "runs")
        self._tree(home / "dagster")
        for name in ("online.db", "workspace.db"):
            self._file(home / name)
        others = [name for name in schemas.TABLES if name not in NAMED]
        for name in others:
            self._table(name)
        self._file(home / "mlflow.db")
        self._tree(self.settings.artifacts)
        for name in NAMED:
            self._table(name)
        for name in ("workspace", "reports", "landing"):
            self._tree(home / name)
        manifest = {
            "format": FORMAT,
            "product": version("taxi-assets"),
            "taken_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "home": str(home),
            "tables": self.tables,
            "sha256": self.sums,
        }
        text = json.dumps(manifest).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(text)
        self.archive.addfile(info, BytesIO(text))  # the last: a backup that was cut has none
        return Kept(len(self.sums), self.size, self.tables)

    def _tree(self, root: Path) -> None:
        for path in sorted(root.rglob("*")):
            self._file(path)

    def _file(self, path: Path) -> None:
        name = str(path.relative_to(self.settings.home))
        left_out = path.name.endswith(LEFT_OUT) or path.name.startswith(UNFINISHED)
        if left_out or name in self.sums or path.is_symlink() or not path.is_file():
            return
        if path.suffix == ".db":
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / path.name
                with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as to:
                    live.backup(to)
                self._add(name, copy)
        else:
            self._add(name, path)

    def _add(self, name: str, path: Path) -> None:
        try:
            source = path.open("rb")
        except FileNotFoundError:  # unfinished, and finished under another name meanwhile
            return
        with source:
            found = os.fstat(source.fileno())
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = found.st_size, found.st_mtime, 0o600
            summed = _Summed(source)
            self.archive.addfile(info, summed)
        self.sums[name] = summed.sha256.hexdigest()
        self.size += info.size

    def _table(self, name: str) -> None:
        """A table as of its newest commit: its log until then, and every data file."""
        from deltalake import DeltaTable

        root = self.settings.table_path(name)
        log = root / "_delta_log"
        if not log.exists():
            return
        at = max(int(path.stem) for path in log.glob("*.json"))
        for path in sorted(root.rglob("*")):
            place = path.relative_to(root)
            if place.parts[0] == STAGED or (place.parts[0] == log.name and not _until(path, at)):
                continue
            self._file(path)
        for uri in DeltaTable(str(root), version=at).file_uris():
            if str(Path(uri).relative_to(self.settings.home)) not in self.sums:
                raise TableError(
                    f"The files of {name} must be there", uri, "Restore the table, or write it anew"
                )
        self.tables[name] = at


def _until(path: Path, at: int) -> bool:
    """Whether a file of a Delta log is of a version up to `at`."""
    head = path.name[:COMMIT_DIGITS]
    return head.isdigit() and len(head) == COMMIT_DIGITS and int(head) <= at


class _Summed:
    """A file to read from, summed on the way."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self.sha256 = source, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        found = self._source.read(size)
        self.sha256.update(found)
        return found


def restore(settings: Settings, file: Path) -> Kept:
    """Make a home of a backup, whole or not at all. The workspace makes itself a new token.

    Raises:
        SettingsError: the home is not empty, or the file is no whole backup.
    """
    home = settings.home
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise SettingsError(
            "A backup is restored into an empty home", f"{home} is not", "Set TAXI_HOME to another"
        )
    staging = home.with_name(f".{home.name}.restored")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True, mode=0o700)
        manifest, size = _extracted(file, staging)
        _point_to(staging / "mlflow.db", manifest["home"], home)
        if home.exists():
            home.rmdir()
        staging.rename(home)
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, OSError) as error:
        raise SettingsError(
            "A backup must be a whole file that taxi-assets backup has written",
            f"{file}: {error}",
            "Take another one; nothing was restored",
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Kept(len(manifest["sha256"]), size, manifest["tables"])


def _extracted(file: Path, staging: Path) -> tuple[dict[str, Any], int]:
    sums: dict[str, str] = {}
    manifest: dict[str, Any] = {}
    size = 0
    with tarfile.open(file, "r:gz") as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if not member.isfile() or place.is_absolute() or ".." in place.parts:
                raise ValueError(f"{member.name} is no file below the home")
            source = archive.extractfile(member)
            assert source is not None  # noqa: S101 - of a file it never is
            if member.name == MANIFEST:
                manifest = json.loads(source.read())
                continue
            target = staging / place
            target.parent.mkdir(parents=True, exist_ok=True)
            summed = _Summed(source)
            with target.open("xb") as to:
                shutil.copyfileobj(summed, to, 1 << 20)
            os.utime(target, (member.mtime, member.mtime))
            sums[member.name] = summed.sha256.hexdigest()
            size += member.size
    if not manifest:
        raise ValueError("it has no manifest: it was cut")
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']}, this version reads {FORMAT}")
    differing = sorted({*sums.items()} ^ {*manifest["sha256"].items()})
    if differing:
        raise ValueError(f"{differing[0][0]} is not as it was written")
    return manifest, size


def _point_to(database: Path, before: str, home: Path) -> None:
    """Let MLflow look for artifacts in the new home."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        mlflow_database.point_to(connection, Path(before), home)
