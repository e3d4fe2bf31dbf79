"""Models in MLflow: where they are tracked, how a version is registered, found and loaded."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import databricks_steps
from databricks_steps.errors import ModelError
from databricks_steps.inference import feature_spec
from databricks_steps.inference.feature_spec import FareInterval, FeatureSpec
from databricks_steps.interfaces import Verdict
from databricks_steps.settings import EMBEDDED, Settings
from databricks_steps.training import mlflow_database
from databricks_steps.training.mlflow_database import MlflowDatabase

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from sklearn.pipeline import Pipeline

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
MADE_FROM = "made_from"
CHECKS = "checks"  # version tag: passed or failed
JUDGED = "judged"  # version tag: how it compares with the champion, in one sentence
TAUGHT_FROM = "taught_from"  # version tag: the first pickup it learned from, as ISO text
HOLDOUT_FROM = "holdout_from"  # version tag: the first pickup of its holdout, as ISO text
VERDICTS = "verdicts.json"
FARE_MODEL = "fare_model"  # the model's name in its run
# All a model saved by skops holds besides numpy and scikit-learn's own public types.
TRUSTED = [
    "databricks_steps.training.boosting.QuantileBoosters",
    "databricks_steps.training.metered.Metered",
    "databricks_steps.training.request_columns.RequestColumns",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
]
# Where the Feature Engineering client keeps a model that it has wrapped in its lookups.
WRAPPED = Path("data", "feature_store", "raw_model")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
_MISSING = (*_ABSENT, "INVALID_PARAMETER_VALUE")  # what a look for one version may be answered
_MAKING = threading.Lock()  # the store makes its database when it is first opened


@dataclass(frozen=True)
class Version:
    """A registered version: its number as text, run, metrics and tags."""

    number: str
    run_id: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    registered_at: int = 0  # milliseconds since 1970


def client(settings: Settings) -> MlflowClient:
    """A client of the tracking store and the registry.

    In a home it makes the experiment when it is missing, so that artifacts lie there. On Databricks
    a look makes nothing: the bundle makes the experiment, or the first run.
    """
    import mlflow

    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.registry_uri)
    if settings.platform != EMBEDDED:
        return mlflow.MlflowClient(settings.mlflow_uri, settings.registry_uri)
    settings.home.mkdir(parents=True, exist_ok=True)
    with _MAKING:
        try:
            if not settings.tracking:
                mlflow_database.make(settings)
            mlflow_database.move_in(settings)
            found = mlflow.MlflowClient(settings.mlflow_uri, settings.registry_uri)
            if found.get_experiment_by_name(settings.experiment) is None:
                found.create_experiment(settings.experiment, settings.artifacts.as_uri())
        except Exception as error:  # whatever its database or its network raises
            raise _down(settings, error) from error
    return found


def _down(settings: Settings, error: Exception) -> ModelError:
    said = str(error).strip().splitlines()
    return ModelError(
        "The model registry must answer",
        f"{settings.mlflow_uri}: {said[0] if said else type(error).__name__}",
        "Check TAXI_HOME, or restore mlflow.db; on Databricks, host and credentials",
    )


@contextmanager
def tracked_run(settings: Settings, tags: Mapping[str, Any] | None = None) -> Iterator[str]:
    """A new MLflow run in the project's experiment, active for the block; gives its id."""
    import mlflow

    client(settings)
    mlflow.set_experiment(settings.experiment)
    with mlflow.start_run(run_name=FARE_MODEL, tags=dict(tags or {})) as run:
        yield run.info.run_id


def log_version(
    settings: Settings,
    log_model: Callable[[Mapping[str, Any]], str],
    graph: bytes,
    interval: FareInterval,
    example: pd.DataFrame,
    tags: Mapping[str, str],
) -> Version:
    """Log the pipeline with its ONNX graph and lookups to the active run, and register it.

    `log_model` takes the arguments of MLflow's scikit-learn flavor and gives the version's number;
    see `interfaces.FeatureStore`. Saved with skops, so that loading it runs no code that the file
    brings.
    """
    spec = FeatureSpec.current(settings, interval=interval)
    with TemporaryDirectory() as folder:
        files = {feature_spec.ONNX_FILE: graph, feature_spec.FILE: spec.to_json().encode()}
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        number = log_model(
            {
                # Named here: inferring them would start a process and load the model again.
                "pip_requirements": requirements(),
                "code_paths": [str(Path(databricks_steps.__file__).parent)],
                "serialization_format": "skops",
                "skops_trusted_types": TRUSTED,
                "extra_files": [str(Path(folder) / name) for name in files],
                "input_example": example,
                "metadata": {
                    "feature_lookups": json.loads(spec.to_json())["lookups"],
                    "fare_interval": asdict(interval),
                },
            }
        )
    for key, value in tags.items():
        tag(settings, number, key, value)
    return numbered(settings, number)


