"""The backtest: a history walked as it would have been lived, by when to learn from a month.

A month is judged and learned from when it is published, `feature_delay_days` after its end, and is
served by the champion that there was when it began. What was trained and judged is kept in
`TAXI_HOME/backtest`: a backtest that was killed goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from databricks_steps import (
    atomic_write,
    distributions,
    fingerprint,
    histograms,
    page,
    plots,
    schemas,
)
from databricks_steps.distributions import Baseline
from databricks_steps.errors import ModelError, SettingsError, TableError
from databricks_steps.inference import batch, feature_spec
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.inference.scorer import Scorer
from databricks_steps.interfaces import Platform, Verdict
from databricks_steps.monitoring import month_report, performance, triage
from databricks_steps.monitoring.month_report import Judged
from databricks_steps.months import end, start, trailing
from databricks_steps.page import Blocks, Figures, Table, Text
from databricks_steps.settings import Settings
from databricks_steps.steps import dropoff_features, pickup_features, trips
from databricks_steps.training import (
    candidate,
    dataset,
    evaluation,
    expected_error,
    promotion_gate,
    slices,
)
from databricks_steps.training.expected_error import ExpectedError
from databricks_steps.training.promotion_gate import Champion
from databricks_steps.training.registry import HOLDOUT_FROM, TAUGHT_FROM, Version

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NEVER, MONTHLY, DRIFT = POLICIES = ("never", "monthly", "drift")
PAGE = "backtest.html"
_MODEL, _BASELINE, _EXPECTED = "version.json", distributions.FILE, expected_error.FILE
_HOLDOUT = "holdout.parquet"
_COLORS = {NEVER: plots.GREY, MONTHLY: plots.PALE, DRIFT: plots.BLUE}


@dataclass(frozen=True)
class Judgement:
    """What a champion did on a month, and what the month suffers from; errors in dollars."""

    kinds: tuple[str, ...] = (triage.NONE,)
    severity: str = ""  # of the triage: error, warn, or none
    alarms: tuple[str, ...] = ()  # checks in error
    evidence: tuple[str, ...] = ()
    trips: int = 0
    mae: float | None = None
    expected: float | None = None
    in_range: float | None = None


@dataclass(frozen=True)
class Lived:
    """A month as a policy lived it: judged by `champion` when published, served by `served_by`."""

    policy: str
    month: str
    champion: str
    judged: Judgement
    trained: bool
    promoted: bool
    why: str
    served_by: str
    served: Judgement

    def line(self) -> str:
        """The month for people."""
        error = "" if self.served.mae is None else f"error served {self.served.mae:.2f}"
        inside = "" if self.served.in_range is None else f", {self.served.in_range:.0%} in range"
        moved = "promoted" if self.promoted else "refused" if self.trained else "not trained"
        alarms = f" ({', '.join(self.judged.alarms)})" if self.judged.alarms else ""
        return (
            f"{self.month}  {self.policy:<8}{' and '.join(self.judged.kinds)}{alarms}; "
            f"{moved}: {self.why}; {error or 'not served yet'}{inside}"
        )


@dataclass
class Backtest:
    """The models and judgements of a history, each made once and kept."""

    platform: Platform
    months: tuple[str, ...]
    models: dict[str, Judged] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # month → why no model came of it

    @property
    def settings(self) -> Settings:
        return self.platform.settings

    @property
    def folder(self) -> Path:
        return self.settings.home / "backtest"

    @cached_property
    def _metered(self) -> month_report.Metered:
        return month_report.metered_trips(self.platform)

    @cached_property
    def _code(self) -> str:
        return fingerprint.package()

    def walk(self, policy: str) -> Iterator[Lived]:
        """The history by one policy, the oldest month first."""
        since: list[tuple[datetime, str]] = []  # when a champion began to serve
        for month in self.months:
            champion = since[-1][1] if since else ""
            serving = [name for at, name in since if at <= start(month)]
            judged = self.judgement(champion, month) if champion else Judgement()
            trained, promoted, why = self._learned(policy, month, champion, judged)
            if promoted:
                since.append((end(month) + self._delay, month))
            served_by = serving[-1] if serving else ""
            served = self.judgement(served_by, month) if served_by else Judgement()
            yield Lived(policy, month, champion, judged, trained, promoted, why, served_by, served)

    @property
    def _delay(self) -> timedelta:
        return timedelta(days=self.settings.feature_delay_days)

    def _learned(
        self, policy: str, month: str, champion: str, judged: Judgement
    ) -> tuple[bool, bool, str]:
        """Whether a model was trained on the months up to this one and promoted, and why."""
        told = judged.severity in ("warn", "error") and judged.kinds[0] != triage.DATA
        if champion and not (policy == MONTHLY or (policy == DRIFT and told)):
            reason = judged.kinds[0] if policy == DRIFT else "by the policy"
            return False, False, reason
        model = self.model(month)
        if model is None:
            return False, False, self.refused[month]
        if not champion:
            return True, True, "the first champion"
        failed = [v for v in self._gate(model, self.models[champion]) if not v.passed]
        return True, not failed, "; ".join(v.check for v in failed) or "passed the gate"

    def model(self, month: str) -> Judged | None:
        """The model of the trailing months up to this one; None where none can be made of them."""
        if month not in self.models and month not in self.refused:
            try:
                self.models[month] = self._model(month)
            except ModelError as error:
                self.refused[month] = str(error)
        return self.models.get(month)

    def _model(self, month: str) -> Judged:
        tables, settings = self.platform.tables, self.settings
        learned = trailing(tables.months("trips"), month, settings.trailing_months)
        made_from = fingerprint.digest(
            *(self._code, settings.estimator, settings.gate, settings.interval),
            *(settings.feature_delay_days, settings.holdout_share, settings.max_training_rows),
            tables.contents("trips", learned),
        )
        folder = self.folder / f"model_{month}_{made_from:x}"
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            _train(self.platform, learned, month, part)
            part.rename(folder)
        return Judged(
            Version(**json.loads((folder / _MODEL).read_text())),
            folder,
            Baseline.from_json((folder / _BASELINE).read_text()),
            ExpectedError.from_json((folder / _EXPECTED).read_text()),
        )

    def _gate(self, ours: Judged, theirs: Judged) -> tuple[Verdict, ...]:
        """The gate's comparisons of a candidate with the champion, on the candidate's holdout."""
        import pandas as pd

        gate = self.settings.gate
        holdout = pd.read_parquet(ours.model / _HOLDOUT)
        fares = holdout[schemas.LABEL].to_numpy()
        predicted, other = (
            Scorer.load(model.model).predict(dataset.matrix(holdout)) for model in (ours, theirs)
        )
        champion = Champion(theirs.version.number, other)
        return (
            promotion_gate.champion_not_better(fares, predicted, champion, gate),
            promotion_gate.slices(slices.errors(holdout, predicted, other, gate), champion, gate),
        )

    def judgement(self, name: str, month: str) -> Judgement:
        """What the model of that month did on this one."""
        champion, tables = self.models[name], self.platform.tables
        before = [m for m in tables.months("raw_trips") if m < month][-1:]
        made_from = fingerprint.digest(
            self._code, champion.model.name, tables.contents("raw_trips", [*before, month])
        )
        file = self.folder / f"judged_{name}_{month}_{made_from:x}.json"
        if not file.exists():
            found = _judged(self.platform, champion, month, self.folder, self._metered)
            atomic_write.write(file, json.dumps(asdict(found)))
        raw = json.loads(file.read_text())
        lists: dict[str, Any] = {k: tuple(v) for k, v in raw.items() if isinstance(v, list)}
        return Judgement(**{**raw, **lists})


def _train(platform: Platform, months: Sequence[str], number: str, folder: Path) -> None:
    """A model of the months as files in a folder."""
    settings = platform.settings
    model = candidate.fitted(settings, dataset.training_rows(platform, months))
    files = folder / feature_spec.FOLDER
    files.mkdir(parents=True)
    (files / feature_spec.ONNX_FILE).write_bytes(model.graph)
    spec = FeatureSpec.current(settings, interval=model.interval)
    (files / feature_spec.FILE).write_text(spec.to_json())
    model.holdout.to_parquet(folder / _HOLDOUT)
    taught, held = (
        part["pickup_datetime"].min().isoformat() for part in (model.train, model.holdout)
    )
    version = Version(
        number,
        "",
        evaluation.measures(model.fares, model.predicted),
        {"months": ",".join(months), TAUGHT_FROM: taught, HOLDOUT_FROM: held},
    )
    (folder / _MODEL).write_text(json.dumps(asdict(version)))
    (folder / _BASELINE).write_text(candidate.baseline(model).to_json())
    (folder / _EXPECTED).write_text(candidate.expected(model, settings).to_json())


def _judged(
    platform: Platform, champion: Judged, month: str, folder: Path, learned: month_report.Metered
) -> Judgement:
    """A month's trips scored by a model, and judged as `drift_report` judges them."""
    folder.mkdir(parents=True, exist_ok=True)
    stage = folder / "scored.part"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        _scored(platform, champion, month).write.parquet(str(stage))
        scored = platform.spark.read.parquet(str(stage))
        rows = platform.tables.rows("trips", [month])
        found = histograms.counted(scored, champion.baseline.bins, [month], rows)
        tables = month_report.measured(platform, champion, scored, found)
        audit = month_report.audited(champion, scored, month, learned)
        told = month_report.told_of(platform, champion, tables, audit)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    whole = performance.whole(tables[month_report.LIVE], month) or {"trips": 0}
    return Judgement(
        told.diagnosis.kinds,
        "none" if told.verdict.passed else told.verdict.severity,
        told.alarms,
        told.diagnosis.evidence,
        whole["trips"],
        *(whole.get(name) for name in ("mae", "expected", "in_range")),
    )


