"""Sail, the engine without a JVM: one Spark Connect server beside this process, ended with it.

The server is a process of its own, so that what it logs goes to a file, its memory can be told
apart, and Python functions of a query run beside this process. It lives as long as the pipe to
its standard input: however this process ends, the server does, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import IO

from databricks_steps.errors import SettingsError
from databricks_steps.settings import CONNECT, LOOPBACK, Settings, inherited

IDLE_SECONDS = 30 * 86_400  # else Sail forgets a session while a long fit asks nothing
# What functions of queries import, and of them what is not this project's.
WARM = ("pyarrow.compute", "pyarrow.parquet", "pyspark.worker")
_WARM = (*WARM, "databricks_steps.trips.normalize")
OUT_OF_MEMORY = "Failed to allocate additional"  # how DataFusion says it
_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class Server:
    """The server process of this one, started at once; `address` waits until it listens."""

    def __init__(self, settings: Settings, scratch: Path, log: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={"RUST_LOG": "error"} | inherited() | variables(settings, scratch),
            start_new_session=True,  # Ctrl-C is for the run to answer, with the server there
        )
        self._asking = threading.Lock()
        self._port = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def address(self) -> str:
        """Where it listens, as Spark Connect writes it.

        Raises:
            SettingsError: it ended before it listened.
        """
        with self._asking:
            if not self._port and self._process.stdout is not None:
                self._port = self._process.stdout.readline().strip()
        if not self._port:
            raise SettingsError(
                "Sail did not start",
                f"exit code {self._process.wait()}",
                "See logs/spark.log in TAXI_HOME, or set TAXI_SPARK=local[*], which needs Java 17",
            )
        return f"{CONNECT}{LOOPBACK}:{self._port}"


def variables(settings: Settings, scratch: Path) -> dict[str, str]:
    """Sail's options, which it reads from the environment: memory, what is spilled, sessions."""
    return {
        # Functions of a query are pickled by name: the server imports what this process can.
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "SAIL_RUNTIME__MEMORY_POOL__TYPE": "fair",
        "SAIL_RUNTIME__MEMORY_POOL__FAIR__MAX_SIZE": str(size(settings.driver_memory)),
        "SAIL_RUNTIME__TEMPORARY_FILES__PATHS": json.dumps([str(scratch)]),
        "SAIL_SPARK__SESSION_TIMEOUT_SECS": str(IDLE_SECONDS),
        # Text of a file and text that was computed are of one type, so that arrays of them merge.
        "SAIL_PARQUET__SCHEMA_FORCE_VIEW_TYPES": "false",
    }


def size(text: str) -> int:
    """Bytes of a size as Spark writes it: 3g, 3072m.

    Raises:
        SettingsError: it is written in another way.
    """
    number, unit = text.lower().removesuffix("b")[:-1], text.lower().removesuffix("b")[-1:]
    if not number.isdigit() or unit not in _UNITS:
        raise SettingsError("TAXI_DRIVER_MEMORY must be a size", repr(text), "Write 3g or 3072m")
    return int(number) * _UNITS[unit]


def serve() -> None:
    """What the server process does: listen, tell the port, end when nobody holds the pipe."""
    from pysail.spark import SparkConnectServer

    # Before it listens: two threads that import the same packages can see them half made, and the
    # threads of queries import these.
    for name in _WARM:
        import_module(name)
    server = SparkConnectServer(LOOPBACK, 0)
    server.start(background=True)
    found = server.listening_address
    if found is None:
        raise SystemExit("Sail does not listen")
    print(found[1], flush=True)
    os.dup2(2, 1)  # what a function of a query prints belongs to the log; nobody reads on here
    sys.stdin.read()
    os._exit(0)  # queries may be at work for a caller who is gone


if __name__ == "__main__":
    serve()
