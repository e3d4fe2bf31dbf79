"""One task of a run: a Python file with `spark`, `sc` and `dbutils` defined, as on a cluster.

On Sail there is no `sc`: it is None. Runs by its path in an environment without the project
(cluster_packages.py), and so imports nothing of it:

`python -I task.py ENGINE FILE PARAMETER…`, by the workspace's runs. ENGINE is JSON: `conf` of the
session, and for Sail `sail`, the modules its server imports before it listens.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from importlib import import_module
from typing import Any, NoReturn

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
    engine, file, *parameters = arguments
    spark = _session(json.loads(engine))
    sys.argv = [file, *parameters]
    context = None if "SPARK_REMOTE" in os.environ else spark.sparkContext
    given = {"spark": spark, "sc": context, "dbutils": DbUtils()}
    try:
        runpy.run_path(file, init_globals=given, run_name="__main__")
    finally:
        spark.stop()
    return 0


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
    return SparkSession.builder.config(map=conf).getOrCreate()


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
