"""The recipe of a version: data, parameters, code and packages it was made from, and nothing else.

What is here is enough to make the same version again; see `reproduction`.
"""

from __future__ import annotations

import json
import platform as machine
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from databricks_steps.settings import (
    ESTIMATORS,
    REPOSITORY,
    Boosting,
    Forest,
    Settings,
    estimator_name,
)

FILE = "recipe.json"
UNKNOWN = "unknown"
PACKAGES = ("mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pyspark", "scikit-learn")


@dataclass(frozen=True)
class Recipe:
    """`table_versions`: table → the Delta version it was read at. `commit` ends in `+` when files
    differed from it."""

    months: tuple[str, ...]
    table_versions: Mapping[str, int]
    estimator: Forest | Boosting
    holdout_share: float
    lookback_days: int
    max_training_rows: int
    commit: str
    python: str
    packages: Mapping[str, str]
    feature_delay_days: int = 0  # before it was recorded, none

    def to_json(self) -> str:
        named = {"name": estimator_name(self.estimator), **asdict(self.estimator)}
        return json.dumps({**asdict(self), "estimator": named}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        raw = json.loads(text)
        given = raw.pop("estimator", None) or {"name": "forest", **raw.pop("forest")}  # until 0.1
        lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        estimator = ESTIMATORS[given.pop("name")](**{**given, **lists})
        return cls(**{**raw, "months": tuple(raw["months"]), "estimator": estimator})


def current(
    settings: Settings, months: tuple[str, ...], table_versions: Mapping[str, int]
) -> Recipe:
    """What a version trained now is made from."""
    return Recipe(
        months,
        dict(table_versions),
        settings.estimator,
        settings.holdout_share,
        settings.lookback_days,
        settings.max_training_rows,
        settings.git_commit or commit(),
        machine.python_version(),
        packages(),
        settings.feature_delay_days,
    )


def packages() -> dict[str, str]:
    """Package → installed version, of those that a fit or a figure depends on."""
    modules = {name: name.replace("scikit-", "sk") for name in PACKAGES}
    return {name: _version(name, module) for name, module in modules.items() if find_spec(module)}


def _version(name: str, module: str) -> str:
    """The version by the package's metadata, which Spark on a Databricks runtime does not have."""
    try:
        return version(name)
    except PackageNotFoundError:
        return str(import_module(module).__version__)


def commit() -> str:
    """The repository's commit, `unknown` where the code runs without its repository."""
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        return UNKNOWN

    def ask(*arguments: str) -> str:
        command = [git, "-C", str(REPOSITORY), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return answer.stdout.strip() if answer.returncode == 0 else ""

    head = ask("rev-parse", "HEAD")
    changed = ask("status", "--porcelain", "--untracked-files=no")
    return f"{head}{'+' if changed else ''}" if head else UNKNOWN
