"""Registered model versions, copied to where they are served from: a restart needs no registry."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

from databricks_steps.errors import ModelError
from databricks_steps.settings import Settings
from databricks_steps.training.mlflow_database import MlflowDatabase

SOURCE_FILE = "fetched_from.txt"


def folder(settings: Settings, name: str, version: str) -> Path:
    """Where the workspace keeps its copy of a model version."""
    return settings.home / "workspace" / "models" / name / version


class Registry:
    """The model registry as the server sees it: a version comes in, a folder comes out."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._copying = threading.Lock()

    def fetch(self, name: str, version: str) -> Path:
        """The workspace's copy of a model version, made or brought up to date, all or nothing.

        Raises:
            ModelError: there is no such version, or it cannot be read.
        """
        database = self._settings.home / "mlflow.db"
        if not database.is_file():
            raise ModelError("There is no model registry", database, "Train first")
        told = f"{name} version {version}"
        try:
            found = MlflowDatabase(self._settings, name).version(version)
            if found is None:
                raise ModelError(
                    "A served model must be in the registry", told, "Train and register it first"
                )
            target = folder(self._settings, name, version)
            with self._copying:
                _copied(found.files, target, f"{found.files} {found.run_id} {found.registered_at}")
        except (OSError, shutil.Error, sqlite3.Error) as error:
            raise ModelError(
                "A served model must be readable", f"{told}: {error}", "Train it again"
            ) from error
        return target


def _copied(source: Path, target: Path, recorded: str) -> None:
    copied_from = target / SOURCE_FILE
    if copied_from.is_file() and copied_from.read_text() == recorded:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
        model = Path(scratch) / "model"
        shutil.copytree(source, model)
        (model / SOURCE_FILE).write_text(recorded)
        if target.exists():  # the registry was made anew and counts from 1 again
            target.rename(Path(scratch) / "old")
        model.rename(target)
