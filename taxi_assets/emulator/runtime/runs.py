"""Runs of submitted jobs: each task in a Python and Spark process of its own, with its record.

The cluster a run asks for is written down, checked and shown; here every task runs on this machine.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from databricks_steps.platforms.embedded import sail, session
from databricks_steps.settings import (
    EMULATED,
    LOOPBACK,
    Settings,
    as_on_a_cluster,
    inherited,
)
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import cluster_packages, task, volumes
from taxi_assets.emulator.runtime.clusters import Clusters
from taxi_assets.emulator.runtime.state import State

_LOG = logging.getLogger(__name__)
KIND = "run"
CLUSTERS = "clusters"  # the folder in which each cluster has its environment
KEPT = 500  # records of ended runs
CANCEL_SECONDS = 10.0
Document = dict[str, Any]


class Runs:
    """All runs of the workspace; what is known of one is saved before it is answered."""

    def __init__(self, settings: Settings, state: State, clusters: Clusters) -> None:
        self._settings, self._state, self._clusters = settings, state, clusters
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
            _end(process)

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
                _end(process)
            self._finish(run_id, "FAILED", f"The workspace could not run it: {error}")

    def _execute(self, run_id: int) -> None:
        log = self._settings.home / "logs" / "runs" / f"{run_id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            document = self.get(run_id)
            if document["state"]["life_cycle_state"] == "TERMINATING":
                self._finish(run_id, "CANCELED", "Run cancelled")
                return
            wanted = document["tasks"][0]
            folder = self._settings.home / CLUSTERS / str(run_id)
            python = self._environment(wanted, document.get("environments", ()), folder)
            engine, variables = self._engine(wanted, folder)
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [str(python), "-I", task.__file__, json.dumps(engine), *self.words(wanted)],
                    cwd=folder,
                    env=variables,
                    stdin=subprocess.PIPE,  # closes when the workspace dies, and the task ends
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
            self._processes[run_id] = process
            document["state"] = _state("RUNNING", None, "In run")
            self._save(document)
        limit = document.get("timeout_seconds")
        spent = (_now() - document["start_time"]) / 1000  # what the environment took counts, too
        try:
            code = process.wait(max(limit - spent, 0) if limit else None)
        except subprocess.TimeoutExpired:
            _end(process)
            self._finish(run_id, "TIMEDOUT", f"The run took more than {limit} seconds")
            return
        if self.get(run_id)["state"]["life_cycle_state"] == "TERMINATING":
            self._finish(run_id, "CANCELED", "Run cancelled")
        elif code == 0:
            self._finish(run_id, "SUCCESS", "")
        else:
            self._finish(run_id, "FAILED", f"The task ended with {code}: {_last_line(log)}")

    def _environment(
        self, wanted: Document, environments: Iterable[Document], folder: Path
    ) -> Path:
        """The interpreter of the cluster, or of serverless compute, with the task's libraries."""
        libraries = wanted.get("libraries") or []
        for each in environments:
            if each["environment_key"] == wanted.get("environment_key"):
                libraries = cluster_packages.libraries(each["spec"]["dependencies"])
        wheels = [Path(self._on_this_machine(each["whl"])) for each in libraries if "whl" in each]
        return cluster_packages.made(folder, libraries, wheels)

    def _engine(self, wanted: Document, folder: Path) -> tuple[Document, dict[str, str]]:
        """What the task makes its session of, and its environment: nothing of it is this one's."""
        given = self._spec(wanted).get("spark_env_vars") or {}
        variables = {**inherited(), **given}
        settings = as_on_a_cluster(Settings.from_environment(variables), variables)
        settings = replace(settings, home=self._settings.home)
        scratch = folder / "tmp"
        scratch.mkdir()
        own = {"TMPDIR": str(scratch), "PYTHONPATH": "", "SPARK_LOCAL_IP": LOOPBACK}
        own[EMULATED] = str(self._settings.home)
        engine: Document = {"volumes": str(self._settings.home / "volumes")}
        if "environment_key" in wanted:  # it has no variables that somebody could set
            engine["serverless"] = True
            variables = {k: text for k, text in variables.items() if not k.startswith("TAXI_")}
        if wheel := wanted.get("python_wheel_task"):
            engine["wheel"] = [wheel["package_name"], wheel["entry_point"]]
        if settings.in_jvm:
            return engine | {"conf": session.jvm_conf(settings, scratch)}, variables | own
        options = {"RUST_LOG": "error"} | sail.variables(settings, scratch)
        conf = {"spark.sql.session.timeZone": "UTC"}
        return engine | {"conf": conf, "sail": list(sail.WARM)}, options | variables | own

    def _spec(self, wanted: Document) -> Document:
        """The cluster of a task; empty on serverless compute."""
        if "existing_cluster_id" in wanted:
            return self._clusters.get(wanted["existing_cluster_id"])
        return dict(wanted.get("new_cluster") or {})

    def words(self, task: Document) -> list[str]:
        """The file of a task and its parameters; raises ApiError for a path that is none."""
        if "python_wheel_task" in task:
            wheel = task["python_wheel_task"]
            return [wheel["entry_point"], *wheel["parameters"]]
        given = task["spark_python_task"]
        return [
            self._on_this_machine(word) for word in (given["python_file"], *given["parameters"])
        ]

    def _on_this_machine(self, word: str) -> str:
        """A path of a volume as the folder behind it; every other word as it is."""
        path = word.removeprefix("dbfs:")
        if path.startswith(volumes.PREFIX):
            return str(volumes.local(self._settings, path))
        return word

    def _finish(self, run_id: int, result: str, message: str) -> None:
        with self._lock:
            self._processes.pop(run_id, None)
            shutil.rmtree(self._settings.home / CLUSTERS / str(run_id), ignore_errors=True)
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


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the task's process group to end, then make it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + CANCEL_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it said nothing"


def _now() -> int:
    return int(time.time() * 1000)
