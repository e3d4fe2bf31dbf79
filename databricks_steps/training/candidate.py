"""A candidate: fitted, judged on the holdout against baselines and champion, and registered."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from databricks_steps import schemas
from databricks_steps.ports import Verdict
from databricks_steps.serving.scorer import Scorer
from databricks_steps.settings import Settings
from databricks_steps.training import dataset, evaluation, registry
from databricks_steps.training.dataset import INPUTS
from databricks_steps.training.fit import fit, onnx_predict, parity, to_onnx
from databricks_steps.training.registry import CHAMPION, Version

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame

FEWEST_SHARED_INPUTS = "the champion looks up features that no longer exist"


@dataclass(frozen=True)
class Candidate:
    """A registered version with its verdicts and the figures people want to see."""

    version: Version
    verdicts: tuple[Verdict, ...]
    figures: Mapping[str, Any]


def train(
    settings: Settings,
    training_set: DataFrame,
    tags: Mapping[str, str],
    checks: tuple[Verdict, ...],
) -> Candidate:
    """Fit, judge, log and register, inside the active MLflow run.

    `checks` are verdicts that others reached; with those reached here they decide the tag
    that lets the version become champion.
    """
    train_part, holdout = dataset.parts(training_set, settings.max_training_rows)
    pipeline = fit(train_part, settings.forest)
    graph = to_onnx(pipeline)
    fares = holdout[schemas.LABEL].to_numpy()
    predicted = pipeline.predict(holdout[list(INPUTS)])
    metrics = evaluation.measures(fares, predicted)
    baselines = _baselines(train_part, holdout)
    figures = {
        **metrics,
        **{f"{name}_rmse": measured["rmse"] for name, measured in baselines.items()},
        **{f"{name}_r2": measured["r2"] for name, measured in baselines.items()},
        "onnx_parity": parity(pipeline, graph, holdout),
        "train_rows": len(train_part),
        "holdout_rows": len(holdout),
    }
    verdicts = (
        beats_baseline(metrics, baselines),
        *checks,
        champion_not_better(settings, holdout, onnx_predict(graph, holdout)),
    )
    version = _log(settings, pipeline, graph, train_part, figures, verdicts, tags)
    figures["model_megabytes"] = round(len(graph) / 1e6, 1)
    return Candidate(version, verdicts, figures)


def known(settings: Settings, version: Version, training_set: DataFrame) -> Candidate:
    """A candidate that was trained from the same inputs before: its verdicts, the paired
    comparison made anew, for the champion may have changed since."""
    import mlflow

    stored = mlflow.artifacts.load_dict(f"runs:/{version.run_id}/{registry.VERDICTS}")
    verdicts = [Verdict(**raw) for raw in stored["verdicts"]]
    champion = registry.version(settings, CHAMPION)
    if champion is not None and champion.number != version.number:
        _, holdout = dataset.parts(training_set, settings.max_training_rows)
        scorer = Scorer.load(registry.folder(settings, version.number))
        compared = champion_not_better(settings, holdout, scorer.predict(dataset.matrix(holdout)))
        verdicts = [compared if v.check == compared.check else v for v in verdicts]
    return Candidate(version, tuple(verdicts), version.metrics)


def beats_baseline(
    metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
) -> Verdict:
    """RMSE below, and R² above, those of the metered fare and of the mean."""
    beaten = {
        name: metrics["rmse"] < measured["rmse"] and metrics["r2"] > measured["r2"]
        for name, measured in baselines.items()
    }
    ours = f"RMSE {metrics['rmse']:.2f}, R² {metrics['r2']:.3f}"
    theirs = "; ".join(
        f"{name.replace('_', ' ')}: RMSE {m['rmse']:.2f}, R² {m['r2']:.3f}"
        for name, m in baselines.items()
    )
    figures = {"rmse": metrics["rmse"], "r2": metrics["r2"]}
    figures |= {f"{name}_rmse": m["rmse"] for name, m in baselines.items()}
    return Verdict("beats_baseline", all(beaten.values()), f"{ours} ({theirs})", figures)


def champion_not_better(settings: Settings, holdout: pd.DataFrame, ours: Any) -> Verdict:
    """The champion, scoring the same rows, is not surely better (95 % paired bootstrap)."""
    champion = registry.version(settings, CHAMPION)
    if champion is None:
        return Verdict("champion_not_better", True, "there is no champion yet")
    scorer = Scorer.load(registry.folder(settings, champion.number))
    gone = set(scorer.spec.inputs) - set(INPUTS)
    if gone:
        reason = f"{FEWEST_SHARED_INPUTS} ({', '.join(sorted(gone))}); not compared"
        return Verdict("champion_not_better", True, reason, {"champion": champion.number})
    theirs = scorer.predict(holdout[list(scorer.spec.inputs)].to_numpy(dtype="float32"))
    compared = evaluation.compare(holdout[schemas.LABEL].to_numpy(), ours, theirs)
    reason = (
        f"RMSE less that of champion {champion.number}: {compared.difference:+.3f} dollars, "
        f"95 % interval {compared.low:+.3f} to {compared.high:+.3f}"
    )
    figures = {"champion": champion.number, **asdict(compared)}
    return Verdict("champion_not_better", not compared.champion_surely_better, reason, figures)


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


def _log(
    settings: Settings,
    pipeline: Any,
    graph: bytes,
    train_part: pd.DataFrame,
    figures: Mapping[str, float],
    verdicts: tuple[Verdict, ...],
    tags: Mapping[str, str],
) -> Version:
    import mlflow

    params = settings.forest.params(len(train_part))
    mlflow.log_params({**params, "holdout_share": settings.holdout_share})
    mlflow.log_metrics(dict(figures))
    stored = [{**asdict(v), "figures": dict(v.figures)} for v in verdicts]
    mlflow.log_dict(json.loads(json.dumps({"verdicts": stored})), registry.VERDICTS)
    outcome = "passed" if all(v.passed for v in verdicts) else "failed"
    example = train_part[list(INPUTS)].head(3)
    return registry.log_version(
        settings, pipeline, graph, example, {**tags, registry.CHECKS: outcome}
    )
