"""The Spark session of the embedded platform: its configuration, and what must hold before."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded import locked
from databricks_steps.settings import LOOPBACK, Settings, java_home, spark_environment

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OLDEST_JAVA = 17
SCRATCH = "scratch"
_LAUNCHING = threading.Lock()
_SCRATCH: list[IO[str]] = []  # its lock, held to the end of this process
LOG4J = Path(__file__).with_name("log4j2.properties")


def spark_conf(settings: Settings) -> dict[str, str]:
    """Spark's configuration; the one source for the asset resource, the steps and the tests."""
    conf = {
        "spark.app.name": "taxi-assets",
        "spark.master": settings.spark_master,
        "spark.driver.memory": settings.driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Times are New York wall clock as published and must never be shifted.
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # Some publishers write nanoseconds, which Spark reads as whole numbers or not at all.
        "spark.sql.legacy.parquet.nanosAsLong": "true",
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
        "spark.sql.sources.commitProtocolClass": (
            "org.apache.spark.sql.execution.datasources.SQLHadoopMapReduceCommitProtocol"
        ),
        "spark.hadoop.mapreduce.fileoutputcommitter.algorithm.version": "2",
        "spark.hadoop.mapreduce.fileoutputcommitter.marksuccessfuljobs": "false",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # Batches are cut by rows; to measure each row's bytes, too, costs a tenth of the way.
        "spark.sql.execution.arrow.maxBytesPerBatch": str(2**31 - 1),
        # PySpark would send the line of Python that made each column: four times the calls.
        "spark.python.sql.dataFrameDebugging.enabled": "false",
        "spark.sql.shuffle.partitions": "16",
        "spark.sql.warehouse.dir": str(settings.home / "spark-warehouse"),
        "spark.driver.extraJavaOptions": (
            f"-Duser.timezone=UTC -XX:+UseParallelGC -Dlog4j2.configurationFile={LOG4J.as_uri()}"
        ),
    }
    if settings.spark_master.startswith("local"):
        # Quoted: a home's path may hold a space.
        conf["spark.driver.extraJavaOptions"] += f' "-Djava.io.tmpdir={scratch(settings)}"'
    else:
        conf["spark.executor.extraJavaOptions"] = "-Duser.timezone=UTC"
    if on_this_machine(settings.spark_master):
        conf |= {"spark.driver.host": LOOPBACK, "spark.driver.bindAddress": LOOPBACK}
    return conf


def scratch(settings: Settings) -> Path:
    """Where this process keeps temporary files and what Spark spills: once it is killed, the next
    one of the home removes them."""
    return settings.home / SCRATCH / str(os.getpid())


def on_this_machine(master: str) -> bool:
    """Whether executors reach the driver by loopback; else it listens where Spark's own
    settings (`SPARK_LOCAL_IP`, or the host's name) say."""
    return master.startswith("local") or urlsplit(master).hostname in (LOOPBACK, "localhost")


def start(settings: Settings) -> SparkSession:
    """The running session, or a new one.

    Raises:
        SettingsError: no Java, a Java too old, or a session with another timezone is running.
    """
    from pyspark.sql import SparkSession

    builder = SparkSession.builder
    for key, value in spark_conf(settings).items():
        builder = builder.config(key, value)
    prepare(settings)
    session = builder.getOrCreate()
    require_utc(session)
    return session


def prepare(settings: Settings) -> None:
    """What a session needs before it is made, whoever makes it: this Python, and a quiet JVM.

    The JVM is launched here, so that what it says goes to `logs/spark.log` of the home.

    Raises:
        SettingsError: no Java, or a Java too old.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway

    with _LAUNCHING:
        if SparkContext._gateway is not None:
            return
        require_java()
        loopback = LOOPBACK if on_this_machine(settings.spark_master) else None
        spark_environment(sys.executable, loopback)
        mine = scratch(settings)
        _SCRATCH.append(locked.kept(mine))
        locked.sweep(mine.parent)
        tempfile.tempdir = str(mine)  # Py4J's and MLflow's files, too, are swept after a kill
        log = settings.home / "logs" / "spark.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        conf = SparkConf().setAll(list(spark_conf(settings).items()))
        with log.open("ab") as file:
            gateway = launch_gateway(conf, {"stderr": file})  # type: ignore[no-untyped-call]
        SparkContext._ensure_initialized(gateway=gateway)


def require_utc(session: SparkSession) -> None:
    """Refuse a session that would shift New York wall-clock times."""
    zone = session.conf.get("spark.sql.session.timeZone")
    if zone != "UTC":
        raise SettingsError(
            "The Spark session timezone must be UTC",
            repr(zone),
            "Set spark.sql.session.timeZone to UTC before the session starts",
        )


def require_java() -> None:
    """Refuse a machine without Java, or with one Spark 4 cannot run on."""
    home = java_home()
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    remedy = (
        f"Install Java {OLDEST_JAVA} or newer (Debian: apt-get install openjdk-17-jre-headless)"
    )
    if java is None or not Path(java).exists():
        raise SettingsError("Spark needs Java", f"none found at {java or 'PATH'}", remedy)
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    if found is None or int(found.group(1)) < OLDEST_JAVA:
        version = answer.stderr.strip().splitlines()[:1] or ["no answer"]
        raise SettingsError(
            f"Spark needs Java {OLDEST_JAVA} or newer", f"{java} is {version[0]}", remedy
        )