def _scored(platform: Platform, champion: Judged, month: str) -> DataFrame:
    asked = month_report.asked(platform, [month])
    fares = batch.with_predicted_fares(asked, champion.model)
    return asked.join(fares.select("trip_id", "predicted_fare"), "trip_id", "left")


def policies(name: str | None) -> tuple[str, ...]:
    """The policy of that name, or all.

    Raises:
        SettingsError: there is none.
    """
    if name is not None and name not in POLICIES:
        wanted = ", ".join(POLICIES)
        raise SettingsError("--policy must be a policy", repr(name), f"Use one of: {wanted}")
    return POLICIES if name is None else (name,)


def prepared(platform: Platform, months: Sequence[str]) -> tuple[str, ...]:
    """Those of the months that hold trips, with features as they should be.

    Raises:
        TableError: fewer than two do.
    """
    known = platform.tables.months("raw_trips")
    found = tuple(month for month in months if month in known)
    for step in (trips, pickup_features, dropoff_features) if found else ():
        step(platform, found)
    known = platform.tables.months("trips")
    found = tuple(month for month in found if month in known)
    if len(found) < 2:
        raise TableError(
            "A backtest needs two months of trips", ", ".join(found) or "none", "Bring months in"
        )
    return found


def render(history: Mapping[str, Sequence[Lived]]) -> str:
    """The page: error over months by policy with its alarms, what each cost, and every month."""
    months = [each.month for each in next(iter(history.values()))]
    sections: dict[str, Blocks] = {
        "Error as served": [Figures({"Mean absolute error, dollars": picture(history)})],
        "What each policy cost": [_costs(history)],
    }
    for policy, lived in history.items():
        rows = [
            (
                _unbroken(each.month),
                _unbroken(each.champion or "none yet"),
                " and ".join(each.judged.kinds),
                ", ".join(each.judged.alarms),
                ("promoted" if each.promoted else "refused") if each.trained else "",
                each.why,
                _unbroken(each.served_by or "none yet"),
                _dollars(each.served.mae),
                "" if each.served.in_range is None else f"{each.served.in_range:.0%}",
            )
            for each in lived
        ]
        names = ("month", "judged", "class", "in error", "trained", "why", "served by", "error")
        sections[f"Policy {policy}"] = [Table((*names, "in range"), rows)]
    lead = [
        Text(
            "Each month is served by the champion there was when it began; it is judged, and "
            "learned from, when it is published. Errors are those of served fares."
        )
    ]
    return page.render(f"Backtest, {months[0]} to {months[-1]}", sections, lead)


