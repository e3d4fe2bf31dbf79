"""Runs of submitted jobs: each task in a Python process of its own, with its record.

The cluster a run asks for is written down, checked and shown; here every task runs on this machine.
"""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import drivers, task, volumes
from taxi_assets.emulator.runtime.clusters import Clusters
from taxi_assets.emulator.runtime.drivers import Driver, Drivers
from taxi_assets.emulator.runtime.state import State

_LOG = logging.getLogger(__name__)
KIND = "run"
KEPT = 500  # records of ended runs
PRINTED = 5 << 20  # bytes at most of what a task printed, as there
Document = dict[str, Any]


class Runs:
    """All runs of the workspace; what is known of one is saved before it is answered."""

    def __init__(
        self, settings: Settings, state: State, clusters: Clusters, drivers: Drivers
    ) -> None:
        self._settings, self._state, self._clusters = settings, state, clusters
        self._drivers = drivers
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._lock = threading.RLock()

    def restore(self) -> None:
        """Runs that were under way when the workspace ended are lost, and say so."""
        for name, document in self._state.all(KIND).items():
            if not _ended(document):
                document["state"] = _state(
                    "INTERNAL_ERROR", "FAILED", "The workspace ended while the run was under way"
                )
                document["end_time"] = _now()
                self._state.put(KIND, name, document)

    def submit(self, wanted: Document) -> int:
        """Start a run of one task; its id. The same idempotency token gets the same run."""
        task = wanted["tasks"][0]
        self.words(task)
        if "new_cluster" in task:
            self._clusters.require(task["new_cluster"])
        elif "existing_cluster_id" in task:
            self._clusters.get(task["existing_cluster_id"])
        token = wanted.get("idempotency_token")
        with self._lock:
            known = self._state.all(KIND)
            for document in known.values():
                if token and document.get("idempotency_token") == token:
                    return int(document["run_id"])
            run_id = 1 + max((int(name) for name in known), default=0)
            self._forget_old(known)
            document = wanted | {
                "run_id": run_id,
                "job_id": run_id,
                "start_time": _now(),
                "end_time": 0,
                "state": _state("PENDING", None, "Waiting for its cluster"),
            }
            self._save(document)
        threading.Thread(
            target=self._run, args=(run_id,), name=f"run-{run_id}", daemon=True
        ).start()
        return run_id

    def get(self, run_id: int) -> Document:
        document = self._state.get(KIND, f"{run_id:012d}")
        if document is None:
            raise errors.missing("Run", str(run_id), "Submit it first")
        return document

    def all(self) -> list[Document]:
        """The newest first."""
        return [*self._state.all(KIND).values()][::-1]

    def printed(self, run_id: int) -> tuple[str, bool]:
        """What its task wrote to its streams, and whether this is only the end of it."""
        log = self._log(run_id)
        if not log.exists():
            return "", False
        with log.open("rb") as text:
            before = max(0, log.stat().st_size - PRINTED)
            text.seek(before)
            return text.read(PRINTED).decode(errors="replace"), before > 0

    def _log(self, run_id: int) -> Path:
        return self._settings.home / "logs" / "runs" / f"{run_id}.log"

    def cancel(self, run_id: int) -> None:
        """End a run's process and all it has started; a run that has ended stays as it is."""
        with self._lock:
            document = self.get(run_id)
            if _ended(document):
                return
            # Its result is told once it has terminated.
            document["state"] = _state("TERMINATING", None, "Run cancelled")
            self._save(document)
            process = self._processes.get(run_id)
        if process is not None:
            drivers.end(process)

    def close(self) -> None:
        """End every run: its workspace goes."""
        for run_id in [*self._processes]:
            self.cancel(run_id)

    def _run(self, run_id: int) -> None:
        try:
            self._execute(run_id)
        except Exception as error:  # whatever it is, the run has ended and must say so
            _LOG.exception("run %s broke", run_id)
            process = self._processes.get(run_id)
            if process is not None:
                drivers.end(process)
            self._finish(run_id, "FAILED", f"The workspace could not run it: {error}")

    def _execute(self, run_id: int) -> None:
        log = self._log(run_id)
        log.parent.mkdir(parents=True, exist_ok=True)
        document = self.get(run_id)
        wanted = document["tasks"][0]
        with self._drivers.held(run_id, wanted, document.get("environments", ())) as driver:
            process = self._started(run_id, driver, log)
            if process is None:
                self._finish(run_id, "CANCELED", "Run cancelled")
                return
            limit = document.get("timeout_seconds")
            spent = (_now() - document["start_time"]) / 1000  # what its cluster took counts, too
            try:
                code = process.wait(max(limit - spent, 0) if limit else None)
            except subprocess.TimeoutExpired:
                code = None
                drivers.end(process)
            cancelled = self.get(run_id)["state"]["life_cycle_state"] == "TERMINATING"
            # Where it was ended its queries may go on, whatever code it has ended with.
            driver.spoiled |= cancelled or code is None or code < 0
        if cancelled:
            self._finish(run_id, "CANCELED", "Run cancelled")
        elif code is None:
            self._finish(run_id, "TIMEDOUT", f"The run took more than {limit} seconds")
        elif code == 0:
            self._finish(run_id, "SUCCESS", "")
        else:
            said = drivers.last_line(log)
            self._finish(run_id, "FAILED", f"The task ended with {code}: {said}")

    def _started(self, run_id: int, driver: Driver, log: Path) -> subprocess.Popen[bytes] | None:
        """The task's process; None where it was cancelled before."""
        with self._lock:
            document = self.get(run_id)
            if document["state"]["life_cycle_state"] == "TERMINATING":
                return None
            wanted = document["tasks"][0]
            given: Document = {"volumes": str(self._settings.home / "volumes")}
            if "environment_key" in wanted:
                given["serverless"] = True
            if wheel := wanted.get("python_wheel_task"):
                given["wheel"] = [wheel["package_name"], wheel["entry_point"]]
            words = [json.dumps(given), *self.words(wanted)]
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [str(driver.python), "-I", task.__file__, *words],
                    cwd=driver.folder,
                    env=driver.variables,
                    stdin=subprocess.PIPE,  # closes when the workspace dies, and the task ends
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            self._processes[run_id] = process
            document["state"] = _state("RUNNING", None, "In run")
            self._save(document)
        return process

    def words(self, task: Document) -> list[str]:
        """The file of a task and its parameters; raises ApiError for a path that is none."""
        if "python_wheel_task" in task:
            wheel = task["python_wheel_task"]
            return [wheel["entry_point"], *wheel["parameters"]]
        given = task["spark_python_task"]
        return [
            volumes.on_this_machine(self._settings, word)
            for word in (given["python_file"], *given["parameters"])
        ]

    def _finish(self, run_id: int, result: str, message: str) -> None:
        with self._lock:
            self._processes.pop(run_id, None)
            document = self.get(run_id)
            document |= {"state": _state("TERMINATED", result, message), "end_time": _now()}
            self._save(document)

    def _save(self, document: Document) -> None:
        self._state.put(KIND, f"{document['run_id']:012d}", document)

    def _forget_old(self, known: dict[str, Document]) -> None:
        ended = [name for name, document in known.items() if _ended(document)]
        for name in ended[:-KEPT]:
            self._state.drop(KIND, name)


def _state(life_cycle: str, result: str | None, message: str) -> Document:
    state = {"life_cycle_state": life_cycle, "state_message": message}
    return state if result is None else state | {"result_state": result}


def _ended(document: Document) -> bool:
    return document["state"]["life_cycle_state"] in ("TERMINATED", "INTERNAL_ERROR")


def _now() -> int:
    return int(time.time() * 1000)
