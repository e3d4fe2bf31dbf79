"""The embedded tables alone: what other readers see, what a kill leaves, homes one cannot write.

What holds for the tables of every platform is in `test_tables_contract.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from databricks_steps import schemas
from databricks_steps.errors import SettingsError, TableError
from databricks_steps.platforms.embedded import delta_files
from databricks_steps.platforms.embedded.tables import STAGED_FILES, DeltaTables
from databricks_steps.settings import Settings
from taxi_assets_tests.databricks_steps.platforms.feature_tables import (
    BOTH,
    FEBRUARY,
    JANUARY,
    NAME,
    TABLE,
    row,
    rows,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_other_readers_see_the_same_rows_comments_and_feed(tables: DeltaTables, frame: Any) -> None:
    import duckdb

    written = [row(1, JANUARY), row(1, FEBRUARY)]
    tables.replace(NAME, frame(written), BOTH)
    table = DeltaTable(tables.uri(NAME))
    fields = {field.name: field for field in table.schema().fields}
    assert fields["dropoff_mean_fare_7d"].metadata["comment"] == "Mean fare, last 7 days [dollars]"
    assert not fields["known_at"].nullable
    assert table.metadata().configuration["delta.enableChangeDataFeed"] == "true"
    dataset = table.to_pyarrow_dataset()
    found = duckdb.sql("SELECT location_id, known_month FROM dataset ORDER BY known_at").fetchall()
    assert found == [(1, "2022-01"), (1, "2022-02")]
    assert dataset.count_rows() == 2


def test_what_a_killed_write_left_is_not_seen_and_swept(tables: DeltaTables, frame: Any) -> None:
    tables.replace(NAME, frame([row(1, JANUARY)]), ["2022-01"])
    root = Path(tables.uri(NAME))
    data = next((root / "known_month=2022-01").glob("*.parquet"))
    shutil.copy(data, data.with_name("part-orphan.parquet"))
    left, running = root / STAGED_FILES / "left", root / STAGED_FILES / "running"
    for folder in (left, running):
        folder.mkdir(parents=True)
    old = (datetime.now() - timedelta(days=2)).timestamp()
    os.utime(left, (old, old))
    tables.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    assert rows(tables) == [row(1, JANUARY), row(1, FEBRUARY)]
    assert (left.exists(), running.exists()) == (False, True)


@pytest.mark.parametrize("exists", [True, False])
def test_of_two_writers_of_a_new_month_the_later_one_decides_again(
    tables: DeltaTables,
    frame: Any,
    running: SparkSession,
    monkeypatch: pytest.MonkeyPatch,
    exists: bool,
) -> None:
    other = DeltaTables(tables._settings, lambda: running)
    staged, commits = tables._staged, []

    @contextmanager
    def meanwhile(table: schemas.Table, new: Any) -> Iterator[Path]:
        with staged(table, new) as stage:
            if not commits:
                commits.append(other.merge(NAME, frame([row(1, JANUARY), row(2, JANUARY)])))
            yield stage

    if exists:
        tables.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    monkeypatch.setattr(tables, "_staged", meanwhile)
    done = tables.merge(NAME, frame([row(2, JANUARY), row(3, JANUARY, 5)]), ["2022-01"])
    (first,) = commits
    assert (first.action, first.rows) == ("merged" if exists else "created", 2)
    assert (done.action, done.rows, done.version) == ("merged", 2, first.version + 1)
    assert rows(tables, ["2022-01"]) == [row(2, JANUARY), row(3, JANUARY, 5)]


def test_writers_without_end_are_told(
    tables: DeltaTables, frame: Any, running: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DeltaTables(tables._settings, lambda: running)
    staged = tables._staged

    @contextmanager
    def meanwhile(table: schemas.Table, new: Any) -> Iterator[Path]:
        with staged(table, new) as stage:
            other.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
            yield stage

    tables.replace(NAME, frame([row(1, JANUARY)]), ["2022-01"])
    monkeypatch.setattr(tables, "_staged", meanwhile)
    with pytest.raises(TableError, match="5 merges came too late"):
        tables.merge(NAME, frame([row(2, JANUARY)]), ["2022-01"])
    assert rows(tables, ["2022-01"]) == [row(1, JANUARY)]


def test_a_version_is_there_after_a_hundred_commits_and_forty_days(
    tables: DeltaTables, frame: Any
) -> None:
    made_before = {"delta.enableChangeDataFeed": "true"}  # as by a version without the retention
    tables.replace(NAME, frame([row(1, JANUARY)]))
    DeltaTable(tables.uri(NAME)).alter.set_table_properties(
        {"delta.logRetentionDuration": "interval 30 days"}
    )
    first = tables.version(NAME)
    tables.merge(NAME, frame([row(1, JANUARY, 2)]), ["2022-01"])
    for number in range(120):
        kept = delta_files.properties({"2022-01": number})
        delta_files.commit(DeltaTable(tables.uri(NAME)), "", TABLE, [], "append", None, kept)
        old = (datetime.now() - timedelta(days=40)).timestamp()
        for path in Path(tables.uri(NAME), "_delta_log").iterdir():
            os.utime(path, (old, old))
    assert rows(tables, version=first) == [row(1, JANUARY)]
    assert rows(tables) == [row(1, JANUARY, 2)]
    configuration = DeltaTable(tables.uri(NAME)).metadata().configuration
    assert configuration | made_before == configuration


def test_transactions_read_at_once_are_those_that_delta_rs_tells_one_by_one(
    tmp_path: Path,
) -> None:
    """Of each version, before the first checkpoint, at it, between two, after the last."""
    random, path = Random(1), str(tmp_path / "a table é")
    assert not delta_files.is_table(Path(path))
    applications = [delta_files.inputs_of(month) for month in ("", "2022-01", "2022-02", "2022-03")]
    for number in range(24):
        chosen = random.sample(applications, number % 3)
        write_deltalake(
            path,
            pa.table({"a": [number]}),
            mode="append",
            commit_properties=CommitProperties(
                app_transactions=[
                    Transaction(a, random.randint(-(2**63), 2**63 - 1)) for a in chosen
                ]
            ),
        )
        if number in (6, 7, 15):
            DeltaTable(path).create_checkpoint()
        for version in {number, number // 2}:
            opened = DeltaTable(path, version=version)
            told = {each: opened.transaction_version(each) for each in applications}
            assert delta_files.transactions(opened) == {
                k: v for k, v in told.items() if v is not None
            }
    assert delta_files.is_table(Path(path))


def test_a_table_whose_column_is_of_another_type_is_left_alone(
    tables: DeltaTables, frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.replace(NAME, frame([row(1, JANUARY)]))
    version = tables.version(NAME)
    columns = tuple(
        replace(c, type="string") if c.name == "dropoff_trip_count_30m" else c
        for c in TABLE.columns
    )
    monkeypatch.setitem(schemas.TABLES, NAME, replace(TABLE, columns=columns))
    with pytest.raises(TableError, match=r"dropoff_trip_count_30m is of a type"):
        tables.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    assert tables.version(NAME) == version


STAGING = """
import sys
from pathlib import Path
from databricks_steps.platforms.embedded import file_lock