def totals(history: Mapping[str, Sequence[Lived]]) -> dict[str, tuple[int, int, float | None]]:
    """Policy → trainings, promotions, and the mean error as served over the trips of all months."""
    found = {}
    for policy, lived in history.items():
        served = [(x.served.trips, x.served.mae) for x in lived if x.served.mae is not None]
        count = sum(rows for rows, _ in served)
        error = sum(rows * mae for rows, mae in served) / count if count else None
        trained = sum(x.trained for x in lived)
        found[policy] = (trained, sum(x.promoted for x in lived), error)
    return found


def _costs(history: Mapping[str, Sequence[Lived]]) -> Table:
    rows = [
        (policy, _dollars(error), trained, promoted)
        for policy, (trained, promoted, error) in totals(history).items()
    ]
    return Table(("policy", "error served, dollars", "trainings", "promotions"), rows)


def _unbroken(month: str) -> str:
    """A month that no narrow cell breaks in two."""
    return month.replace("-", "\N{NON-BREAKING HYPHEN}")


def _dollars(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def picture(history: Mapping[str, Sequence[Lived]]) -> str:
    """The error as served over months, a line a policy, with the alarms of `drift`: SVG."""
    figure, axes = plots.axes_of("", "mean absolute error, dollars")
    months = [each.month for each in next(iter(history.values()))]
    for policy, lived in history.items():
        drawn = [(months.index(x.month), x.served.mae) for x in lived if x.served.mae is not None]
        if drawn:
            style = {"color": _COLORS[policy], "label": policy, "linewidth": 3 - len(policy) / 4}
            axes.plot(*zip(*drawn, strict=True), "o-", markersize=3, **style)
    alarms = [x for x in history.get(DRIFT, ()) if x.judged.severity == "error"]
    for x in alarms:
        axes.axvline(months.index(x.month), color=plots.GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            x.judged.kinds[0], (months.index(x.month), 0), rotation=90, fontsize=6, va="bottom"
        )
    axes.set_xticks(range(len(months)), months, rotation=60, fontsize=7)
    plots.from_zero(axes)
    axes.legend(frameon=False, fontsize=8)
    return plots.svg(figure)
