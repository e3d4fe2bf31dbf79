"""Reproduction: a version trained again from its recorded recipe, metric by metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import ModelError, TableError
from databricks_steps.interfaces import Platform
from databricks_steps.settings import METRICS, Settings
from databricks_steps.training import candidate, evaluation, lineage, registry
from databricks_steps.training.dataset import training_rows
from databricks_steps.training.lineage import Recipe

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TOLERANCE = 1e-9  # between the metrics of the same model on the same machine


@dataclass(frozen=True)
class Reproduction:
    """Metric → (recorded, found now), and what is different about the world since."""

    version: str
    metrics: Mapping[str, tuple[float, float]]
    changes: tuple[str, ...]

    @property
    def largest(self) -> float:
        """The largest difference between a recorded metric and the same now."""
        return max(abs(now - recorded) for recorded, now in self.metrics.values())

    @property
    def equal(self) -> bool:
        return self.largest <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """The reproduction as plain values."""
        metrics = {
            name: {"recorded": recorded, "now": now, "difference": now - recorded}
            for name, (recorded, now) in self.metrics.items()
        }
        return {
            "version": self.version,
            "equal": self.equal,
            "largest_difference": self.largest,
            "metrics": metrics,
            "changes": list(self.changes),
        }


def reproduce(platform: Platform, number: str) -> Reproduction:
    """Train a version again from its months, table versions and parameters; nothing is logged.

    Raises:
        ModelError: there is no such version, or it did not record what it was made from.
        TableError: a recorded table version is gone.
    """
    version = registry.numbered(platform.settings, number)
    ingredients = _recipe(platform.settings, version)
    settings = replace(
        platform.settings,
        estimator=ingredients.estimator,
        holdout_share=ingredients.holdout_share,
        lookback_days=ingredients.lookback_days,
        feature_delay_days=ingredients.feature_delay_days,
        max_training_rows=ingredients.max_training_rows,
    )
    model = candidate.fitted(settings, _rows(platform.with_settings(settings), ingredients))
    found = evaluation.measures(model.fares, model.predicted)
    found["interval_coverage"] = model.interval.coverage
    names = [m.name for m in METRICS if m.name in version.metrics]
    names += ["interval_coverage"] if "interval_coverage" in version.metrics else []
    pairs = {name: (version.metrics[name], found[name]) for name in names}
    now = lineage.current(settings, ingredients.months, ingredients.table_versions)
    return Reproduction(version.number, pairs, changes(ingredients, now))


def table_versions(settings: Settings) -> dict[str, set[int]]:
    """Table → the versions of it that models have learned from: all that must stay readable.

    Those of every recipe among the artifacts count, registered or not, so that a registry that was
    lost loses no more. A recipe of before table versions were recorded pins none.

    Raises:
        ModelError: a version that this project has registered has no recipe that can be read.
    """
    recipes = [_parsed(path.read_text("utf-8"), str(path)) for path in _recipes(settings)]
    for number in registry.numbers(settings):
        version = registry.numbered(settings, number)
        if registry.MADE_FROM in version.tags:  # else it was registered by other means
            text = registry.read_text(settings, version, lineage.FILE)
            recipes.append(_parsed(text, f"version {number}"))
    found: dict[str, set[int]] = {}
    for recipe in recipes:
        for table, at in recipe.table_versions.items():
            found.setdefault(table, set()).add(at)
    return found


def _recipes(settings: Settings) -> Iterator[Path]:
    return settings.artifacts.rglob(lineage.FILE)


def _rows(platform: Platform, ingredients: Recipe) -> DataFrame:
    """The training set as it was: trips and features at the recorded versions."""
    from pyspark.errors import AnalysisException

    for table, at in ingredients.table_versions.items():
        newest = platform.tables.version(table)
        if newest is None or newest < at:
            raise _gone(f"{table} version {at}, the newest is {newest}")
    try:
        return training_rows(platform, ingredients.months, ingredients.table_versions)
    except AnalysisException as error:  # the log is there, its data files are not
        raise _gone(str(error).splitlines()[0]) from error


def _gone(found: str) -> TableError:
    return TableError(
        "Reproduction needs the table versions of then", found, "Restore them from a backup"
    )


def changes(then: Recipe, now: Recipe) -> tuple[str, ...]:
    """What differs in code, Python and packages, one sentence each."""
    said = []
    if lineage.UNKNOWN not in (then.commit, now.commit) and then.commit != now.commit:
        said.append(f"code: commit {then.commit}, now {now.commit}")
    if then.python != now.python:
        said.append(f"python {then.python}, now {now.python}")
    for name, was in then.packages.items():
        is_now = now.packages.get(name, "not installed")
        if was != is_now:
            said.append(f"{name} {was}, now {is_now}")
    return tuple(said)


def _recipe(settings: Settings, version: registry.Version) -> Recipe:
    where = f"version {version.number}"
    found = _parsed(registry.read_text(settings, version, lineage.FILE), where)
    if not found.table_versions:
        raise ModelError(
            "A version must have recorded its table versions",
            f"{where} has none",
            "Materialize training_set with force, then train again",
        )
    return found


def _parsed(text: str, where: str) -> Recipe:
    try:
        return Recipe.from_json(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            "A recipe cannot be read", f"{where}: {error}", "Restore it from a backup"
        ) from error
