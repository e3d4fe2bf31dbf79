"""One task of a run: a Python file with `spark`, `sc` and `dbutils` defined, as on a cluster, or
an entry point of an installed wheel.

On Sail and on serverless compute there is no `sc`: it is None. Runs by its path in an environment
without the project (cluster_packages.py), and so imports nothing of it:

`python -I task.py ENGINE FILE PARAMETER…`, by the workspace's runs. ENGINE is JSON: `conf` of the
session, for Sail `sail`, the modules its server imports before it listens, `volumes`, the folder
behind /Volumes, `wheel`, package and entry point in place of the file, and `serverless`.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import runpy
import signal
import subprocess
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
SERVER = "sail"  # in place of ENGINE: this process is Sail's server


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
    if arguments[0] == SERVER:
        return _serve(arguments[1:])
    threading.Thread(target=_end_with_the_workspace, name="workspace", daemon=True).start()
    text, file, *parameters = arguments
    engine = json.loads(text)
    _mount(engine["volumes"])
    spark = _session(engine)
    sys.argv = [file, *parameters]
    if "wheel" in engine:
        try:
            _entry_point(*engine["wheel"])()
        finally:
            spark.stop()
        return 0
    connect = "SPARK_REMOTE" in os.environ or "serverless" in engine
    context = None if connect else spark.sparkContext
    given = {"spark": spark, "sc": context, "dbutils": DbUtils()}
    try:
        runpy.run_path(file, init_globals=given, run_name="__main__")
    finally:
        spark.stop()
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


def _session(engine: dict[str, Any]) -> Any:
    """The cluster's session: who asks PySpark for one gets it, as on Databricks."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    conf = engine["conf"]
    if "sail" in engine:
        command = [sys.executable, "-I", __file__, SERVER, *engine["sail"]]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None  # noqa: S101
        os.environ["SPARK_REMOTE"] = f"sc://127.0.0.1:{server.stdout.readline().strip()}"
    elif engine.get("serverless"):  # Spark's own Connect server, in a JVM
        conf["spark.remote"] = conf.pop("spark.master")
    made = SparkSession.builder.config(map=conf).getOrCreate()
    if engine.get("serverless"):
        _refuse_settings()
    return made


def _serve(modules: list[str]) -> int:
    """Sail's server: Python functions of queries run in it. Ends when nobody holds its input."""
    from pysail.spark import SparkConnectServer

    for name in modules:  # threads of queries that import the same packages see them half made
        import_module(name)
    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    print(server.listening_address[1], flush=True)
    os.dup2(2, 1)
    sys.stdin.read()
    os._exit(0)


def _end_with_the_workspace() -> None:
    """A task whose workspace is gone has no record: nobody would wait for it, or could end it."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever sent: it returns when nobody holds the pipe
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
