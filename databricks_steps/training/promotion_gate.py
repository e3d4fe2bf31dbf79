"""The gate: what a candidate must show on the holdout, one verdict a check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from databricks_steps.inference.scorer import Scorer
from databricks_steps.interfaces import Verdict
from databricks_steps.settings import METRICS, Gate, Settings
from databricks_steps.training import evaluation, registry
from databricks_steps.training.dataset import INPUTS
from databricks_steps.training.feature_ages import AgeError
from databricks_steps.training.registry import CHAMPION
from databricks_steps.training.slices import Slice

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    Array = np.ndarray[Any, np.dtype[np.float64]]

_BETTER = {metric.name: metric.better for metric in METRICS}


@dataclass(frozen=True)
class Champion:
    """The champion on the candidate's holdout: `fares` is None when it cannot be compared."""

    number: str | None
    fares: Array | None
    why_not: str = ""


def champion_on(settings: Settings, holdout: pd.DataFrame) -> Champion:
    """The champion's fares for the same rows, unless it looks up what no longer exists."""
    found = registry.version(settings, CHAMPION)
    if found is None:
        return Champion(None, None, "there is no champion yet")
    scorer = Scorer.load(registry.folder(settings, found.number))
    gone = set(scorer.spec.inputs) - set(INPUTS)
    if gone:
        names = ", ".join(sorted(gone))
        reason = f"champion {found.number} needs features that no longer exist ({names})"
        return Champion(found.number, None, f"{reason}; not compared")
    matrix = holdout[list(scorer.spec.inputs)].to_numpy(dtype="float32")
    return Champion(found.number, scorer.predict(matrix))


def beats_baseline(
    metrics: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
    gate: Gate,
    ages: Sequence[AgeError] = (),
) -> Verdict:
    """Better than the metered fare and than the mean, in each metric the gate names.

    And better than the metered fare's RMSE whatever the age of the features.
    """
    lost = [
        f"{name.replace('_', ' ')} in {metric}"
        for name, measured in baselines.items()
        for metric in gate.beat
        if not _better(metric, metrics[metric], measured[metric])
    ]
    line = baselines["metered_fare"]["rmse"] if ages else 0.0
    late = [a for a in ages if a.rmse >= line]
    if late and metrics["rmse"] < line:  # else it is said already
        worst = max(a.rmse for a in late)
        lost.append(f"metered fare with features {', '.join(a.age for a in late)}: {worst:.2f}")
    ours = f"RMSE {metrics['rmse']:.2f}, R² {metrics['r2']:.3f}"
    theirs = "; ".join(
        f"{name.replace('_', ' ')}: RMSE {m['rmse']:.2f}, R² {m['r2']:.3f}"
        for name, m in baselines.items()
    )
    said = f"not better than the {', the '.join(lost)}: " if lost else ""
    figures = {metric: metrics[metric] for metric in gate.beat}
    figures |= {f"{name}_{x}": m[x] for name, m in baselines.items() for x in gate.beat}
    figures |= {f"rmse_at_{a.age.replace(' ', '_')}": a.rmse for a in ages}
    return Verdict("beats_baseline", not (lost or late), f"{said}{ours} ({theirs})", figures)


def champion_not_better(fares: Array, ours: Array, champion: Champion, gate: Gate) -> Verdict:
    """The champion, scoring the same rows, is not significantly better (paired bootstrap)."""
    if champion.fares is None:
        figures = {"champion": champion.number} if champion.number else {}
        return Verdict("champion_not_better", True, champion.why_not, figures)
    compared = evaluation.compare(fares, ours, champion.fares, gate)
    lost = compared.champion_significantly_better
    reason = (
        f"{'significantly worse than' if lost else 'compared with'} champion {champion.number} on "
        f"the same {len(fares):,} trips: RMSE {compared.difference:+.3f} "
        f"dollars, {gate.confidence:.0%} interval {compared.low:+.3f} to {compared.high:+.3f}"
    )
    told = {"champion": champion.number, **asdict(compared)}
    return Verdict("champion_not_better", not lost, reason, told)


def slices(found: Sequence[Slice], champion: Champion, gate: Gate) -> Verdict:
    """No slice is significantly worse than the champion, and by more than its limit."""
    judged = [s for s in found if s.rows >= gate.slice_rows]
    figures = {s.name: {k: v for k, v in asdict(s).items() if k != "name"} for s in found}
    if not judged:
        return Verdict("slices", True, f"no slice holds {gate.slice_rows} trips", figures)
    if champion.fares is None:
        worst = max(judged, key=lambda s: s.rmse)
        reason = f"{champion.why_not}; largest RMSE {worst.rmse:.2f} dollars, {_slice(worst)}"
        return Verdict("slices", True, reason, figures)
    worse = [s for s in judged if s.significantly_worse and s.growth > s.limit]
    shown = sorted(worse or judged, key=lambda s: -s.growth)[: 3 if worse else 1]
    said = "; ".join(
        f"{_slice(s)}: RMSE {s.rmse:.2f} after {s.champion_rmse:.2f} dollars, {s.growth:+.1%} "
        f"(limit {s.limit:+.0%})"
        for s in shown
    )
    reason = f"worse than champion {champion.number}" if worse else "the most changed slice"
    return Verdict("slices", not worse, f"{reason}: {said}", figures)


def onnx_parity(difference: float, rows: int, gate: Gate) -> Verdict:
    """The graph that serves gives the fares of the pipeline that was judged."""
    reason = (
        f"largest difference {difference:.6f} dollars on {rows:,} trips; "
        f"allowed is {gate.onnx_parity:g}"
    )
    return Verdict(
        "onnx_parity", difference <= gate.onnx_parity, reason, {"difference_dollars": difference}
    )


def _better(metric: str, ours: float, theirs: float) -> bool:
    if _BETTER[metric] == "low":
        return ours < theirs
    return ours > theirs if _BETTER[metric] == "high" else abs(ours) < abs(theirs)


def _slice(found: Slice) -> str:
    return f"{found.name} ({found.rows:,} trips)"
