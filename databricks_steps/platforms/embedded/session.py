"""The Spark session of the embedded platform: its engine, its configuration, what must hold before.

`TAXI_SPARK` names the engine: Sail (sail.py), Spark in a JVM of this process, or a cluster.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from databricks_steps import cost
from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded import file_lock, sail
from databricks_steps.settings import (
    LOOPBACK,
    SAIL,
    Settings,
    java_home,
    spark_environment,
    speak_connect,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

OLDEST_JAVA = 17
CONNECT_PORT = 15002  # where an address names none
SCRATCH = "scratch"
_LAUNCHING = threading.Lock()
_SAIL: list[sail.Server] = []  # of this process, one at most
_SESSIONS: list[SparkSession] = []  # those of its clients
_SCRATCH: list[IO[str]] = []  # its lock, held to the end of this process
LOG4J = Path(__file__).with_name("log4j2.properties")


def spark_conf(settings: Settings) -> dict[str, str]:
    """The session's configuration; the one source for the asset resource, the steps and the tests.

    Of Sail it waits until the server that `prepare` started listens.
    """
    if settings.in_jvm:
        return jvm_conf(settings, scratch(settings))
    sails = settings.spark == SAIL
    remote = _sail(settings).address if sails else settings.spark
    # Times are New York wall clock as published and must never be shifted.
    return {"spark.remote": remote, "spark.sql.session.timeZone": "UTC"}


def jvm_conf(settings: Settings, scratch: Path) -> dict[str, str]:
    """The configuration of Spark in a JVM whose temporary files are in `scratch`."""
    conf = {
        "spark.app.name": "taxi-assets",
        "spark.master": settings.spark,
        "spark.driver.memory": settings.driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Times are New York wall clock as published and must never be shifted.
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
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
    if settings.spark.startswith("local"):
        # Quoted: a home's path may hold a space.
        conf["spark.driver.extraJavaOptions"] += f' "-Djava.io.tmpdir={scratch}"'
    else:
        conf["spark.executor.extraJavaOptions"] = "-Duser.timezone=UTC"
    if on_this_machine(settings.spark):
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


def start(
    settings: Settings, make: Callable[[dict[str, Any]], SparkSession] | None = None
) -> SparkSession:
    """The running session, or a new one; `make` makes it of a configuration in PySpark's stead.

    Raises:
        SettingsError: the engine cannot start, or a session with another timezone is running.
    """
    prepare(settings)
    if settings.spark == SAIL and (running := _running()) is not None:
        return running
    session = (make or _built)(spark_conf(settings))
    require_utc(session)
    if settings.spark == SAIL:
        remote: Any = session
        remote.client.set_retry_policies([retry_policy()])
        _SESSIONS[:] = [session]
    if not settings.in_jvm:
        # Before PySpark's own end, which asks for models that Sail keeps none of, and logs that.
        atexit.register(session.stop)
    return session


def retry_policy() -> Any:
    """When PySpark asks Sail's server again."""
    from pyspark.sql.connect.client.retries import DefaultPolicy

    class Policy(DefaultPolicy):
        def can_retry(self, e: BaseException) -> bool:
            # Seen once on a busy machine: gRPC could not parse what the server had answered.
            garbled = "Exception deserializing response" in str(e)
            return garbled or bool(super().can_retry(e))

    # PySpark's own would wait ten minutes for a server on this machine that has ended.
    return Policy(max_retries=3)


def _running() -> SparkSession | None:
    """The session of this process on Sail's server, unless somebody stopped it."""
    found: list[Any] = [s for s in list[Any](_SESSIONS) if not s.is_stopped]
    if not found:
        return None
    speak_connect()
    one: SparkSession = found[0]
    return one


def _built(conf: dict[str, Any]) -> SparkSession:
    from pyspark.sql import SparkSession

    session: Any
    if "spark.remote" in conf:
        from pyspark.sql.connect.session import SparkSession as Remote

        speak_connect()  # as PySpark's builder does, but also beside a session in a JVM
        session = Remote.builder.config(map=conf).getOrCreate()
    else:
        session = SparkSession.builder.config(map=conf).getOrCreate()
    made: SparkSession = session
    return made


def prepare(settings: Settings) -> None:
    """What a session needs before it is made, whoever makes it: the engine, launched.

    What the engine says goes to `logs/spark.log` of the home.

    Raises:
        SettingsError: no Java for Spark in a JVM or a Java too old, or no Connect server.
    """
    if settings.in_jvm:
        _launch_jvm(settings)
    elif settings.spark == SAIL:
        _sail(settings)
    else:
        _require_listening(settings)


def _require_listening(settings: Settings) -> None:
    """Refuse a Connect server that is not there: PySpark would ask it for ten minutes."""
    server = urlsplit(settings.spark)
    try:
        with socket.create_connection((server.hostname or "", server.port or CONNECT_PORT), 10):
            pass
    except (OSError, ValueError) as error:
        raise SettingsError(
            "Nothing listens where TAXI_SPARK names a Spark Connect server",
            f"{settings.engine}: {error}",
            "Start the server, or unset TAXI_SPARK for the engine of this machine",
        ) from error


def _sail(settings: Settings) -> sail.Server:
    """The one server of this process, started when it does not run."""
    with _LAUNCHING:
        if not _SAIL or _SAIL[0].exit_code is not None:
            for session in _SESSIONS:
                session.stop()  # PySpark would give it out again, though its server is gone
            _SESSIONS.clear()
            with _log(settings).open("ab") as log:
                _SAIL[:] = [sail.Server(settings, _keep_scratch(settings), log)]
            cost.PROCESSES[:] = [_SAIL[0].pid]
        return _SAIL[0]


def _launch_jvm(settings: Settings) -> None:
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway

    with _LAUNCHING:
        if SparkContext._gateway is not None:
            return
        require_java()
        loopback = LOOPBACK if on_this_machine(settings.spark) else None
        spark_environment(sys.executable, loopback)
        _keep_scratch(settings)
        conf = SparkConf().setAll(list(jvm_conf(settings, scratch(settings)).items()))
        with _log(settings).open("ab") as log:
            gateway = launch_gateway(conf, {"stderr": log})  # type: ignore[no-untyped-call]
        SparkContext._ensure_initialized(gateway=gateway)


def _keep_scratch(settings: Settings) -> Path:
    """This process's folder for temporary files: those of Py4J and MLflow, too, so that they
    are swept after a kill."""
    mine = scratch(settings)
    _SCRATCH.append(file_lock.kept(mine))
    file_lock.sweep(mine.parent)
    tempfile.tempdir = str(mine)
    return mine


def _log(settings: Settings) -> Path:
    log = settings.home / "logs" / "spark.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return log


@contextmanager
def at_work(settings: Settings) -> Iterator[None]:
    """Inside, what Sail ran out of is told in people's words.

    Raises:
        SettingsError: a query needed more memory than Sail may take, or the server ended.
    """
    try:
        yield
    except Exception as error:
        remedy = "Set TAXI_DRIVER_MEMORY to what the machine has, or TAXI_SPARK=local[*]"
        if sail.OUT_OF_MEMORY in str(error):
            raise SettingsError(
                "Sail has no memory left for a query",
                f"TAXI_DRIVER_MEMORY is {settings.driver_memory}",
                remedy,
            ) from error
        if _SAIL and (code := _SAIL[0].exit_code) is not None:
            raise SettingsError(
                "Sail's server ended while it worked", f"exit code {code}", remedy
            ) from error
        raise


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
