"""Engines: which one the environment names, and what a session leaves on disk and running."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pyarrow as pa
import pytest

from databricks_steps.cost import Cost
from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded import sail, session
from databricks_steps.settings import JVM, SAIL, Settings
from taxi_assets_tests.waiting import until

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow  # engines that start and stop
PREPARED = """
import os, signal, sys, tempfile
from pathlib import Path
from databricks_steps.platforms.embedded import session
from databricks_steps.settings import Settings
settings = Settings(home=Path(sys.argv[1]), spark=sys.argv[3])
session.prepare(settings)
print(tempfile.mkdtemp(prefix="model-"), os.getpid(), sep="\\n", flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def prepared(home: Path, end: str, spark: str) -> tuple[int, Path, int]:
    """Exit code, temporary folder and process of a Python that prepared a session."""
    words = [sys.executable, "-c", PREPARED, str(home), end, spark]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, timeout=600)
    folder, process = done.stdout.splitlines()
    return done.returncode, Path(folder), int(process)


@pytest.mark.parametrize("spark", [SAIL, pytest.param(JVM, marks=pytest.mark.long)])
def test_what_a_killed_process_kept_for_a_while_is_gone_with_the_next(
    tmp_path: Path, spark: str
) -> None:
    if spark == JVM:
        require_java()
    home = tmp_path / "my hömé"
    parent = session.scratch(Settings(home=home)).parent
    code, kept, killed = prepared(home, "killed", spark)
    assert code == -signal.SIGKILL
    assert kept.parent == parent / str(killed)
    assert kept.is_dir()
    code, later, next_one = prepared(home, "ended", spark)
    assert code == 0
    assert later.parent == parent / str(next_one)
    assert not kept.parent.exists()
    assert (home / "logs" / "spark.log").is_file()


def require_java() -> None:
    try:
        session.require_java()
    except SettingsError as error:
        pytest.skip(f"Spark in a JVM: {error}")


@pytest.mark.parametrize(
    ("variables", "engine"),
    [
        ({}, SAIL),
        ({"TAXI_SPARK": "local[2]"}, "local[2]"),
        ({"TAXI_SPARK": "sc://10.0.0.7:15002/;token=t"}, "sc://10.0.0.7:15002/;token=t"),
        ({"TAXI_SPARK_MASTER": "spark://10.0.0.7:7077"}, "spark://10.0.0.7:7077"),  # its old name
        ({"TAXI_SPARK": "sail", "TAXI_SPARK_MASTER": "local[2]"}, SAIL),
    ],
)
def test_the_engine_is_the_one_that_the_environment_names(
    variables: dict[str, str], engine: str
) -> None:
    settings = Settings.from_environment(variables)
    assert (settings.spark, settings.engine) == (engine, engine.partition("/;")[0])
    assert settings.in_jvm is engine.startswith(("local", "spark:"))
    assert Settings.from_environment(settings.to_environment()).spark == engine


@pytest.mark.parametrize("text", ["duckdb", "Sail", "sail[*]", "http://10.0.0.7:7077"])
def test_an_engine_that_there_is_not_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="TAXI_SPARK") as told:
        Settings.from_environment({"TAXI_SPARK": text})
    assert repr(text) in str(told.value)


def test_without_a_wheel_of_sail_spark_in_a_jvm_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pysail", None)  # as where it is not installed
    assert [Settings.from_environment({}).spark for _ in range(3)] == [JVM] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # once


@pytest.mark.parametrize(
    ("text", "size"), [("3g", 3 * 2**30), ("512m", 2**29), ("2GB", 2**31), ("64k", 2**16)]
)
def test_the_size_of_the_engines_memory(text: str, size: int) -> None:
    assert sail.size(text) == size


@pytest.mark.parametrize("text", ["", "3", "g", "-1g", "3 g", "3p"])
def test_a_size_that_is_none_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="TAXI_DRIVER_MEMORY") as told:
        sail.size(text)
    assert repr(text) in str(told.value)


QUERIED = """
import os, signal, sys
from pathlib import Path
from databricks_steps import cost
from databricks_steps.platforms.embedded import session
from databricks_steps.settings import Settings
settings = Settings(home=Path(sys.argv[1]))
one = session.start(settings)
assert session.start(settings) is one
assert one.range(5).count() == 5
print(*cost.PROCESSES, flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["killed", "ended"])
def test_sails_server_ends_with_the_process_that_started_it(tmp_path: Path, end: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUERIED, str(tmp_path), end],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == (-signal.SIGKILL if end == "killed" else 0), done.stderr
    assert done.stderr == ""  # what the server says, and PySpark's client at the end, is no news
    (server,) = map(int, done.stdout.split())
    until(lambda: not Path(f"/proc/{server}").exists(), 10)


def test_a_server_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    log = (tmp_path / "spark.log").open("wb")
    settings = Settings(home=tmp_path, driver_memory="1g")
    with log, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAIL_MODE", "nonsense")
        server = sail.Server(settings, tmp_path, log)
        with pytest.raises(SettingsError, match=r"logs/spark\.log.*TAXI_SPARK=local"):
            _ = server.address
    assert server.exit_code == 1
    assert (tmp_path / "spark.log").stat().st_size > 0


def test_the_memory_that_a_step_took_is_that_of_sails_server(spark: SparkSession) -> None:
    cost = Cost()
    spark.range(500_000).selectExpr("uuid() AS text").orderBy("text").toArrow()
    assert 0.05 < cost.figures()["spark_peak_gib"] < 4


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from databricks_steps import cost
from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
on = EmbeddedPlatform(Settings(home=Path(sys.argv[1])))
on.spark
threading.Timer(1, os.kill, (cost.PROCESSES[0], signal.SIGKILL)).start()
try:
    with on.at_work():
        on.spark.range(10**13).selectExpr("sum(id * id % 7)").collect()
except SettingsError as error:
    print(error.value)
print(EmbeddedPlatform(on.settings).spark.range(3).count())
"""


def test_a_server_that_is_killed_is_told_at_once_and_replaced(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # PySpark by itself would ask again for ten minutes
    )
    assert done.stdout == "exit code -9\n3\n", done.stderr[-2000:]


def test_a_cluster_of_databricks_is_told_no_engine() -> None:
    settings = Settings.from_environment({"TAXI_PLATFORM": "databricks", "TAXI_SPARK": "local[2]"})
    assert "TAXI_SPARK" not in settings.to_environment()


def test_what_a_function_of_a_query_prints_stops_nothing(spark: SparkSession) -> None:
    def loud(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import os

        os.write(1, b"more than a pipe holds that nobody reads\n" * 10_000)
        yield from batches

    assert spark.range(3).mapInArrow(loud, "id long").count() == 3


@pytest.mark.parametrize("name", ["a*", "b[1]", "c?", "{d}"])
def test_a_home_that_sail_would_take_for_a_pattern_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="TAXI_HOME") as told:
        Settings.from_environment({"TAXI_HOME": str(tmp_path / name)})
    assert name in str(told.value)


def test_an_answer_that_cannot_be_parsed_is_asked_for_again() -> None:
    policy = session.retry_policy()
    assert policy.max_retries == 3
    assert policy.can_retry(grpc.RpcError("Exception deserializing response!"))
    assert not policy.can_retry(ValueError("of the caller"))


def test_a_connect_server_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, spark="sc://127.0.0.1:1/;token=secret")
    with pytest.raises(SettingsError, match=r"sc://127\.0\.0\.1:1: .*refused") as told:
        session.start(settings)
    assert "secret" not in str(told.value)
