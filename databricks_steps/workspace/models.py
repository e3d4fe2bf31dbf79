"""Fetching a registered model version into the workspace, so that a restart needs no MLflow.

The server stays small: MLflow runs in a process of its own, `python -m …workspace.models`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from databricks_steps.errors import ModelError, TaxiError
from databricks_steps.settings import Settings

SOURCE_FILE = "fetched_from.txt"
FETCH_SECONDS = 180


def folder(settings: Settings, name: str, version: str) -> Path:
    """Where the workspace keeps its copy of a model version."""
    return settings.home / "workspace" / "models" / name / version


def fetch(settings: Settings, name: str, version: str) -> Path:
    """The workspace's copy of a model version, made or brought up to date.

    Raises:
        ModelError: there is no such version, or it cannot be read.
    """
    command = [sys.executable, "-m", "databricks_steps.workspace.models"]
    try:
        done = subprocess.run(
            [*command, str(settings.home), name, version],
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(
            f"A model must be fetched within {FETCH_SECONDS} seconds",
            f"{name} version {version}",
            "Look at the model registry's database, then try again",
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise ModelError(
            "A served model must be in the registry",
            f"{name} version {version}: {lines[-1][:300]}",
            "Train and register it first",
        )
    return folder(settings, name, version)


def copy(settings: Settings, name: str, version: str) -> Path:
    """Copy a version out of the registry, all or nothing; what is there already is kept."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if not (settings.home / "mlflow.db").is_file():
        raise ModelError("There is no model registry", settings.home / "mlflow.db", "Train first")
    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)
    target = folder(settings, name, version)
    try:
        found = mlflow.MlflowClient().get_model_version(name, version)
        source = f"{found.source} {found.run_id} {found.creation_timestamp}"
        if (target / SOURCE_FILE).is_file() and (target / SOURCE_FILE).read_text() == source:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as scratch:
            model = Path(scratch) / "model"
            mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(model))
            (model / SOURCE_FILE).write_text(source)
            _swap(model, target, Path(scratch) / "old")
    except MlflowException as error:
        raise ModelError(
            "The registry must hold the version", f"{name} {version}: {error}", "Train it first"
        ) from error
    return target


def _swap(new: Path, target: Path, aside: Path) -> None:
    if target.exists():  # the registry was made anew and counts from 1 again
        target.rename(aside)
    new.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def main(arguments: list[str]) -> int:
    home, name, version = arguments
    try:
        copy(Settings(home=Path(home)), name, version)
    except TaxiError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