def log_plain(settings: Settings, pipeline: Pipeline, arguments: Mapping[str, Any]) -> str:
    """Log a pipeline by MLflow alone, without the client of a feature store; its version."""
    import mlflow
    from mlflow.models import infer_signature

    example = arguments["input_example"]
    logged = mlflow.sklearn.log_model(
        pipeline,
        name=FARE_MODEL,
        signature=infer_signature(example, pipeline.predict(example)),
        **arguments,
    )
    with redirect_stderr(StringIO()):  # it prints what the stage's line says already
        made = mlflow.register_model(
            logged.model_uri, settings.registered_model, await_registration_for=None
        )
    return str(made.version)


def registered_by(settings: Settings, run_id: str) -> str:
    """The number of the newest version that a run registered.

    Raises:
        ModelError: there is none.
    """
    for found in _newest_first(settings):
        if found.run_id == run_id:
            return str(found.version)
    raise ModelError(
        "A run must have registered a version",
        f"run {run_id}, model {settings.registered_model}",
        "Train it again",
    )


def version(settings: Settings, alias: str) -> Version | None:
    """The version an alias points to; None when there is none."""
    if settings.platform == EMBEDDED:
        with _database(settings) as database:
            number = database.aliased(alias)
            return None if number is None else _of_database(database, number)
    from mlflow.exceptions import MlflowException

    try:
        found = client(settings).get_model_version_by_alias(settings.registered_model, alias)
    except MlflowException as error:
        if error.error_code in _MISSING:
            return None
        raise _down(settings, error) from error
    return _version(settings, found)


def numbered(settings: Settings, number: str) -> Version:
    """The version of that number.

    Raises:
        ModelError: there is none, or the registry does not answer.
    """
    found = _numbered(settings, number)
    if found is None:
        raise _absent(settings, number)
    return found


def _absent(settings: Settings, number: str) -> ModelError:
    return ModelError(
        "A version must be registered",
        f"{settings.registered_model} has no version {number!r}",
        f"There are: {', '.join(numbers(settings)[::-1]) or 'none'}",
    )


def _numbered(settings: Settings, number: str) -> Version | None:
    if settings.platform == EMBEDDED:
        with _database(settings) as database:
            return _of_database(database, number)
    from mlflow.exceptions import MlflowException

    asked = client(settings)
    try:
        return _version(settings, asked.get_model_version(settings.registered_model, number))
    except MlflowException as error:
        if error.error_code in _MISSING:
            return None
        raise _down(settings, error) from error


def numbers(settings: Settings) -> list[str]:
    """The numbers of all registered versions, the newest first."""
    if settings.platform == EMBEDDED:
        with _database(settings) as database:
            return database.numbers()
    return [str(found.version) for found in _newest_first(settings)]


def require(settings: Settings, alias: str) -> Version:
    """The version an alias points to.

    Raises:
        ModelError: there is none.
    """
    found = version(settings, alias)
    if found is None:
        name = f"{settings.registered_model}@{alias}"
        raise ModelError("A trained model is needed", f"no {name}", "Run without --skip-training")
    return found


def made_from(settings: Settings, digest: int) -> Version | None:
    """The newest version that was made from the same inputs."""
    if settings.platform == EMBEDDED:
        with _database(settings) as database:
            number = database.tagged(MADE_FROM, str(digest))
            return None if number is None else _of_database(database, number)
    for found in _newest_first(settings):
        # Unity Catalog can filter by no tag, and tells the tags of one version at a time.
        version = found if found.tags else numbered(settings, str(found.version))
        if version.tags.get(MADE_FROM) == str(digest):
            return numbered(settings, str(found.version))
    return None


