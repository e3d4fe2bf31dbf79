"""The embedded tables: what a write leaves behind, to our own reader and to others."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from databricks_steps import schemas
from databricks_steps.errors import SettingsError, TableError
from databricks_steps.platforms.embedded.tables import STAGING, DeltaTables
from databricks_steps.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

TABLE = schemas.DROPOFF_FEATURES
NAME = TABLE.name
JANUARY, FEBRUARY = datetime(2022, 1, 31, 23, 45), datetime(2022, 2, 1)
NOW, LATER = datetime(2023, 1, 1), datetime(2024, 1, 1)
Row = tuple[Any, ...]


def row(location: int, at: datetime, count: int = 1, computed: datetime = NOW) -> Row:
    return (location, at, count, 2, None, 4.5, 5, -6, computed, f"{at:%Y-%m}")


@pytest.fixture
def tables(spark: SparkSession, tmp_path: Path) -> DeltaTables:
    # A blank and an umlaut in the path: homes have them.
    return DeltaTables(Settings(home=tmp_path / "my hömé"), lambda: spark)


@pytest.fixture
def frame(spark: SparkSession) -> Any:
    def make(rows: Sequence[Row]) -> DataFrame:
        return spark.createDataFrame(list(rows), TABLE.spark())

    return make


def rows(tables: DeltaTables, months: Sequence[str] | None = None, **kwargs: Any) -> list[Row]:
    return sorted(tuple(r) for r in tables.read(NAME, months, **kwargs).collect())


def feed(tables: DeltaTables, since: int) -> list[tuple[int, str]]:
    import pyarrow as pa
    from deltalake import DeltaTable

    changes = pa.table(DeltaTable(tables.uri(NAME)).load_cdf(starting_version=since).read_all())
    columns = (changes.column(name).to_pylist() for name in ("location_id", "_change_type"))
    return sorted(zip(*columns, strict=True))


def test_a_table_that_is_not_there_reads_as_empty(tables: DeltaTables) -> None:
    assert rows(tables) == []
    assert tables.read(NAME).columns == list(TABLE.names)
    assert (tables.exists(NAME), tables.version(NAME), tables.rows(NAME)) == (False, None, 0)
    assert (tables.months(NAME), tables.contents(NAME), tables.made_from(NAME)) == ([], "", None)


def test_months_are_replaced_in_one_commit_and_others_stay(tables: DeltaTables, frame: Any) -> None:
    old = [row(1, JANUARY), row(2, JANUARY), row(1, FEBRUARY)]
    assert tables.replace(NAME, frame(old), ["2022-01", "2022-02"]).action == "created"
    done = tables.replace(NAME, frame([row(3, JANUARY)]), ["2022-01"])
    assert (done.action, done.version, done.rows) == ("replaced", 1, 1)
    assert rows(tables) == [row(1, FEBRUARY), row(3, JANUARY)]
    assert rows(tables, ["2022-01"]) == [row(3, JANUARY)]
    assert rows(tables, version=0) == sorted(old)
    assert (tables.months(NAME), tables.rows(NAME, ["2022-02"])) == (["2022-01", "2022-02"], 1)
    assert rows(tables, []) == []


def test_an_empty_frame_empties_its_months(tables: DeltaTables, frame: Any) -> None:
    tables.replace(NAME, frame([row(1, JANUARY), row(1, FEBRUARY)]), ["2022-01", "2022-02"])
    assert tables.replace(NAME, frame([]), ["2022-02"]).rows == 0
    assert tables.months(NAME) == ["2022-01"]


def test_a_stray_month_is_refused_and_nothing_is_written(tables: DeltaTables, frame: Any) -> None:
    tables.replace(NAME, frame([row(1, JANUARY)]), ["2022-01"])
    with pytest.raises(TableError, match=r"must hold only the months it names: 2022-02\. Filter"):
        tables.replace(NAME, frame([row(2, JANUARY), row(1, FEBRUARY)]), ["2022-01"])
    assert (rows(tables), tables.version(NAME)) == ([row(1, JANUARY)], 0)


def test_merge_writes_only_what_differs(tables: DeltaTables, frame: Any) -> None:
    tables.merge(NAME, frame([row(n, JANUARY) for n in (1, 2, 3)]), ["2022-01"])
    changed = [
        row(1, JANUARY, computed=LATER),  # the same but for the time it was computed
        row(2, JANUARY, count=7, computed=LATER),
        row(4, JANUARY, computed=LATER),
    ]
    done = tables.merge(NAME, frame(changed), ["2022-01"])
    assert (done.action, done.version, done.rows) == ("merged", 1, 3)
    assert rows(tables) == [row(1, JANUARY), *changed[1:]]
    assert feed(tables, 1) == [
        (2, "update_postimage"),
        (2, "update_preimage"),
        (3, "delete"),
        (4, "insert"),
    ]


def test_a_second_merge_commits_nothing(tables: DeltaTables, frame: Any) -> None:
    same = [row(1, JANUARY), row(2, FEBRUARY)]
    tables.merge(NAME, frame(same), ["2022-01", "2022-02"], {"2022-01": 5})
    again = tables.merge(NAME, frame(same), ["2022-01", "2022-02"], {"2022-01": 5})
    assert (again.action, again.version, rows(tables)) == ("unchanged", 0, same)


def test_months_without_rows_are_added_as_files_and_the_others_merged(
    tables: DeltaTables, frame: Any
) -> None:
    """Rows of new months need no comparing: they never pass through the merge."""
    months = ["2022-01", "2022-02"]
    tables.merge(NAME, frame([row(1, JANUARY), row(2, JANUARY)]), ["2022-01"], {"2022-01": 7})
    both = [row(1, JANUARY), row(2, JANUARY, 5), row(1, FEBRUARY), row(2, FEBRUARY)]
    done = tables.merge(NAME, frame(both), months, {"2022-01": 8, "2022-02": 9})
    assert (done.action, done.rows, done.version) == ("merged", 3, 2)
    assert rows(tables) == sorted(both)
    assert [tables.made_from(NAME, month) for month in months] == [8, 9]
    assert feed(tables, 1) == [
        (1, "insert"),
        (2, "insert"),
        (2, "update_postimage"),
        (2, "update_preimage"),
    ]
    same = tables.merge(NAME, frame(both), months, {"2022-01": 8, "2022-02": 9})
    assert (same.action, same.rows, same.version) == ("unchanged", 0, 2)


def test_a_month_that_stays_empty_is_remembered_once(tables: DeltaTables, frame: Any) -> None:
    tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-01"], {"2022-01": 7})
    done = tables.merge(NAME, frame([]), ["2022-02"], {"2022-02": 3})
    assert (done.action, done.rows, tables.made_from(NAME, "2022-02")) == ("appended", 0, 3)
    again = tables.merge(NAME, frame([]), ["2022-02"], {"2022-02": 3})
    assert again.version == done.version
    with pytest.raises(TableError, match="must hold only the months it names: 2022-01"):
        tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-02"])


def test_merge_without_months_keeps_rows_that_are_not_in_the_frame(
    tables: DeltaTables, frame: Any
) -> None:
    tables.merge(NAME, frame([row(1, JANUARY)]))
    tables.merge(NAME, frame([row(2, JANUARY)]))
    assert rows(tables) == [row(1, JANUARY), row(2, JANUARY)]


def test_inputs_are_remembered_with_the_rows_and_by_month(tables: DeltaTables, frame: Any) -> None:
    january = [row(1, JANUARY)]
    tables.merge(NAME, frame(january), ["2022-01"], {"2022-01": 11})
    tables.merge(NAME, frame([row(1, FEBRUARY)]), ["2022-02"], {"2022-02": 2**62})
    assert [tables.made_from(NAME, m) for m in ("2022-01", "2022-02", "2022-03")] == [
        11,
        2**62,
        None,
    ]
    # Other inputs, the same rows: remembered, and the feed stays empty.
    version = tables.version(NAME)
    assert version is not None
    assert tables.merge(NAME, frame(january), ["2022-01"], {"2022-01": 12}).action == "unchanged"
    assert tables.made_from(NAME, "2022-01") == 12
    assert feed(tables, version + 1) == []


def test_contents_change_with_every_write_and_only_then(tables: DeltaTables, frame: Any) -> None:
    tables.replace(NAME, frame([row(1, JANUARY), row(1, FEBRUARY)]), ["2022-01", "2022-02"])
    january, february = (tables.contents(NAME, [m]) for m in ("2022-01", "2022-02"))
    tables.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    assert tables.contents(NAME, ["2022-01"]) == january
    assert tables.contents(NAME, ["2022-02"]) != february


def test_other_readers_see_the_same_rows_comments_and_feed(tables: DeltaTables, frame: Any) -> None:
    import duckdb
    from deltalake import DeltaTable

    written = [row(1, JANUARY), row(1, FEBRUARY)]
    tables.replace(NAME, frame(written), ["2022-01", "2022-02"])
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
    import os

    tables.replace(NAME, frame([row(1, JANUARY)]), ["2022-01"])
    root = Path(tables.uri(NAME))
    data = next((root / "known_month=2022-01").glob("*.parquet"))
    shutil.copy(data, data.with_name("part-orphan.parquet"))
    left, running = root / STAGING / "left", root / STAGING / "running"
    for folder in (left, running):
        folder.mkdir(parents=True)
    old = (datetime.now() - timedelta(days=2)).timestamp()
    os.utime(left, (old, old))
    tables.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    assert rows(tables) == [row(1, JANUARY), row(1, FEBRUARY)]
    assert (left.exists(), running.exists()) == (False, True)


def test_an_unknown_table_and_a_home_that_cannot_be_written(
    spark: SparkSession, tmp_path: Path, frame: Any
) -> None:
    with pytest.raises(TableError, match="described in schemas.py: 'tripz'"):
        DeltaTables(Settings(home=tmp_path), lambda: spark).read("tripz")
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(SettingsError, match="TAXI_HOME must be writable: .*file"):
        DeltaTables(Settings(home=blocked), lambda: spark).replace(NAME, frame([]))
