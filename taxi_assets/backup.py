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
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote

from databricks_steps.errors import SettingsError, TableError
from databricks_steps.platforms.embedded import delta_files, file_lock
from databricks_steps.settings import BATCHES, Settings
from databricks_steps.training import mlflow_database
from taxi_assets import home_inventory
from taxi_assets.graph import BY_MONTH

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = "care.lock"
STAGED = "_staging"
PART = ".taxi-backup.part"  # end of the name of a backup that is being written, and locked
COMMIT_DIGITS = 20  # of a version in the names of a Delta log


@dataclass(frozen=True)
class Contents:
    """What a backup holds: files, bytes before compression, table → version; and what it does not.

    `unknown` are entries of the home that are not this project's.
    """

    files: int
    size: int
    tables: dict[str, int]
    unknown: tuple[str, ...] = ()


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


def backup(settings: Settings, file: Path) -> Contents:
    """Write the home to a new file, whole or not at all, whatever runs meanwhile.

    Raises:
        SettingsError: there is no home, a database of it is damaged, or the file exists or cannot
            be written.
        TableError: a table's log is damaged, or its files are not there.
        OSError: a file of the home cannot be read, or its lock not be taken.
    """
    if not settings.warehouse.exists():
        raise SettingsError(
            "A backup needs a home that was used", f"no tables in {settings.home}", "Set TAXI_HOME"
        )
    if file.exists():
        raise SettingsError("A backup is a new file", f"{file} exists", "Name another one")
    part = file.with_name(f".{file.name}.{os.getpid()}{PART}")
    try:
        with files_stay(settings), part.open("wb") as raw:
            fcntl.flock(raw, fcntl.LOCK_EX)
            _sweep(file.parent)
            with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive:
                contents = _Writer(settings, archive).write()
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except OSError as error:
        if error.filename is not None and settings.home in Path(error.filename).parents:
            raise  # it is not the archive's
        raise SettingsError(
            "A backup must be written", f"{file}: {error.strerror or error}", "Name another file"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return contents


def _sweep(folder: Path) -> None:
    """Remove what backups have left there whose process was killed."""
    for part in folder.glob(f".*{PART}"):
        with suppress(OSError), part.open("rb") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


@dataclass
class _Writer:
    """Adds the parts of a home to an archive, and keeps the sum of each file for the manifest."""

    settings: Settings
    archive: tarfile.TarFile
    sums: dict[str, str] = field(default_factory=dict)
    tables: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def write(self) -> Contents:
        home = self.settings.home
        tables = home_inventory.tables(self.settings)
        self._tree(home / "dagster" / "schedules")  # its cursors name events
        self._tree(home / "dagster" / "history" / "runs")
        for entry in home_inventory.BACKED_UP:
            if entry == "mlflow.db":  # before it, what names model versions
                self._tables({n: r for n, r in tables.items() if n not in BY_MONTH})
            if entry == "warehouse":
                self._tables({n: r for n, r in tables.items() if n in BY_MONTH})
            elif (home / entry).is_dir():
                self._tree(home / entry)
            else:
                self._file(home / entry)
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
        unknown = tuple(home_inventory.unknown(self.settings))
        return Contents(len(self.sums), self.size, self.tables, unknown)

    def _tree(self, root: Path) -> None:
        for path in home_inventory.files(root):
            self._file(path)

    def _file(self, path: Path) -> None:
        place = path.relative_to(self.settings.home)
        name = str(place)
        left_out = home_inventory.is_passing(path) or name in home_inventory.OF_THIS_MACHINE
        if left_out or name in self.sums or path.is_symlink() or not path.is_file():
            return
        if home_inventory.is_database(place):
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / path.name
                _copy(path, copy)
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

    def _tables(self, roots: Mapping[str, Path]) -> None:
        for name, root in roots.items():
            self._table(name, root)

    def _table(self, name: str, root: Path) -> None:
        """A table as of its newest commit: its log until then, and every data file."""
        log = root / "_delta_log"
        numbers = [int(path.stem) for path in log.glob("*.json") if path.stem.isdigit()]
        if not numbers:
            # A log that is empty, or in which the first commit is being written, is of a new table.
            if not all(map(home_inventory.is_passing, log.iterdir())):
                raise TableError(
                    f"The log of {name} must have a commit", str(log), "Restore or drop the table"
                )
            return
        at = max(numbers)
        for path in home_inventory.files(root):
            place = path.relative_to(root)
            if place.parts[0] == STAGED or (place.parts[0] == log.name and not _until(path, at)):
                continue
            self._file(path)
        for path, size in data_files(root, at):
            if not path.exists() or path.stat().st_size != size:
                raise TableError(
                    f"The files of {name} must be there, whole",
                    str(path),
                    "Restore the table, or write it anew",
                )
        self.tables[name] = at


def _copy(database: Path, to: Path) -> None:
    """Raises SettingsError: it is damaged, or there is no room for the copy."""
    try:
        with (
            closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as live,
            closing(sqlite3.connect(to)) as copy,
        ):
            live.backup(copy)
    except sqlite3.Error as error:
        raise SettingsError(
            "A database of the home must be whole, and TMPDIR have room for a copy of it",
            f"{database}: {error}",
            "Make room, or restore a backup; taxi-assets doctor --deep says what is damaged",
        ) from error


def data_files(root: Path, version: int | None = None) -> Iterator[tuple[Path, int]]:
    """The data files of a Delta table, and their sizes in bytes as its log tells them."""
    actions = delta_files.added(delta_files.opened(root.name, root, version))
    names, sizes = (actions.column(name).to_pylist() for name in ("path", "size_bytes"))
    for name, size in zip(names, sizes, strict=True):
        yield root / unquote(name), size


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


# What a file that is no backup, or one that was made to harm, ends in.
_UNREADABLE = (
    *(tarfile.TarError, EOFError, zlib.error, sqlite3.Error, OSError),
    *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
)


def restore(settings: Settings, file: Path) -> Contents:
    """Make a home of a backup, whole or not at all. The workspace makes itself a new token.

    Raises:
        SettingsError: the home is not empty, or the file is no whole backup.
    """
    home = settings.home
    _require_empty(home)
    beginning = f".{home.name}.restored-"
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        file_lock.sweep(home.parent, beginning)
        # A folder of its own: another restore of this home may be at work.
        with file_lock.folder(home.with_name(beginning + uuid.uuid4().hex)) as staging:
            staging.mkdir(mode=0o700)
            manifest, size = _extracted(file, staging)
            _point_to(staging / "mlflow.db", manifest["home"], home)
            _count_on(replace(settings, home=staging))
            try:
                staging.rename(home)  # onto an empty folder at most
            except OSError:
                _require_empty(home)
                raise
    except _UNREADABLE as error:
        raise SettingsError(
            "A backup must be a whole file that taxi-assets backup has written",
            f"{file}: {error}",
            "Take another one; nothing was restored",
        ) from error
    return Contents(len(manifest["sha256"]), size, manifest["tables"])


def _require_empty(home: Path) -> None:
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise SettingsError(
            "A backup is restored into an empty home", f"{home} is not", "Set TAXI_HOME to another"
        )


def _extracted(file: Path, staging: Path) -> tuple[dict[str, Any], int]:
    sums: dict[str, str] = {}
    manifest: dict[str, Any] = {}
    size = 0
    with tarfile.open(file, "r:gz") as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if not member.isfile() or place.is_absolute() or ".." in place.parts:
                raise ValueError(f"{member.name} is no file below the home")
            if not _is_restored(place):
                raise ValueError(f"{member.name} is no part of a backup")
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


def _is_restored(place: PurePosixPath) -> bool:
    """Whether a backup may bring this file: never a token, nor what names code to load."""
    if str(place) == MANIFEST:
        return True
    return place.parts[0] in home_inventory.BACKED_UP and (
        str(place) not in home_inventory.OF_THIS_MACHINE
    )


def _count_on(settings: Settings) -> None:
    """Let the ids of captured batches go on behind those that the payload tables hold.

    The tables are copied after the buffer, so they may hold batches that it has not counted yet. A
    new batch with such an id would be taken for one that is in the table, and be dropped.
    """
    database = settings.home / "workspace.db"
    if not database.exists():
        return
    tables = home_inventory.tables(settings).items()
    with closing(sqlite3.connect(database)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name='identity'").fetchone():
            return  # of a version that had no payload table
        identities = connection.execute("SELECT id FROM identity").fetchall()
        writers = [BATCHES + identity for (identity,) in identities]
        logs = [delta_files.opened(name, root) for name, root in tables]
        counted = connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'payload_batches'"
        ).fetchall()
        held = [log.transaction_version(writer) or 0 for log in logs for writer in writers]
        last = max([*held, *(number for (number,) in counted)], default=0)
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'payload_batches'")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('payload_batches', ?)", (last,))


def _point_to(database: Path, before: str, home: Path) -> None:
    """Let MLflow look for artifacts in the new home."""
    if not database.exists():
        return
    with closing(sqlite3.connect(database)) as connection, connection:
        mlflow_database.point_to(connection, Path(before), home)
