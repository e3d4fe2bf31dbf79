"""Where tasks run: each cluster has an environment and a driver, an engine that its tasks share.

A cluster's driver starts with its first task and ends with the cluster, or once the cluster has
been idle for its minutes. Tasks that name different libraries get an environment and a driver for
each choice, where a real cluster would install one set over the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from databricks_steps.platforms.embedded import sail, session
from databricks_steps.settings import EMULATED, LOOPBACK, Settings, as_on_a_cluster, inherited
from taxi_assets.emulator.runtime import cluster_packages, driver, volumes
from taxi_assets.emulator.runtime.clusters import Clusters

FOLDER = "clusters"  # in which each has its environment
SERVERLESS = "serverless"  # in place of a cluster's id
SERVERLESS_SECONDS = 60.0  # a driver waits so long for the next task
END_SECONDS = 10.0
Document = dict[str, Any]


@dataclass
class Driver:
    """What a task needs to run there: interpreter, folder and the variables of its process."""

    cluster: str
    python: Path
    folder: Path
    variables: dict[str, str]
    process: subprocess.Popen[str] = field(repr=False)
    idle_seconds: float | None  # None: it waits for as long as the workspace is there
    tasks: int = 0
    spoiled: bool = False  # a task was ended, whose queries may go on
    watch: threading.Timer | None = field(default=None, repr=False)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def unwatch(self) -> None:
        if self.watch is not None:
            self.watch.cancel()


class Drivers:
    """The drivers at work, by folder."""

    def __init__(self, settings: Settings, clusters: Clusters) -> None:
        self._settings, self._clusters = settings, clusters
        self._found: dict[Path, Driver] = {}
        self._lock = threading.RLock()
        self._making: dict[Path, threading.Lock] = {}

    @contextmanager
    def held(
        self, run_id: int, task: Document, environments: Iterable[Document]
    ) -> Iterator[Driver]:
        """The driver of a task, started where its cluster has none, kept while the block lasts.

        Raises:
            ApiError: a library names no package that can be had.
            RuntimeError: the engine did not start.
        """
        cluster, spec, idle = self._place(run_id, task)
        libraries = _libraries(task, environments)
        named = json.dumps([libraries, spec.get("spark_env_vars")], sort_keys=True)
        folder = self._settings.home / FOLDER / cluster
        folder /= hashlib.sha256(named.encode()).hexdigest()[:12]
        with self._lock:
            making = self._making.setdefault(folder, threading.Lock())
        with making:
            with self._lock:
                found = self._found.get(folder)
            if found is None or not found.alive:
                try:
                    found = self._started(cluster, folder, libraries, spec, idle)
                except BaseException:
                    _remove(folder)
                    raise
            with self._lock:
                found.tasks += 1
                found.unwatch()
                self._found[folder] = found
        try:
            yield found
        finally:
            self._release(found)

    def end(self, cluster: str) -> None:
        """End a cluster, with what runs there."""
        self._clusters.end(cluster)
        for each in self._of(cluster):
            self._end(each, at_work=True)

    def close(self) -> None:
        """End every driver: its workspace goes."""
        for each in [*self._found.values()]:
            self._end(each, at_work=True)

    def _of(self, cluster: str) -> list[Driver]:
        with self._lock:
            return [each for each in self._found.values() if each.cluster == cluster]

    def _place(self, run_id: int, task: Document) -> tuple[str, Document, float | None]:
        """A name, what was asked for, and how long its driver waits for another task."""
        if number := task.get("existing_cluster_id"):
            spec = self._clusters.started(number)
            return number, spec, 60.0 * spec.get("autotermination_minutes", 0) or None
        if "environment_key" in task:
            return SERVERLESS, {}, SERVERLESS_SECONDS
        return f"run-{run_id}", dict(task.get("new_cluster") or {}), 0.0

    def _started(
        self,
        cluster: str,
        folder: Path,
        libraries: list[Document],
        spec: Document,
        idle: float | None,
    ) -> Driver:
        wheels = [
            Path(volumes.on_this_machine(self._settings, each["whl"]))
            for each in libraries
            if "whl" in each
        ]
        python = cluster_packages.made(folder, libraries, wheels)
        engine, variables = self._engine(spec, folder, cluster == SERVERLESS)
        log = self._settings.home / "logs" / "runs" / f"{cluster}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            process = subprocess.Popen(
                [str(python), "-I", driver.__file__, json.dumps(engine)],
                cwd=folder,
                env=variables,
                stdin=subprocess.PIPE,  # closes when the workspace dies, and the driver ends
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                start_new_session=True,
            )
        assert process.stdout is not None  # noqa: S101
        said = process.stdout.readline()
        if not said:
            raise RuntimeError(f"its driver ended with {process.wait()}: {last_line(log)}")
        return Driver(cluster, python, folder, variables | json.loads(said), process, idle)

    def _engine(
        self, spec: Document, folder: Path, serverless: bool
    ) -> tuple[Document, dict[str, str]]:
        """What the driver starts, and its environment: nothing of it is this process's."""
        variables = {**inherited(), **(spec.get("spark_env_vars") or {})}
        settings = as_on_a_cluster(Settings.from_environment(variables), variables)
        settings = replace(settings, home=self._settings.home)
        scratch = folder / "tmp"
        scratch.mkdir()
        own = {"TMPDIR": str(scratch), "PYTHONPATH": "", "SPARK_LOCAL_IP": LOOPBACK}
        own[EMULATED] = str(self._settings.home)
        if serverless:  # it has no variables that somebody could set
            variables = {k: text for k, text in variables.items() if not k.startswith("TAXI_")}
        if settings.in_jvm:
            engine: Document = {"conf": session.jvm_conf(settings, scratch)}
            return engine | ({"connect": True} if serverless else {}), variables | own
        options = {"RUST_LOG": "error"} | sail.variables(settings, scratch)
        return {"sail": [*sail.WARM]}, options | variables | own

    def _release(self, found: Driver) -> None:
        with self._lock:
            found.tasks -= 1
            if self._found.get(found.folder) is not found:
                return  # it has ended
            over = not found.tasks and (found.spoiled or found.idle_seconds == 0)
            if not (found.tasks or over or found.idle_seconds is None):
                found.watch = threading.Timer(found.idle_seconds, self._end_idle, (found,))
                found.watch.daemon = True
                found.watch.start()
        if over:
            self._end(found)

    def _end_idle(self, found: Driver) -> None:
        self._end(found)
        if found.cluster != SERVERLESS and not self._of(found.cluster):
            self._clusters.end(found.cluster)

    def _end(self, found: Driver, at_work: bool = False) -> None:
        """End it, `at_work` or only where no task has come meanwhile."""
        with self._making[found.folder]:
            with self._lock:
                if found.tasks and not at_work:
                    return
                found.unwatch()
                if self._found.get(found.folder) is found:
                    del self._found[found.folder]
            end(found.process)
            _remove(found.folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others of the cluster are beside it
        folder.parent.rmdir()


def _libraries(task: Document, environments: Iterable[Document]) -> list[Document]:
    """Of the task, or of its environment on serverless compute."""
    for each in environments:
        if each["environment_key"] == task.get("environment_key"):
            return cluster_packages.libraries(each["spec"]["dependencies"])
    return list(task.get("libraries") or [])


def end(process: subprocess.Popen[Any]) -> None:
    """Ask the process group of a session's first process to end, then make it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + END_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it said nothing"
