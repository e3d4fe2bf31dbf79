"""Which class a month gets, and whether a retrain helps."""

from __future__ import annotations

from typing import Literal

import pytest

from databricks_steps.interfaces import Verdict
from databricks_steps.monitoring import triage
from databricks_steps.monitoring.triage import Diagnosis, diagnosed

DAYS = [["2023-01-30", True], ["2023-01-31", True]]
WEEKS = [["week 1", False], ["week 2", True]]
Level = Literal["ok", "warn", "error"]


def verdict(check: str, level: Level, windows: list[list[object]] | None = None) -> Verdict:
    severity: Literal["warn", "error"] = "warn" if level == "warn" else "error"
    figures = {"windows": windows} if windows else {}
    return Verdict(check, level == "ok", f"{check} is {level}", figures, severity)


def month(
    trips: Level = "ok", schema: Level = "ok", drift: Level = "ok", error: Level = "ok"
) -> Diagnosis:
    return diagnosed(
        "2023-01",
        "3",
        [verdict("quarantine_rate", trips), verdict("missing_values", "ok")],
        verdict("source_schema", schema),
        {
            "pickup_features": verdict("drift", "ok"),
            "batch_predictions": verdict("prediction_drift", drift, WEEKS),
        },
        verdict("live_error", error, DAYS),
    )


def test_a_quiet_month_has_no_class() -> None:
    found = month()
    assert found == Diagnosis("none", ("all checks passed",), "2023-01", "3")
    assert not found.retrain


@pytest.mark.parametrize(
    ("levels", "kind", "retrain"),
    [
        ({"trips": "error", "drift": "error", "error": "error"}, "data problem", False),
        ({"error": "error", "drift": "error", "schema": "warn"}, "concept drift", True),
        ({"error": "error"}, "concept drift", True),
        ({"drift": "error", "schema": "warn"}, "covariate drift", True),
        ({"drift": "error", "error": "warn"}, "covariate drift", True),
        ({"schema": "warn", "drift": "warn"}, "upstream schema change", False),
        ({"trips": "warn", "drift": "warn", "error": "warn"}, "none", False),
    ],
)
def test_the_first_class_that_is_in_error_wins(
    levels: dict[str, Level], kind: str, retrain: bool
) -> None:
    found = month(**levels)
    assert (found.kind, found.retrain) == (kind, retrain)
    assert found.kind in triage.REMEDIES


def test_everything_that_failed_is_evidence_and_the_windows_are_those_of_the_class() -> None:
    concept = month(error="error", drift="error", schema="warn")
    assert concept.evidence == (
        "source_schema: source_schema is warn",
        "prediction_drift: prediction_drift is error",
        "live_error: live_error is error",
    )
    assert concept.windows == (("2023-01-30", True), ("2023-01-31", True))
    covariate = month(drift="error")
    assert covariate.windows == (("week 1", False), ("week 2", True))
    assert covariate.to_json() == {
        "kind": "covariate drift",
        "evidence": ("prediction_drift: prediction_drift is error",),
        "month": "2023-01",
        "model_version": "3",
        "windows": [["week 1", False], ["week 2", True]],
    }
    assert month(trips="error", error="error").windows == ()


def test_every_class_has_a_remedy() -> None:
    assert set(triage.REMEDIES) == set(triage.KINDS)
