"""Backup and restore of homes that are odd, damaged or at work; without a run, in seconds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from databricks_steps.errors import SettingsError, TableError
from databricks_steps.platforms.embedded import file_lock
from databricks_steps.settings import Settings
from taxi_assets import backup, dagster_instance, home_inventory, vacuum
from taxi_assets.doctor import contents
from taxi_assets.emulator.runtime import capture, state
from taxi_assets_tests.waiting import until


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with Dagster's databases, which take seconds to make, and no table yet."""
    settings = Settings(home=tmp_path_factory.mktemp("made") / "home")
    settings.warehouse.mkdir(parents=True)
    with dagster_instance.instance(settings):
        pass
    return settings.home


@pytest.fixture
def used(settings: Settings, made: Path) -> Settings:
    shutil.copytree(made, settings.home)
    return settings


def packed(settings: Settings, folder: Path) -> Path:
    file = folder / "home.tar.gz"
    backup.backup(settings, file)
    return file


def test_cursors_are_packed_before_the_events_that_they_name(
    used: Settings, tmp_path: Path
) -> None:
    with tarfile.open(packed(used, tmp_path)) as archive:
        names = archive.getnames()
    cursors, events = "dagster/schedules/schedules.db", "dagster/history/runs/index.db"
    assert names.index(cursors) < names.index(events)


def captured(settings: Settings, *requests: str) -> None:
    """Requests are buffered, a batch each, then moved to the payload table."""
    memory = state.State(state.database(settings))
    for request in requests:
        row = (request, None, int(time.time() * 1e6), 200, 1, "{}", "{}", "entity", "[]", None)
        memory.buffer({settings.table(settings.payload_table): [row]})
    capture.flush(settings, memory)
    memory.close()


def test_a_restored_endpoint_loses_no_request_to_a_flush_during_the_backup(
    used: Settings, tmp_path: Path
) -> None:
    before, meanwhile, afterwards = (
        [f"{when} {number}" for number in range(5)] for when in ("before", "meanwhile", "after")
    )
    captured(used, *before)
    database = state.database(used)
    copied = database.read_bytes()  # a backup copies it first
    captured(used, *meanwhile)
    database.write_bytes(copied)
    again = replace(used, home=tmp_path / "again")
    backup.restore(again, packed(used, tmp_path))
    captured(again, *afterwards)
    rows = DeltaTable(str(again.table_path(again.payload_table))).to_pyarrow_table()
    requests = sorted(rows.column("databricks_request_id").to_pylist())
    assert requests == sorted([*before, *meanwhile, *afterwards])


class Slow:
    """A restore from a pipe: it goes on as the archive is written."""

    def __init__(self, settings: Settings, pipe: Path) -> None:
        os.mkfifo(pipe)
        self._pool = ThreadPoolExecutor(1)
        self.made = self._pool.submit(backup.restore, settings, pipe)
        self.archive = pipe.open("wb")  # waits until it is read from

    def end(self, rest: bytes) -> None:
        with self.archive:
            self.archive.write(rest)
        self._pool.shutdown()


def test_of_two_restores_at_once_one_makes_the_home_whole_and_the_other_tells(
    used: Settings, tmp_path: Path
) -> None:
    (used.home / "landing").mkdir()
    (used.home / "landing" / "large").write_bytes(os.urandom(300_000))  # the last that is packed
    file, again = packed(used, tmp_path), replace(used, home=tmp_path / "again")
    content = file.read_bytes()
    first = Slow(again, tmp_path / "first")
    first.archive.write(content[:-100_000])
    first.archive.flush()
    until(lambda: [*tmp_path.glob(".again.restored*/dagster/history/runs/index.db")], 5)
    second = Slow(again, tmp_path / "second")
    first.end(content[-100_000:])
    whole = first.made.result()
    second.end(content)
    with pytest.raises(SettingsError, match="A backup is restored into an empty home: "):
        second.made.result()
    with tarfile.open(file) as archive:
        names = {*archive.getnames()} - {backup.MANIFEST}
    restored = {str(path.relative_to(again.home)) for path in home_inventory.files(again.home)}
    assert restored == names
    assert whole.files == len(names)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"home", "again", file.name, "first", "second"}


