"""The workers beside the manager: started, kept alive, waited for at a swap, and stopped.

All of them accept on the manager's own listening socket; the kernel hands out the connections.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
import time

from databricks_steps.errors import ServingError
from databricks_steps.settings import Settings
from databricks_steps.workspace.state import State

_LOG = logging.getLogger(__name__)
SWAP_SECONDS = 60.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.02
RESTART_SECONDS = 1.0


class Crew:
    """All processes of the workspace but the manager; with one worker there are none."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        manager_port: int,
        access_log: bool = False,
    ) -> None:
        self._settings, self._count = settings, settings.workers - 1  # the manager answers, too
        self._options = ["--access-log"] if access_log else []
        self._listener, self._manager_port = listener, manager_port
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="crew", daemon=True)

    def start(self) -> None:
        if self._count:
            self._processes = [self._started() for _ in range(self._count)]
            self._thread.start()

    def stop(self) -> None:
        """Tell every worker to finish what it answers and to write what it captured; wait."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()  # their sign to stop
        deadline = time.monotonic() + STOP_SECONDS
        while self.pids() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        for process in self._processes:
            if process.poll() is None:
                _LOG.warning("worker %s did not stop and is killed", process.pid)
                process.kill()
            process.wait()

    def pids(self) -> list[int]:
        return [process.pid for process in self._processes if process.poll() is None]

    def await_swap(self, state: State, endpoint: str, mark: str) -> None:
        """Wait until every worker serves a configuration.

        Raises:
            ServingError: one cannot, or takes too long.
        """
        deadline = time.monotonic() + SWAP_SECONDS
        while True:
            told = state.followers(endpoint)
            waiting = []
            for pid in self.pids():
                seen, failure = told.get(pid, ("", None))
                if seen != mark:
                    waiting.append(pid)
                elif failure:
                    raise ServingError("Every worker must load a version", failure, "Try again")
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise ServingError(
                    f"Every worker must load a version within {SWAP_SECONDS:g} seconds",
                    f"workers {waiting} did not",
                    "Look at the workspace's log",
                )
            time.sleep(LOOK_SECONDS)

    def _started(self) -> subprocess.Popen[bytes]:
        fd = self._listener.fileno()
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "databricks_steps.workspace.worker"),
                *("--home", str(self._settings.home), "--port", str(self._settings.port)),
                *("--fd", str(fd), "--manager", str(self._manager_port)),
                *self._options,
            ],
            stdin=subprocess.PIPE,
            pass_fds=[fd],
        )

    def _supervise(self) -> None:
        while not self._stopping.wait(RESTART_SECONDS):
            for place, process in enumerate(self._processes):
                if process.poll() is not None:
                    _LOG.warning("worker %s ended (%s); starting anew", process.pid, process.poll())
                    self._processes[place] = self._started()