def _newest_first(settings: Settings) -> list[Any]:
    from mlflow.exceptions import MlflowException

    asked, name = client(settings), f"name = '{settings.registered_model}'"
    found: list[Any] = []
    try:
        page = asked.search_model_versions(name)
        found += page
        while page.token:  # also a page without versions may have one
            page = asked.search_model_versions(name, page_token=page.token)
            found += page
    except MlflowException as error:
        if error.error_code in _ABSENT:  # Unity Catalog's word for a model that nobody made yet
            return []
        raise _down(settings, error) from error
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def point(settings: Settings, alias: str, number: str) -> None:
    """Make an alias point to a version; nothing is written where it does already."""
    found = version(settings, alias)
    if found is not None and found.number == number:
        return
    client(settings).set_registered_model_alias(settings.registered_model, alias, number)


def tag(settings: Settings, number: str, key: str, value: str) -> None:
    client(settings).set_model_version_tag(settings.registered_model, number, key, value)


def describe(settings: Settings, number: str, text: str) -> None:
    """What people read of a version in the registry's own pages."""
    client(settings).update_model_version(settings.registered_model, number, text)


def untag(settings: Settings, number: str, key: str) -> None:
    """Remove a tag; nothing happens where there is none."""
    found = client(settings)
    if key in found.get_model_version(settings.registered_model, number).tags:
        found.delete_model_version_tag(settings.registered_model, number, key)


def folder(settings: Settings, number: str) -> Path:
    """The files of a version on this machine.

    Raises:
        ModelError: a home has no such version.
    """
    if settings.platform == EMBEDDED:
        with _database(settings) as database:
            row = database.version(number)
        if row is None:
            raise _absent(settings, number)
        return row.files
    import mlflow

    client(settings)
    uri = f"models:/{settings.registered_model}/{number}"
    found = Path(mlflow.artifacts.download_artifacts(uri))
    wrapped = found / WRAPPED
    return wrapped if wrapped.is_dir() else found


def log_text(text: str, file: str) -> None:
    """Keep a text as a file of the active MLflow run."""
    import mlflow

    mlflow.log_text(text, file)


def read_text(settings: Settings, version: Version, file: str) -> str:
    """A text that the run of a version keeps.

    Raises:
        ModelError: there is none.
    """
    found = artifact(settings, version, file)
    try:
        if isinstance(found, Path):
            return found.read_text(encoding="utf-8")
        return _downloaded(version, file)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The run of a version must keep {file}",
            f"version {version.number}: {str(error).splitlines()[0]}",
            "Train it again",
        ) from error


def _downloaded(version: Version, file: str) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.artifacts.load_text(f"runs:/{version.run_id}/{file}"))
    except MlflowException as error:
        raise OSError(str(error)) from error


def verdicts(settings: Settings, version: Version) -> tuple[Verdict, ...]:
    """What the checks said of a version when it was trained."""
    stored = json.loads(read_text(settings, version, VERDICTS))["verdicts"]
    return tuple(Verdict(**raw) for raw in stored)


def artifact(settings: Settings, version: Version, file: str) -> Path | str:
    """Where a file of a version's run is: a path on this machine, or else an address."""
    if settings.platform == EMBEDDED:
        with _database(settings) as database:
            return (database.artifacts(version.run_id) or settings.artifacts) / file
    root = str(client(settings).get_run(version.run_id).info.artifact_uri)
    if root.startswith("file:"):
        return Path(url2pathname(urlsplit(root).path)) / file
    return f"{root}/{file}"


def _version(settings: Settings, found: Any) -> Version:
    at = int(found.creation_timestamp)
    if not found.run_id:  # registered by other means than a run
        return Version(str(found.version), "", {}, dict(found.tags), at)
    run = client(settings).get_run(found.run_id)
    metrics = dict(run.data.metrics)
    return Version(str(found.version), found.run_id, metrics, dict(found.tags), at)


@contextmanager
def _database(settings: Settings) -> Iterator[MlflowDatabase]:
    """The registry of a home.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        yield MlflowDatabase(settings)
    except sqlite3.Error as error:
        raise _down(settings, error) from error


def _of_database(database: MlflowDatabase, number: str) -> Version | None:
    row = database.version(number)
    if row is None:
        return None
    return Version(row.number, row.run_id, row.metrics, row.tags, row.registered_at)


def requirements() -> list[str]:
    from importlib.metadata import version as installed

    names = ("mlflow", "numpy", "pandas", "scikit-learn", "skops")
    return [f"{name}=={installed(name)}" for name in names]
