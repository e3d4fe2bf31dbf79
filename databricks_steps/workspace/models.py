"""Fetching registered model versions into the workspace, so that a restart needs no MLflow.

The server stays small: MLflow is loaded in a helper process, `python -m …workspace.models`.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from databricks_steps.errors import ModelError, TaxiError
from databricks_steps.settings import Settings
from databricks_steps.workspace import helpers

SOURCE_FILE = "fetched_from.txt"
FETCH_SECONDS = 180.0


def folder(settings: Settings, name: str, version: str) -> Path:
    """Where the workspace keeps its copy of a model version."""
    return settings.home / "workspace" / "models" / name / version


class Registry:
    """The model registry as the server sees it: a version comes in, a folder comes out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._helper = helpers.Helper(__name__, settings.home, FETCH_SECONDS)

    def fetch(self, name: str, version: str) -> Path:
        """The workspace's copy of a model version, made or brought up to date.

        Raises:
            ModelError: there is no such version, or it cannot be read.
        """
        if not self._exists():
            raise ModelError(
                "There is no model registry", self._settings.home / "mlflow.db", "Train first"
            )
        target = folder(self._settings, name, version)
        recorded = _recorded(self._settings, name, version)
        if recorded is not None and _fetched_from(target) == recorded:
            return target  # a rollback must not wait for MLflow to be loaded
        try:
            self._helper.ask([name, version])
        except TaxiError as error:
            raise ModelError(
                "A served model must be in the registry",
                f"{name} version {version}: {error.value}",
                "Train and register it first",
            ) from error
        return target

    def warm(self) -> None:
        """A version will be asked for soon."""
        if self._exists():
            self._helper.warm()

    def close(self) -> None:
        self._helper.close()

    def _exists(self) -> bool:
        return (self._settings.home / "mlflow.db").is_file()


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
    """Answer requests until standard input closes or stays silent."""
    answers, sys.stdout = sys.stdout, sys.stderr
    import mlflow
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    settings = Settings(home=home)
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)

    def handle(request: helpers.Request) -> None:
        copy(settings, *request)

    return helpers.answer(handle, answers)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
