"""Fetching registered model versions into the workspace, so that a restart needs no MLflow.

The server stays small: MLflow is loaded in a process of its own, `python -m …workspace.models`,
which takes one request a line and ends when nobody asks for a while.
"""

from __future__ import annotations

import json
import select
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import IO, cast

from databricks_steps.errors import ModelError, TaxiError
from databricks_steps.settings import Settings

SOURCE_FILE = "fetched_from.txt"
FETCH_SECONDS = 180.0
IDLE_SECONDS = 300.0


def folder(settings: Settings, name: str, version: str) -> Path:
    """Where the workspace keeps its copy of a model version."""
    return settings.home / "workspace" / "models" / name / version


class Registry:
    """The model registry as the server sees it: a version comes in, a folder comes out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def fetch(self, name: str, version: str) -> Path:
        """The workspace's copy of a model version, made or brought up to date.

        Raises:
            ModelError: there is no such version, or it cannot be read.
        """
        if not (self._settings.home / "mlflow.db").is_file():
            raise ModelError(
                "There is no model registry", self._settings.home / "mlflow.db", "Train first"
            )
        target = folder(self._settings, name, version)
        recorded = _recorded(self._settings, name, version)
        if recorded is not None and _fetched_from(target) == recorded:
            return target  # a rollback must not wait for MLflow to be loaded
        with self._lock:
            failure = self._ask([name, version])
        if failure:
            raise ModelError(
                "A served model must be in the registry",
                f"{name} version {version}: {failure}",
                "Train and register it first",
            )
        return target

    def warm(self) -> None:
        """Start the process now: what it imports takes seconds, and a fetch will follow."""
        with self._lock:
            if not self._closed and (self._settings.home / "mlflow.db").is_file():
                self._running()

    def close(self) -> None:
        """End the process, even one that is being waited for."""
        self._closed = True
        if self._process is not None:
            self._process.kill()

    def _ask(self, request: list[str]) -> str:
        """The reader's word on a request: empty when the copy is there, or what went wrong."""
        for _ in range(2):  # a reader that was idle may end in this very moment
            if self._closed:
                return "the workspace is stopping"
            reader = self._running()
            try:
                stdin, stdout = cast("IO[str]", reader.stdin), cast("IO[str]", reader.stdout)
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
                if not select.select([stdout], [], [], FETCH_SECONDS)[0]:
                    self._end()
                    return f"it was not fetched within {FETCH_SECONDS:g} seconds"
                answer = stdout.readline()
            except BrokenPipeError:
                answer = ""
            if answer:
                return str(json.loads(answer))
            self._end()
        return "the process that reads it ended; its reason is in the log"

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "databricks_steps.workspace.models"),
                    str(self._settings.home),
                ],
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


def copy(settings: Settings, name: str, version: str) -> Path:
    """Copy a version out of the registry, all or nothing; what is there already is kept."""
    import mlflow
    from mlflow.exceptions import MlflowException

    target = folder(settings, name, version)
    try:
        found = mlflow.MlflowClient().get_model_version(name, version)
        source = f"{found.source} {found.run_id} {found.creation_timestamp}"
        if _fetched_from(target) == source:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
            model = Path(scratch) / "model"
            mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(model))
            (model / SOURCE_FILE).write_text(source)
            if target.exists():  # the registry was made anew and counts from 1 again
                target.rename(Path(scratch) / "old")
            model.rename(target)
    except (MlflowException, OSError, shutil.Error) as error:
        raise ModelError("It must be readable", error, "Train it again") from error
    return target


def _fetched_from(copied: Path) -> str | None:
    file = copied / SOURCE_FILE
    return file.read_text() if file.is_file() else None


def _recorded(settings: Settings, name: str, version: str) -> str | None:
    """What MLflow's database says of a version, as `SOURCE_FILE` has it.

    None where it cannot tell, also when a later MLflow keeps its versions differently: then
    MLflow itself is asked.
    """
    database = f"{(settings.home / 'mlflow.db').absolute().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(database, uri=True, timeout=5)) as connection:
            row = connection.execute(
                "SELECT source, run_id, creation_time FROM model_versions "
                "WHERE name = ? AND version = ? AND current_stage = 'None'",
                (name, int(version)),
            ).fetchone()
    except sqlite3.Error:
        return None
    return None if row is None else " ".join(str(value) for value in row)


def main(home: Path) -> int:
    """Answer requests from standard input, one line each, until it closes or stays silent."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    import mlflow
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    settings = Settings(home=home)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.readline()
        if not line:
            break
        try:
            copy(settings, *json.loads(line))
            failure = ""
        except TaxiError as error:
            failure = " ".join(str(error.value).split())[:300]
        answers.write(json.dumps(failure) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
