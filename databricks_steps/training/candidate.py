"""A candidate: fitted, judged on the holdout against baselines and champion, and registered."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps import distributions, schemas
from databricks_steps.distributions import Baseline
from databricks_steps.errors import ModelError
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.features.request import NOT_TOLD
from databricks_steps.inference.feature_spec import FareInterval, FeatureSpec
from databricks_steps.inference.scorer import Scorer, groups
from databricks_steps.interfaces import Platform, Verdict
from databricks_steps.settings import DATABRICKS, Settings
from databricks_steps.training import (
    dataset,
    evaluation,
    expected_error,
    feature_ages,
    intervals,
    lineage,
    model_card,
    promotion_gate,
    registry,
    slices,
)
from databricks_steps.training.dataset import INPUTS
from databricks_steps.training.expected_error import ExpectedError
from databricks_steps.training.fit import fit
from databricks_steps.training.lineage import Recipe
from databricks_steps.training.onnx_graph import onnx_predict, to_onnx
from databricks_steps.training.registry import CHAMPION, Version

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from pyspark.sql import DataFrame

    Array = np.ndarray[Any, np.dtype[np.float64]]


_LOG = logging.getLogger(__name__)
NEWEST = timedelta(days=31)
MOST_UNSEEN = 60_000  # training rows whose error by the trees that have not seen them is measured


@dataclass(frozen=True)
class Candidate:
    """A registered version with its verdicts and the figures people want to see."""

    version: Version
    verdicts: tuple[Verdict, ...]
    figures: Mapping[str, Any]
    passport: Path | str
    pictures: Mapping[str, str]  # caption → SVG


@dataclass(frozen=True)
class Fitted:
    """A fitted model on its holdout; `predicted` (rows,) by the pipeline, `trees` by the graph.

    `holdout` is as rides are served, `looked_up` the same trips as the tables tell.
    """

    pipeline: Any
    graph: bytes
    train: pd.DataFrame
    holdout: pd.DataFrame
    looked_up: pd.DataFrame
    predicted: Array
    trees: Array
    parity: float  # dollars between pipeline and graph, at most
    interval: FareInterval
    covered: Mapping[str, float]  # kind of trip → share of its fares inside the interval

    @property
    def fares(self) -> Array:
        found: Array = self.holdout[schemas.LABEL].to_numpy()
        return found

    @property
    def newest(self) -> Any:
        """Places of the training rows that were picked up within a month of the last trip."""
        import numpy as np

        since = self.holdout["pickup_datetime"].max() - NEWEST
        return np.flatnonzero(self.train["pickup_datetime"] >= since)


def fitted(settings: Settings, training_set: DataFrame) -> Fitted:
    """Fit on the `train` rows and predict the `holdout` rows.

    Raises:
        ModelError: a part has too few rows, or no fares that differ.
    """
    train, looked_up = dataset.parts(training_set, settings.max_training_rows)
    holdout = dataset.as_served(looked_up, settings)
    pipeline = fit(dataset.as_taught(train, settings), settings.estimator)
    graph = to_onnx(pipeline)
    predicted = pipeline.predict(holdout[list(INPUTS)])
    served, trees = onnx_predict(graph, holdout)
    parity = float(abs(served - predicted).max())
    interval = _interval(settings, graph, holdout, looked_up)
    group = groups(dataset.matrix(holdout), FeatureSpec.current(settings))
    covered = intervals.covered(holdout, served, trees, interval, group)
    return Fitted(
        *(pipeline, graph, train, holdout, looked_up, predicted, trees, parity),
        *(interval, covered),
    )


def _interval(
    settings: Settings, graph: bytes, holdout: pd.DataFrame, looked_up: pd.DataFrame
) -> FareInterval:
    """Calibrated on the holdout's rides as served, and once more on those that told their type.

    Where features are served all count once more without, for any ride may find none.
    """
    import numpy as np
    import pandas as pd

    told = np.flatnonzero(looked_up["trip_type"] > NOT_TOLD)
    typed = holdout.assign(trip_type=looked_up["trip_type"]).iloc[told]
    rides, trips = [holdout, typed], [np.arange(len(holdout)), told]
    if settings.features_are_served:
        rides, trips = [*rides, *map(dataset.without, rides)], [*trips, *trips]
    asked = pd.concat(rides, ignore_index=True)
    fares, trees = onnx_predict(graph, asked)
    group = groups(dataset.matrix(asked), FeatureSpec.current(settings))
    paid = asked[schemas.LABEL].to_numpy()
    whose = np.concatenate(trips)  # all rows of a trip are in one half
    return intervals.calibrated(paid, fares, trees, settings.interval, group, whose)


def train(
    platform: Platform,
    training_set: DataFrame,
    made_from: str,
    ingredients: Recipe,
    checks: tuple[Verdict, ...],
) -> Candidate:
    """Fit, judge, log and register, inside the active MLflow run.

    `checks` are verdicts that others reached; with those reached here they decide the tag
    that lets the version become champion. `made_from` is the digest of all inputs.
    """
    settings = platform.settings
    _LOG.info("fits the model")
    model = fitted(settings, training_set)
    _LOG.info("measures the error by the age of features, and by slice")
    metrics = evaluation.measures(model.fares, model.predicted)
    baselines = _baselines(model.train, model.holdout)
    ages = feature_ages.errors(platform, training_set, model.graph, model.looked_up)
    champion = promotion_gate.champion_on(settings, model.holdout)
    cut = slices.errors(model.holdout, model.predicted, champion.fares, settings.gate)
    verdicts = (
        promotion_gate.beats_baseline(metrics, baselines, settings.gate, ages),
        *checks,
        promotion_gate.champion_not_better(model.fares, model.predicted, champion, settings.gate),
        promotion_gate.slices(cut, champion, settings.gate),
        promotion_gate.onnx_parity(model.parity, len(model.holdout), settings.gate),
    )
    figures = _figures(model, metrics, baselines)
    _LOG.info("logs and registers the version")
    version = _log(platform, training_set, model, figures, verdicts, ingredients)
    told = model_card.Evidence(
        settings.registered_model,
        version.number,
        version.run_id,
        ingredients,
        dataset.rows_by_month(training_set),
        settings.estimator.params(len(model.train)),
        metrics,
        evaluation.intervals(model.fares, model.predicted, settings.gate),
        baselines,
        cut,
        verdicts,
        model.interval,
        model.covered,
        ages,
        made_again(settings, version, ingredients),
    )
    _LOG.info("draws the model card")
    pictures = model_card.plots(model, cut)
    for caption, file in model_card.PICTURES.items():
        registry.log_text(pictures[caption], file)
    registry.log_text(model_card.render(told, pictures), model_card.FILE)
    # Last of all: a run that was killed before here is not found again, but made anew.
    registry.tag(settings, version.number, registry.MADE_FROM, made_from)
    return Candidate(version, verdicts, figures, passport_of(settings, version), pictures)


def known(settings: Settings, version: Version, training_set: Callable[[], DataFrame]) -> Candidate:
    """A candidate that was trained from the same inputs before: its verdicts, the paired
    comparisons made anew, for the champion may have changed since."""
    verdicts = registry.verdicts(settings, version)
    champion = registry.version(settings, CHAMPION)
    if champion is not None and champion.number != version.number:
        _, looked_up = dataset.parts(training_set(), settings.max_training_rows)
        holdout = dataset.as_served(looked_up, settings)
        scorer = Scorer.load(registry.folder(settings, version.number))
        ours = scorer.predict(dataset.matrix(holdout))
        theirs = promotion_gate.champion_on(settings, holdout)
        cut = slices.errors(holdout, ours, theirs.fares, settings.gate)
        fares = holdout[schemas.LABEL].to_numpy()
        anew = {
            v.check: v
            for v in (
                promotion_gate.champion_not_better(fares, ours, theirs, settings.gate),
                promotion_gate.slices(cut, theirs, settings.gate),
            )
        }
        verdicts = tuple(anew.get(v.check, v) for v in verdicts)
        # On rows that the champion has learned from it is better, and proves nothing.
        begins = holdout["pickup_datetime"].min().isoformat()
        if begins >= champion.tags.get(registry.HOLDOUT_FROM, ""):
            for key, value in _judgement(verdicts).items():
                registry.tag(settings, version.number, key, value)
    card, pictures = passport_of(settings, version), _pictures(settings, version)
    return Candidate(version, verdicts, version.metrics, card, pictures)


def _pictures(settings: Settings, version: Version) -> dict[str, str]:
    """Caption → SVG, as the version's run keeps them; a run of before that keeps none."""
    found = {}
    for caption, file in model_card.PICTURES.items():
        with suppress(ModelError):
            found[caption] = registry.read_text(settings, version, file)
    return found


