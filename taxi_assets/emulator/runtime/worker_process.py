"""Helper processes: they do what would weigh on the server, its memory and its answers.

One JSON line goes in and one comes out. A helper starts when it is asked, ends when nobody asks for
a while, and gives way to the server when both want the processor.
"""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from databricks_steps.errors import ServingError, TaxiError
from taxi_assets.emulator import errors

_LOG = logging.getLogger(__name__)
IDLE_SECONDS = 300.0
NICE = 10

Request = list[Any]


class Helper:
    """One helper: a module of this package that ends with `answer`. Safe to share by threads."""

    def __init__(self, module: str, home: Path, seconds: float) -> None:
        self._module, self._home, self._seconds = module, home, seconds
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, request: Request) -> Any:
        """What the helper answers.

        Raises:
            ApiError: it refuses; code and message are its own.
            ServingError: it breaks, or takes too long.
        """
        with self._lock:
            line = self._asked(json.dumps(request))
        told = json.loads(line)
        if "refused" in told:
            raise errors.ApiError(*told["refused"])
        return told["done"]

    def close(self) -> None:
        """End the process, even one that is being waited for."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _asked(self, request: str) -> str:
        for _ in range(2):  # one that was idle may end in this very moment
            if self._closed:
                raise self._broken("the workspace is stopping")
            helper = self._running()
            try:
                stdin, stdout = cast("IO[str]", helper.stdin), cast("IO[str]", helper.stdout)
                stdin.write(request + "\n")
                stdin.flush()
                if not _readable(stdout, self._seconds):
                    self._end()
                    raise self._broken(f"it did not answer within {self._seconds:g} seconds")
                line = stdout.readline()
            except BrokenPipeError:
                line = ""
            if line:
                return line
            self._end()
        raise self._broken("it ended; its reason is in the log")

    def _broken(self, why: str) -> ServingError:
        return ServingError(f"The helper {self._module} must answer", why, "Try again")

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(self._home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def answer(handle: Callable[[Request], Any], answers: IO[str]) -> int:
    """The helper's side: requests from standard input until it closes or stays silent.

    `answers` is the standard output of before: what libraries print must not get into it.
    """
    os.nice(NICE)
    while _readable(sys.stdin, IDLE_SECONDS):
        line = sys.stdin.readline()
        if not line:
            break
        told: dict[str, Any]
        try:
            told = {"done": handle(json.loads(line))}
        except TaxiError as error:
            code = getattr(error, "code", "BAD_REQUEST")
            told = {"refused": [code, error.rule, _line(error.value), error.remedy]}
        except Exception as error:
            _LOG.exception("a request failed")
            rule, remedy = "A helper must do its work", "Look at the workspace's log"
            told = {"refused": ["INTERNAL_ERROR", rule, _line(error), remedy]}
        answers.write(json.dumps(told) + "\n")
        answers.flush()
    return 0


def _readable(stream: IO[str], seconds: float) -> bool:
    """Whether there is something to read within the time; `select` knows no file above 1,023."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _line(value: object) -> str:
    return " ".join(str(value).split())[:300]