with file_lock.folder(Path(sys.argv[1], sys.argv[2])) as files:
    files.mkdir()
    (files / "part.parquet").write_text("half of a file")
    print("staged", flush=True)
    sys.stdin.readline()
"""


def test_what_a_process_has_staged_stays_while_it_lives_and_goes_once_it_was_killed(
    tmp_path: Path,
) -> None:
    processes = []
    for name in ("killed", "running"):
        process = subprocess.Popen(
            [sys.executable, "-c", STAGING, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        processes.append(process)
    killed, running = processes
    killed.kill()
    killed.wait()
    delta_files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"running", "running.lock"}
    assert len(list(tmp_path.glob("running/part.parquet"))) == 1
    running.communicate("\n")
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written(spark: SparkSession, tmp_path: Path, frame: Any) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SettingsError, match="TAXI_HOME must be writable: .*file"):
        DeltaTables(Settings(home=blocked), lambda: spark).replace(NAME, frame([]))


def test_a_log_that_cannot_be_read_is_told_in_one_line(settings: Settings, spark: Any) -> None:
    tables = DeltaTables(settings, lambda: spark)
    tables.append("deployments", [])
    for commit in (settings.table_path("deployments") / "_delta_log").glob("*.json"):
        commit.write_text("no JSON")
    with pytest.raises(TableError) as told:
        DeltaTables(settings, lambda: spark).rows("deployments")
    said = str(told.value)
    assert said.startswith("The log of a table must be readable: deployments: ")
    assert "\n" not in said
    assert said.endswith("restore a backup")


@pytest.mark.parametrize("loss", ["missing", "empty"])
def test_a_data_file_that_is_gone_is_never_read_as_no_rows(
    tables: DeltaTables, frame: Any, loss: str
) -> None:
    tables.replace(NAME, frame([row(1, JANUARY), row(1, FEBRUARY)]), BOTH)
    (file,) = (Path(tables.uri(NAME)) / "known_month=2022-01").glob("*.parquet")
    file.unlink() if loss == "missing" else file.write_bytes(b"")
    for read in (tables.read, tables.records, lambda n: tables.read(n, version=tables.version(n))):
        with pytest.raises(TableError, match=rf"{file.name} is {loss}\. .*restore a backup"):
            read(NAME)
    assert tables.read(NAME, ["2022-02"]).count() == 1
