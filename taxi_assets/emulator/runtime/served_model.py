"""What serves: a registered version, copied, loaded with its lookups, as one immutable value.

A restart needs no registry: the copies are what is served.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databricks_steps import schemas
from databricks_steps.errors import ModelError
from databricks_steps.inference.feature_spec import FOLDER, FeatureSpec
from databricks_steps.inference.scorer import Scorer
from databricks_steps.settings import Settings
from databricks_steps.training.mlflow_database import MlflowDatabase
from taxi_assets.emulator.runtime.lookups import Lookup, Pick, taking
from taxi_assets.emulator.runtime.online_tables import OnlineTables

SOURCE_FILE = "fetched_from.txt"
Document = dict[str, Any]


@dataclass(frozen=True)
class ServedModel:
    """One loaded model version behind one name of the endpoint."""

    name: str
    entity_id: str
    entity_name: str
    entity_version: str
    scorer: Scorer
    tables: OnlineTables
    lookups: tuple[Lookup, ...]
    # Takes the model's inputs out of the request's features and then the lookups'.
    in_order: Pick


def load(config: Document, folder: Callable[[str, str], Path], tables: OnlineTables) -> ServedModel:
    """The served entity of a configuration; `folder` finds the files of a name and version.

    Raises:
        ModelError: the version is missing or cannot be served.
    """
    (entity,) = config["served_entities"]
    name, version = entity["entity_name"], entity["entity_version"]
    scorer = Scorer.load(folder(name, version))
    lookups = tuple(Lookup(wanted) for wanted in scorer.spec.lookups)
    known = entity["name"], entity["id"], name, version
    return ServedModel(*known, scorer, tables, lookups, taking(_places(scorer.spec)))


def _places(spec: FeatureSpec) -> tuple[int, ...]:
    names = [column.name for column in schemas.REQUEST_FEATURES]
    for lookup in spec.lookups:
        names += lookup.features
    unknown = set(spec.inputs) - set(names)
    if unknown:
        raise ModelError(
            "Every input of a served model is looked up or requested",
            sorted(unknown),
            "Train and log it again",
        )
    return tuple(names.index(name) for name in spec.inputs)


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

    def prune(self, name: str, wanted: Callable[[str], Collection[str]]) -> None:
        """Remove the copies of a model's versions but the `wanted`; the registry has them all."""
        with self._copying:  # whoever wants one says so before it is fetched
            kept = wanted(name)
            for copy in folder(self._settings, name, "").glob("*"):  # unfinished ones, too
                if copy.name not in kept:
                    shutil.rmtree(copy, ignore_errors=True)


def _copied(source: Path, target: Path, recorded: str) -> None:
    copied_from = target / SOURCE_FILE
    if copied_from.is_file() and copied_from.read_text() == recorded:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
        model = Path(scratch) / "model"
        # Of the rest, the pipeline for Python, nothing serves.
        shutil.copytree(source / FOLDER, model / FOLDER)
        (model / SOURCE_FILE).write_text(recorded)
        if target.exists():  # the registry was made anew and counts from 1 again
            target.rename(Path(scratch) / "old")
        model.rename(target)
