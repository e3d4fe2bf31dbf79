"""A real Spark cluster of a master and two workers: the same rows as on one machine's threads."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from databricks_steps import schemas
from databricks_steps.platforms.embedded import session
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings, inherited
from databricks_steps.steps import STEPS
from databricks_steps.trips.demo import demo_trips

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

MONTH = "2022-01"
STEPS_RUN = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set")
TABLES = (*STEPS_RUN, "quarantined_trips")
DRIVER = f"""
import json
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS

platform = EmbeddedPlatform(Settings.from_environment())
for name in {STEPS_RUN!r}:
    for outcome in STEPS[name].run(platform, [{MONTH!r}], False):
        assert all(v.passed for v in outcome.verdicts), outcome
context = platform.spark.sparkContext
executors = context._jsc.sc().getExecutorMemoryStatus().size() - 1  # less the driver
print(json.dumps({{"master": context.master, "executors": executors}}))
"""


class Daemon:
    """A master or worker started from the pyspark package, and what it logs."""

    def __init__(self, log: Path, *arguments: str) -> None:
        import pyspark

        home = Path(pyspark.__file__).parent
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [str(home / "bin" / "spark-class"), *arguments],
                stdout=file,
                stderr=file,
                env={**inherited(), "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1"},
                start_new_session=True,
            )

    def logged(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the pattern stands in the log so many times; what its group matched."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            text = self._log.read_text(errors="replace")
            found: list[str] = re.findall(pattern, text)
            if len(found) >= times:
                return found
            assert self._process.poll() is None, text[-2000:]
            time.sleep(0.2)
        raise AssertionError(f"{pattern} was not logged: {text[-2000:]}")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """The address of a master on a free port, with two workers of one core each."""
    deploy = "org.apache.spark.deploy"
    loopback = ("--host", "127.0.0.1", "--webui-port", "0")
    master = Daemon(tmp_path / "master.log", f"{deploy}.master.Master", *loopback, "--port", "0")
    running = [master]
    try:
        (address,) = master.logged(r"Starting Spark master at (spark://[\d.]+:\d+)")
        worker = (f"{deploy}.worker.Worker", address, *loopback, "--cores", "1", "--memory", "1g")
        for n in (1, 2):
            work = ("--work-dir", str(tmp_path / f"work{n}"))
            running.append(Daemon(tmp_path / f"worker{n}.log", *worker, *work))
        master.logged(r"Registering worker", times=2)
        yield address
    finally:
        for daemon in reversed(running):
            daemon.stop()


def rows(settings: Settings, name: str) -> set[tuple[Any, ...]]:
    """All rows but for when they were computed, by delta-rs alone; no row occurs twice."""
    from deltalake import DeltaTable

    found = DeltaTable(str(settings.table_path(name))).to_pyarrow_table()
    kept = [n for n in schemas.TABLES[name].names if n not in schemas.TABLES[name].computed]
    columns = [found.column(n).to_pylist() for n in kept]
    different = {tuple(map(str, values)) for values in zip(*columns, strict=True)}
    assert len(different) == found.num_rows
    return different


@pytest.mark.long
def test_two_workers_make_the_rows_of_one_machine(
    spark: SparkSession, tmp_path: Path, cluster: str
) -> None:
    source = str(tmp_path / f"green_tripdata_{MONTH}.parquet")
    pq.write_table(demo_trips(MONTH, 8_000), source)
    alone = Settings(home=tmp_path / "alone", source=source)
    platform = EmbeddedPlatform(alone, lambda: spark)
    for name in STEPS_RUN:
        STEPS[name].run(platform, [MONTH], False)

    shared = Settings(home=tmp_path / "shared", source=source, spark=cluster)
    variables = {
        "TAXI_HOME": str(shared.home),
        "TAXI_SOURCE": source,
        "TAXI_SPARK": cluster,
        "TAXI_DRIVER_MEMORY": "1g",
    }
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        env={**inherited(), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"master": cluster, "executors": 2}
    for name in TABLES:
        expected = rows(alone, name)
        assert expected
        assert rows(shared, name) == expected, name


@pytest.mark.parametrize(
    ("master", "loopback"),
    [
        ("local[*]", True),
        ("local-cluster[2,1,1024]", True),
        ("spark://127.0.0.1:7077", True),
        ("spark://localhost:7077", True),
        ("spark://10.0.0.7:7077", False),
        ("yarn", False),
        ("k8s://https://cluster.example:6443", False),
    ],
)
def test_the_driver_listens_on_loopback_unless_executors_are_elsewhere(
    master: str, loopback: bool
) -> None:
    conf = session.spark_conf(Settings(spark=master))
    assert conf["spark.sql.session.timeZone"] == "UTC"
    assert ("spark.driver.bindAddress" in conf) is loopback
    assert conf.get("spark.driver.host", "127.0.0.1") == "127.0.0.1"