def passport_of(settings: Settings, version: Version) -> Path | str:
    """Where a version's passport is."""
    return registry.artifact(settings, version, model_card.FILE)


def made_again(settings: Settings, version: Version, ingredients: Recipe) -> str:
    """How a person makes the version again: by a command here, by a notebook's cell on Databricks.

    Both read the recorded table versions, compare every metric and register nothing.
    """
    if settings.platform != DATABRICKS:
        return f"taxi-assets reproduce {version.number}"
    return f"""\
# In a notebook of the workspace, with the project's wheel of commit {ingredients.commit}
from databricks_steps.platforms.factory import platform
from databricks_steps.settings import Settings
from databricks_steps.training.reproduction import reproduce

settings = Settings(
    platform={settings.platform!r},
    catalog={settings.catalog!r},
    schema={settings.schema!r},
    model={settings.model!r},
)
print(reproduce(platform(settings), {version.number!r}))"""


def _baselines(train_part: pd.DataFrame, holdout: pd.DataFrame) -> dict[str, dict[str, float]]:
    import numpy as np

    fares, miles = (train_part[c].to_numpy() for c in (schemas.LABEL, "trip_distance"))
    truth = holdout[schemas.LABEL].to_numpy()
    formula = evaluation.MeteredFare.fit(miles, fares)
    metered = formula.predict(holdout["trip_distance"].to_numpy())
    return {
        "metered_fare": evaluation.measures(truth, metered),
        "mean": evaluation.measures(truth, np.full(len(truth), fares.mean())),
    }