def test_what_a_killed_restore_left_is_swept_by_the_next(used: Settings, tmp_path: Path) -> None:
    file, again = packed(used, tmp_path), replace(used, home=tmp_path / "again")
    (tmp_path / ".again.restored-1").mkdir()
    (tmp_path / f".again.restored-1{file_lock.SUFFIX}").touch()
    backup.restore(again, file)
    assert {path.name for path in tmp_path.iterdir()} == {"home", "again", file.name}


@contextmanager
def staging(table: Path) -> Iterator[None]:
    """Files are staged for a table, and go again, all the while."""
    over, begun = threading.Event(), threading.Event()

    def stage() -> None:
        while not over.is_set():
            for number in range(20):
                (table / "_staging" / f"{number}" / "trip_month=2022-01").mkdir(parents=True)
            begun.set()
            for folder in (table / "_staging").iterdir():
                shutil.rmtree(folder)

    thread = threading.Thread(target=stage)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_folders_that_go_meanwhile_fail_no_backup(used: Settings) -> None:
    table = used.warehouse / "schema" / "rides"
    write_deltalake(str(table), pa.table({"ride": [1]}))
    with staging(table):
        for _ in range(300):
            assert home_inventory.tables(used) == {"schema.rides": table}
            assert [f for f in home_inventory.files(table) if f.suffix == ".parquet"]


def test_a_folder_that_cannot_be_read_is_told(used: Settings) -> None:
    (used.home / "landing").write_text("no folder")
    with pytest.raises(NotADirectoryError):
        home_inventory.files(used.home / "landing")


def test_what_is_called_a_database_and_is_none_is_copied_as_it_is(
    used: Settings, tmp_path: Path
) -> None:
    thumbs = used.home / "landing" / "Thumbs.db"
    thumbs.parent.mkdir()
    thumbs.write_bytes(b"no database" * 1_000)
    again = replace(used, home=tmp_path / "again")
    backup.restore(again, packed(used, tmp_path))
    assert (again.home / "landing" / "Thumbs.db").read_bytes() == thumbs.read_bytes()


def test_events_of_no_run_that_are_in_the_write_ahead_log_are_restored(
    used: Settings, tmp_path: Path
) -> None:
    again = replace(used, home=tmp_path / "again")
    place = Path("dagster", "history", "runs", ".db")
    counted = "SELECT count(*) FROM event_logs"
    with (
        dagster_instance.instance(used) as instance,
        closing(sqlite3.connect(used.home / place)) as reader,  # the log is not emptied meanwhile
    ):
        for number in range(50):
            passed = dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("trips"), check_name=f"c{number}", passed=True, metadata={}
            )
            instance.report_runless_asset_event(passed)
            reader.execute(counted).fetchone()
        backup.restore(again, packed(used, tmp_path))
    for home in (used.home, again.home):
        with closing(sqlite3.connect(home / place)) as connection:
            assert connection.execute(counted).fetchone() == (50,)


def test_a_damaged_database_is_named(used: Settings, tmp_path: Path) -> None:
    (used.home / "online.db").write_bytes(b"no database" * 1_000)
    with pytest.raises(SettingsError, match="A database of the home must be whole.*online.db: "):
        packed(used, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_table_whose_newest_commit_was_cut_is_named(used: Settings, tmp_path: Path) -> None:
    table = used.table_path("trips")
    for mode in ("error", "append"):
        write_deltalake(str(table), pa.table({"ride": [1]}), mode=mode)
    newest = table / "_delta_log" / f"{DeltaTable(str(table)).version():020}.json"
    newest.write_bytes(newest.read_bytes()[:-40])
    for begin in (lambda: packed(used, tmp_path), lambda: vacuum.vacuum(used, 1, dry_run=True)):
        with pytest.raises(TableError, match="The log of a table must be readable: trips: "):
            begin()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize("content", [b'{"a": ', b"[]", b"\xff", b""])
def test_sums_that_were_cut_are_taken_anew(used: Settings, content: bytes) -> None:
    write_deltalake(str(used.table_path("trips")), pa.table({"ride": [1]}))
    sums = used.home / contents.SUMS
    sums.write_bytes(content)
    assert contents.data_files(used) == "1 read"
    assert sums.read_bytes() != content
