"""One task of a run: a Python file with `spark`, `sc` and `dbutils` defined, as on a cluster, or
an entry point of an installed wheel.

On Sail and on serverless compute there is no `sc`: it is None. Runs by its path in an environment
without the project (cluster_packages.py), and so imports nothing of it:

`python -I task.py ASKED FILE PARAMETER…`, by the workspace's runs, with the variables that the
driver of its cluster has told (driver.py). ASKED is JSON: `volumes`, the folder behind /Volumes,
`wheel`, package and entry point in place of the file, and `serverless`.
"""

from __future__ import annotations

import atexit
import builtins
import io
import json
import os
import runpy
import signal
import sys
import threading
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NoReturn

# What serverless compute lets a session set, of what there is.
SETTABLE = (
    *("spark.sql.ansi.enabled", "spark.sql.session.timeZone", "spark.sql.shuffle.partitions"),
    *("spark.sql.legacy.timeParserPolicy", "spark.sql.files.maxPartitionBytes"),
)


class NoSecretsError(Exception):
    """This machine keeps no secrets."""


class Secrets:
    """`dbutils.secrets`."""

    def get(self, scope: str, key: str) -> NoReturn:
        raise NoSecretsError(f"The emulator keeps no secrets: {scope}/{key}. Use the environment")


class DbUtils:
    """What a task may expect of `dbutils` here."""

    def __init__(self) -> None:
        self.secrets = Secrets()


def main(arguments: list[str]) -> int:
    """Run the file; what it raises ends the process as it would end the task."""
    threading.Thread(target=_end_with_the_workspace, name="workspace", daemon=True).start()
    text, file, *parameters = arguments
    asked = json.loads(text)
    _mount(asked["volumes"])
    spark = _session()
    if "serverless" in asked:
        _refuse_settings()
    sys.argv = [file, *parameters]
    if "wheel" in asked:
        _entry_point(*asked["wheel"])()
        return 0
    context = None if "SPARK_REMOTE" in os.environ else spark.sparkContext
    given = {"spark": spark, "sc": context, "dbutils": DbUtils()}
    runpy.run_path(file, init_globals=given, run_name="__main__")
    return 0


def _mount(folder: str) -> None:
    """What is below /Volumes is opened by its path, as where the volumes are mounted.

    A file that is written is there, whole, once it is closed.
    """
    plain = io.open

    def opened(file: Any, mode: str = "r", *given: Any, **named: Any) -> Any:
        path = os.fspath(file) if isinstance(file, os.PathLike) else file
        if not (isinstance(path, str) and path.startswith("/Volumes/")):
            return plain(file, mode, *given, **named)
        path = folder + path.removeprefix("/Volumes")
        if "w" not in mode:
            return plain(path, mode, *given, **named)
        stream: Any = plain(f"{path}.part", mode, *given, **named)
        close = stream.close

        def uploaded() -> None:
            if not stream.closed:
                close()
                Path(f"{path}.part").replace(path)

        stream.close = uploaded
        return stream

    builtins.open = io.open = opened


def _entry_point(package: str, name: str) -> Any:
    """Named in the package's metadata, or else a function of the package, as on Databricks."""
    for found in distribution(package).entry_points.select(name=name):
        return found.load()
    return getattr(import_module(package), name)


def _refuse_settings() -> None:
    """Serverless compute keeps no frames and takes few settings."""
    from pyspark.errors import AnalysisException
    from pyspark.sql.connect.conf import RuntimeConf
    from pyspark.sql.connect.dataframe import DataFrame

    def persist(*_: Any, **__: Any) -> NoReturn:
        raise AnalysisException("[NOT_SUPPORTED_WITH_SERVERLESS] PERSIST TABLE is not supported")

    put: Any = RuntimeConf.set

    def change(self: RuntimeConf, key: str, value: str | int | bool) -> None:
        if key not in SETTABLE:
            raise AnalysisException(f"[CONFIG_NOT_AVAILABLE] Configuration {key} is not available.")
        put(self, key, value)

    DataFrame.cache = DataFrame.persist = persist  # type: ignore[method-assign]
    RuntimeConf.set = change  # type: ignore[method-assign]


def _session() -> Any:
    """A session of the cluster's driver: who asks PySpark for one gets it, as on Databricks."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if "SPARK_REMOTE" in os.environ:
        made = SparkSession.builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
        atexit.register(made.stop)  # its own session; the server goes on
        return made
    from pyspark import SparkConf, SparkContext
    from pyspark.java_gateway import launch_gateway

    gateway: Any = launch_gateway()  # type: ignore[no-untyped-call]
    spark = gateway.jvm.org.apache.spark
    shared = spark.api.java.JavaSparkContext.fromSparkContext(spark.SparkContext.getOrCreate())
    context = SparkContext(gateway=gateway, jsc=shared, conf=SparkConf(_jconf=shared.getConf()))
    first = spark.sql.classic.SparkSession.builder().getOrCreate()
    return SparkSession(context, first.newSession())


def _end_with_the_workspace() -> None:
    """A task whose workspace is gone has no record: nobody would wait for it, or could end it."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever sent: it returns when nobody holds the pipe
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
