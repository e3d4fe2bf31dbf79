"""The process that reads and writes Delta tables for the server: it publishes and moves payloads.

It starts when it is asked, ends when nobody asks for a while or the server is gone, and gives way
to the server where both want the processor. Requests and answers are JSON.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import orjson

from databricks_steps.errors import ServingError, TaxiError
from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import capture, publish

_LOG = logging.getLogger(__name__)
SECONDS = 180.0  # for one request
IDLE_SECONDS = 300.0
NICE = 10


class Warehouse:
    """The Delta tables as the server sees them; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._lock = settings, threading.Lock()
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._closed = False

    def publish(self, source: str, online_name: str, store: str) -> None:
        """Bring an online table up to date; raises as `publish.publish` does."""
        self._ask("publish", source, online_name, store)

    def flush(self) -> int:
        """Move the buffered payloads into their tables; answers how many."""
        return int(self._ask("flush"))

    def close(self) -> None:
        """End the process, even one that is being waited for."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _ask(self, *request: str) -> Any:
        """The answer.

        Raises:
            ApiError: the request is refused; code and message are the process' own.
            ServingError: the process breaks, or takes too long.
        """
        with self._lock:
            found = self._asked(request) or self._asked(request)  # an idle one may have just ended
        if found is None:
            raise self._broken("it ended; its reason is in the log")
        if "refused" in found:
            raise errors.ApiError(*found["refused"])
        return found["done"]

    def _asked(self, request: tuple[str, ...]) -> dict[str, Any] | None:
        """One try; None where the process ended before it answered."""
        if self._closed:
            raise self._broken("the workspace is stopping")
        connection = self._started()
        try:
            connection.send_bytes(orjson.dumps(request))
            if not connection.poll(SECONDS):
                self._end()
                raise self._broken(f"it did not answer within {SECONDS:g} seconds")
            found: dict[str, Any] = orjson.loads(connection.recv_bytes())
        except (EOFError, OSError):
            self._end()
            return None
        return found

    def _started(self) -> Connection:
        if self._process is None or self._connection is None or not self._process.is_alive():
            spawn = multiprocessing.get_context("spawn")
            self._connection, theirs = spawn.Pipe()
            self._process = spawn.Process(target=serve, args=(self._settings, theirs), daemon=True)
            self._process.start()
            theirs.close()  # so that its end is seen here
        return self._connection

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = None

    def _broken(self, why: str) -> ServingError:
        return ServingError("The process of the Delta tables must answer", why, "Try again")


def serve(settings: Settings, connection: Connection) -> None:
    """Answer requests until the other end is gone or stays silent."""
    os.nice(NICE)
    while connection.poll(IDLE_SECONDS):
        try:
            what, *given = orjson.loads(connection.recv_bytes())
        except EOFError:
            return
        connection.send_bytes(orjson.dumps(_answer(settings, what, given)))


def _answer(settings: Settings, what: str, given: list[str]) -> dict[str, Any]:
    try:
        if what == "flush":
            return {"done": capture.flush(settings)}
        return {"done": publish.publish(settings, *given).name}
    except TaxiError as error:
        code = getattr(error, "code", "BAD_REQUEST")
        return {"refused": [code, error.rule, _line(error.value), error.remedy]}
    except Exception as error:
        _LOG.exception("a request failed")
        rule, remedy = "A Delta table must be read and written", "Look at the workspace's log"
        return {"refused": ["INTERNAL_ERROR", rule, _line(error), remedy]}


def _line(value: object) -> str:
    return " ".join(str(value).split())[:300]
