"""The embedded tables alone: what other readers see, what a kill leaves, homes one cannot write.

What holds for the tables of every platform is in `test_tables_contract.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded import delta_files
from databricks_steps.platforms.embedded.tables import STAGED_FILES, DeltaTables
from databricks_steps.settings import Settings
from taxi_assets_tests.databricks_steps.platforms.feature_tables import (
    BOTH,
    FEBRUARY,
    JANUARY,
    NAME,
    row,
    rows,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def test_other_readers_see_the_same_rows_comments_and_feed(tables: DeltaTables, frame: Any) -> None:
    import duckdb
    from deltalake import DeltaTable

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
