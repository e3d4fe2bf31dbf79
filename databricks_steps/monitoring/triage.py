"""What a month that looks unusual suffers from, by the evidence, and whether a retrain helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from databricks_steps.interfaces import Severity, Verdict

NONE = "none"
DATA = "data problem"
SCHEMA = "upstream schema change"
COVARIATE = "covariate drift"
CONCEPT = "concept drift"
KINDS = (DATA, CONCEPT, COVARIATE, SCHEMA, NONE)  # as they are asked: the first that holds wins
RETRAIN = frozenset({COVARIATE, CONCEPT})

REMEDIES = {
    NONE: "Nothing to do",
    DATA: "Look at quarantined_trips and the source; do not train on this month",
    SCHEMA: "Compare the publisher's dictionary; map a column of use in column_mapping.py",
    COVARIATE: "Retrain: the trips differ from those the champion learned from",
    CONCEPT: "Retrain: the same trips cost another fare than the champion learned",
}


@dataclass(frozen=True)
class Diagnosis:
    """The class of a month, and the sentences that speak for it.

    `windows`: (day or week, whether it was over its limit), oldest first.
    """

    kind: str
    evidence: tuple[str, ...]
    month: str
    model_version: str
    windows: tuple[tuple[str, bool], ...] = ()

    @property
    def retrain(self) -> bool:
        """Whether learning from the month can help."""
        return self.kind in RETRAIN

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values, for Dagster's metadata."""
        return asdict(self) | {"windows": [list(window) for window in self.windows]}


def diagnosed(
    month: str,
    model_version: str,
    trips: Sequence[Verdict],
    schema: Verdict,
    drift: Mapping[str, Verdict],
    error: Verdict,
) -> Diagnosis:
    """The class of a month, from its checks.

    `trips` are the verdicts on the trips themselves (quarantined share, missing values and
    zones), `drift` those on inputs and predictions by asset, `error` the one on the live error.
    Only what is in error makes a class, but for `schema`, which has no worse than a warning;
    what merely warns is evidence.
    """
    failed = [v for v in (*trips, schema, *drift.values(), error) if not v.passed]
    kind = NONE
    if any(_is_error(v) for v in trips):
        kind = DATA
    elif _is_error(error):
        kind = CONCEPT
    elif any(_is_error(v) for v in drift.values()):
        kind = COVARIATE
    elif not schema.passed:
        kind = SCHEMA
    told = tuple(f"{v.check}: {v.reason}" for v in failed)
    speaking = [error] if kind == CONCEPT else list(drift.values()) if kind == COVARIATE else []
    windows: tuple[tuple[str, bool], ...] = ()
    for verdict in speaking:
        if _is_error(verdict):
            judged = verdict.figures.get("windows", ())
            windows = tuple((label, bool(over)) for label, over in judged)
            break
    return Diagnosis(kind, told or ("all checks passed",), month, model_version, windows)


def verdict(diagnosis: Diagnosis, told: Sequence[Verdict]) -> Verdict:
    """One sentence for the month: its class and evidence. It fails where one of `told` does.

    People are told this one, not each of `told`, for those have one cause.
    """
    failed = [each for each in told if not each.passed]
    what = "something is over a limit" if diagnosis.kind == NONE else diagnosis.kind
    sentence = f"{diagnosis.month}, version {diagnosis.model_version}: "
    sentence += f"{what}. {'; '.join(diagnosis.evidence)}" if failed else "nothing of note"
    severity: Severity = "error" if any(_is_error(each) for each in failed) else "warn"
    return Verdict("triage", not failed, sentence, {"class": diagnosis.kind}, severity)


def _is_error(verdict: Verdict) -> bool:
    return not verdict.passed and verdict.severity == "error"
