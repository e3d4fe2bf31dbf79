"""What a month that looks unusual suffers from, by the evidence, and whether a retrain helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from databricks_steps.interfaces import Severity, Verdict
from databricks_steps.trips.kinds import BLOCK

NONE = "none"
DATA = "data problem"
SCHEMA = "upstream schema change"
COVARIATE = "covariate drift"
CONCEPT = "concept drift"
KINDS = (DATA, CONCEPT, COVARIATE, SCHEMA, NONE)  # the worst first: it decides the action
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
    """The classes of a month, the worst first, and the sentences that speak for them."""

    kinds: tuple[str, ...]
    evidence: tuple[str, ...]
    month: str
    model_version: str

    @property
    def kind(self) -> str:
        """The worst class: the one that decides."""
        return self.kinds[0]

    @property
    def retrain(self) -> bool:
        """Whether learning from the month can help."""
        return self.kind in RETRAIN

    def to_json(self) -> dict[str, Any]:
        """The diagnosis as plain values, for Dagster's metadata."""
        return {"kind": self.kind} | asdict(self)


@dataclass(frozen=True)
class Checks:
    """The verdicts on a month that its classes follow from.

    `trips`: on the trips themselves (quarantined share, by vendor, missing values and zones);
    `drift`: asset → inputs and predictions; `mix`: what the mix of trips alone costs; `error`: the
    live error; `carrier`: it fails where one vendor or block carries the error; `metered`: it
    fails where the error of metered trips rose by more than slower traffic explains.
    """

    trips: Sequence[Verdict]
    schema: Verdict
    drift: Mapping[str, Verdict]
    mix: Verdict
    error: Verdict
    carrier: Verdict
    tariff: Verdict
    metered: Verdict

    @property
    def all(self) -> tuple[Verdict, ...]:
        return (
            *(*self.trips, self.schema, *self.drift.values(), self.mix),
            *(self.error, self.carrier, self.tariff, self.metered),
        )


def diagnosed(month: str, model_version: str, checks: Checks) -> Diagnosis:
    """The classes of a month, from its checks.

    Only what is in error makes a class, but for `schema`, which has no worse than a warning;
    what merely warns is evidence. An error that one vendor or block carries is a fault of the
    data, one that is neither that nor another fare is the trips'.
    """
    moved = any(map(is_error, (*checks.drift.values(), checks.mix)))
    # Rows without columns are a fault of the data where they err and all else is as it was; where
    # trips are others anyway, so are these.
    one = checks.carrier.figures.get("alone", "")
    alone = is_error(checks.error) and bool(one) and not (moved and one == f"kind {BLOCK}")
    rises = is_error(checks.error) and not alone
    metered = rises and not checks.metered.passed
    holds = {
        DATA: alone or any(map(is_error, checks.trips)),
        CONCEPT: is_error(checks.tariff) or metered,
        COVARIATE: moved or (rises and not metered and checks.tariff.passed),
        SCHEMA: not checks.schema.passed,
    }
    kinds = tuple(kind for kind in KINDS if holds.get(kind)) or (NONE,)
    told = tuple(f"{v.check}: {v.reason}" for v in checks.all if not v.passed)
    return Diagnosis(kinds, told or ("all checks passed",), month, model_version)


def verdict(diagnosis: Diagnosis, checks: Checks) -> Verdict:
    """One sentence for the month: its classes and evidence. It fails where a check of drift,
    error, tariff or missing values does.

    People are told this one, not each of the checks, for those have one cause.
    """
    apart = {checks.schema.check, "quarantine_rate"}  # which people are told by themselves
    told = [v for v in checks.all if not v.passed and (v.check not in apart or is_error(v))]
    what = " and ".join(kind for kind in diagnosis.kinds if kind != NONE)
    sentence = f"{diagnosis.month}, version {diagnosis.model_version}: "
    what = what or "something is over a limit"
    sentence += f"{what}. {'; '.join(diagnosis.evidence)}" if told else "nothing of note"
    severity: Severity = "error" if any(map(is_error, told)) else "warn"
    figures = {"class": diagnosis.kind, "classes": list(diagnosis.kinds)}
    return Verdict("triage", not told, sentence, figures, severity)


def is_error(verdict: Verdict) -> bool:
    return not verdict.passed and verdict.severity == "error"