def _figures(
    model: Fitted, metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    return {
        **metrics,
        **{f"{name}_rmse": measured["rmse"] for name, measured in baselines.items()},
        **{f"{name}_r2": measured["r2"] for name, measured in baselines.items()},
        "onnx_parity": model.parity,
        "interval_coverage": model.interval.coverage,
        "train_rows": len(model.train),
        "holdout_rows": len(model.holdout),
        "model_megabytes": round(len(model.graph) / 1e6, 1),
    }


def baseline(model: Fitted) -> Baseline:
    """What later months are compared with: inputs of the last month it knows, its holdout among
    them, so that what was before a change is no part of it; fares as predicted on the holdout."""
    import pandas as pd

    fares = model.holdout[["pickup_location_id", "dropoff_location_id"]].assign(
        predicted_fare=model.predicted
    )
    watched = tuple(column.name for column in schemas.WATCHED_INPUTS)
    known = pd.concat([model.train.iloc[model.newest], model.looked_up], ignore_index=True)
    return distributions.baseline(known, watched, fares)


def expected(model: Fitted, settings: Settings) -> ExpectedError:
    """The error by cell over the last month it knows, each trip by trees that have not seen it."""
    import numpy as np
    import pandas as pd

    step = (len(model.newest) + len(model.holdout)) // MOST_UNSEEN + 1
    rows, holdout = model.newest[::step], model.holdout.iloc[::step]
    asked = dataset.as_served(model.train, settings)
    fares = model.pipeline[-1].predict_unseen(dataset.matrix(asked), rows)
    trips = pd.concat([asked.iloc[rows], holdout], ignore_index=True)
    error = np.concatenate([fares, model.predicted[::step]]) - trips[schemas.LABEL].to_numpy()
    known = np.isfinite(error)
    return expected_error.measured(trips[known].reset_index(drop=True), error[known], settings.gate)


def _log(
    platform: Platform,
    training_set: DataFrame,
    model: Fitted,
    figures: Mapping[str, float],
    verdicts: tuple[Verdict, ...],
    ingredients: Recipe,
) -> Version:
    import mlflow

    settings = platform.settings
    params = settings.estimator.params(len(model.train))
    logged = {"holdout_share": settings.holdout_share}
    logged |= {"feature_delay_days": settings.feature_delay_days}
    mlflow.log_params({**params, **logged})
    mlflow.log_metrics(dict(figures))
    _log_datasets(platform, ingredients)
    stored = [{**asdict(v), "figures": dict(v.figures)} for v in verdicts]
    registry.log_text(json.dumps({"verdicts": stored}), registry.VERDICTS)
    registry.log_text(ingredients.to_json(), lineage.FILE)
    registry.log_text(baseline(model).to_json(), distributions.FILE)
    registry.log_text(expected(model, settings).to_json(), expected_error.FILE)
    tags = {
        **_judgement(verdicts),
        "months": ",".join(ingredients.months),
        registry.TAUGHT_FROM: model.train["pickup_datetime"].min().isoformat(),
        registry.HOLDOUT_FROM: model.holdout["pickup_datetime"].min().isoformat(),
        "table_versions": json.dumps(dict(ingredients.table_versions)),
        "git_commit": ingredients.commit,
    }
    example = model.train[list(INPUTS)].head(3)

    def log_model(arguments: Mapping[str, Any]) -> str:
        return platform.features.log_model(model.pipeline, LOOKUPS, training_set, arguments)

    version = registry.log_version(settings, log_model, model.graph, model.interval, example, tags)
    registry.describe(settings, version.number, _described(figures, verdicts, ingredients))
    return version


def _log_datasets(platform: Platform, ingredients: Recipe) -> None:
    """The tables that were learned from, with their Delta versions, as inputs of the MLflow run."""
    import mlflow
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    for name, version in ingredients.table_versions.items():
        source = DeltaDatasetSource(platform.tables.uri(name), delta_table_version=version)
        # The version in the digest, too: MLflow's source leaves out a version 0.
        table = MetaDataset(source, name, f"version {version}")  # type: ignore[abstract]
        mlflow.log_input(table, "training")


def _described(
    figures: Mapping[str, float], verdicts: tuple[Verdict, ...], ingredients: Recipe
) -> str:
    failed = [verdict.check for verdict in verdicts if not verdict.passed]
    return (
        f"Learned from {', '.join(ingredients.months)}. RMSE {figures['rmse']:.2f}, "
        f"MAE {figures['mae']:.2f} dollars on the holdout. "
        + (f"Checks failed: {', '.join(failed)}." if failed else "Checks passed.")
    )


def _judgement(verdicts: tuple[Verdict, ...]) -> dict[str, str]:
    """What promotion goes by: whether all passed, and the sentence for the ledger."""
    compared = next(v.reason for v in verdicts if v.check == "champion_not_better")
    passed = all(v.passed for v in verdicts)
    return {registry.CHECKS: "passed" if passed else "failed", registry.JUDGED: compared}
