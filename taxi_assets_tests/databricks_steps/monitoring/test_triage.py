"""Which classes a month gets, and whether a retrain helps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from databricks_steps.interfaces import Verdict
from databricks_steps.monitoring import error_source, performance, triage
from databricks_steps.monitoring.triage import Checks, Diagnosis, diagnosed
from databricks_steps.training.expected_error import Errors, ExpectedError
from databricks_steps.training.registry import Version
from databricks_steps.training.tariff import Audit, Tariff

Level = Literal["ok", "warn", "error"]


def verdict(check: str, level: Level, **figures: Any) -> Verdict:
    severity: Literal["warn", "error"] = "warn" if level == "warn" else "error"
    return Verdict(check, level == "ok", f"{check} is {level}", figures, severity)


def checks(
    trips: Level = "ok",
    vendors: Level = "ok",
    schema: Level = "ok",
    drift: Level = "ok",
    mix: Level = "ok",
    error: Level = "ok",
    alone: str = "",
    tariff: Level = "ok",
    metered: Level = "ok",
) -> Checks:
    return Checks(
        [verdict("quarantine_rate", trips), verdict("vendors", vendors)],
        verdict("source_schema", schema),
        {
            "pickup_features": verdict("drift", "ok"),
            "batch_predictions": verdict("prediction_drift", drift),
        },
        verdict("mix", mix),
        verdict("live_error", error),
        verdict("error_source", "warn" if alone else "ok", alone=alone),
        verdict("tariff", tariff),
        verdict("metered_error", metered),
    )


def month(**levels: Any) -> Diagnosis:
    return diagnosed("2023-01", "3", checks(**levels))


def test_a_quiet_month_has_no_class() -> None:
    found = month()
    assert found == Diagnosis(("none",), ("all checks passed",), "2023-01", "3")
    assert not found.retrain
    assert found.to_json() == {
        "kind": "none",
        "kinds": ("none",),
        "evidence": ("all checks passed",),
        "month": "2023-01",
        "model_version": "3",
    }


DATA, CONCEPT, COVARIATE = "data problem", "concept drift", "covariate drift"
SCHEMA = "upstream schema change"


@pytest.mark.parametrize(
    ("levels", "kinds", "retrain"),
    [
        ({"tariff": "error"}, [CONCEPT], True),
        ({"error": "error", "tariff": "error"}, [CONCEPT], True),
        ({"error": "error", "metered": "warn"}, [CONCEPT], True),
        ({"metered": "warn"}, ["none"], False),
        ({"error": "error"}, [COVARIATE], True),
        ({"error": "warn"}, ["none"], False),
        ({"mix": "error"}, [COVARIATE], True),
        ({"drift": "error", "error": "warn", "schema": "warn"}, [COVARIATE, SCHEMA], True),
        ({"error": "error", "alone": "vendor 6"}, [DATA], False),
        ({"error": "error", "alone": "kind block"}, [DATA], False),
        ({"error": "error", "alone": "kind block", "mix": "error"}, [COVARIATE], True),
        ({"error": "error", "alone": "vendor 6", "mix": "error"}, [DATA, COVARIATE], False),
        ({"error": "warn", "alone": "vendor 6"}, ["none"], False),
        ({"vendors": "error", "tariff": "error", "schema": "warn"}, [DATA, CONCEPT, SCHEMA], False),
        ({"trips": "error"}, [DATA], False),
        ({"schema": "warn", "drift": "warn"}, [SCHEMA], False),
        ({"trips": "warn", "drift": "warn", "error": "warn"}, ["none"], False),
    ],
)
def test_classes_are_told_together_and_the_worst_decides(
    levels: dict[str, Any], kinds: list[str], retrain: bool
) -> None:
    found = month(**levels)
    assert (list(found.kinds), found.kind, found.retrain) == (kinds, kinds[0], retrain)
    assert found.kind in triage.REMEDIES


def test_people_are_told_one_sentence_with_all_that_failed() -> None:
    given = checks(tariff="error", drift="error", schema="warn", trips="warn")
    told = triage.verdict(diagnosed("2023-01", "3", given), given)
    assert (told.passed, told.severity) == (False, "error")
    assert told.reason == (
        "2023-01, version 3: concept drift and covariate drift and upstream schema change. "
        "quarantine_rate: quarantine_rate is warn; source_schema: source_schema is warn; "
        "prediction_drift: prediction_drift is error; tariff: tariff is error"
    )
    for quiet in ({"schema": "warn"}, {"trips": "warn"}, {}):
        given = checks(**quiet)  # type: ignore[arg-type]
        assert triage.verdict(diagnosed("2023-01", "3", given), given).passed


def test_every_class_has_a_remedy() -> None:
    assert set(triage.REMEDIES) == set(triage.KINDS)


def row(name: str, trips: int, mae: float, expected: float, level: str = "ok") -> dict[str, Any]:
    key = {"trip_month": "2023-01", "day": "all", "slice": name, "predictions": "batch"}
    figures = {"trips": trips, "mae": mae, "expected": expected, "rmse": 2 * mae}
    return {**key, "model_version": "3", "coverage": 1.0, **figures, "level": level}


@pytest.mark.parametrize(
    ("level", "own", "alone"),
    [("error", 8.0, "vendor 6"), ("ok", 8.0, ""), ("error", 1.4, ""), ("warn", 8.0, "vendor 6")],
)
def test_one_vendor_that_carries_the_error_is_named(level: str, own: float, alone: str) -> None:
    rest = 900 * 1.05
    rows = [
        row("all", 1_000, (rest + 100 * own) / 1_000, 1.0, level),
        row("vendor 6", 100, own, 1.0, "few"),
        row("vendor 2", 900, 1.05, 1.0),
        row("kind metered", 1_000, 1.0, 1.0),
    ]
    told = error_source.carrier(rows, "2023-01")
    assert (told.passed, told.figures.get("alone", "")) == (not alone, alone)
    if level != "ok" and own == 8.0:
        (found,) = performance.carriers(rows, "2023-01")
        assert (found.name, found.trips) == ("vendor 6", 0.1)
        assert found.growth == pytest.approx(70 / 74.5)
        assert found.rest == pytest.approx(1.05)
    assert error_source.carrier([], "2023-01").passed


def audit(**figures: float) -> Audit:
    tariff = Tariff(3.0, 2.5, 0.5, 0.4, 0.7, 0.99, 900)
    return Audit("2023-01", "2022-12", tariff, tariff, **figures)  # type: ignore[arg-type]


def test_an_error_that_slower_traffic_explains_is_a_warning() -> None:
    rows = [row("all", 1_000, 1.3, 1.0, "error"), row("kind metered", 900, 1.3, 1.0, "error")]
    error = performance.verdict(rows, Version("3", ""))
    assert (error.passed, error.severity) == (False, "error")
    slow = audit(slower=0.1, error=1.3, in_traffic=1.1)
    told = error_source.in_traffic(error, rows, slow)
    assert (told.passed, told.severity) == (False, "warn")
    assert told.reason.endswith("metered trips take +10%, without which the error were +12%")
    assert error_source.metered(rows, slow).passed
    for other in (
        audit(slower=0.1, error=1.3, in_traffic=1.29),
        audit(level=0.33, slower=0.1, error=1.3, in_traffic=1.1),
        Audit("2023-01", "2022-12"),
        replace(slow, month="2023-02"),
    ):
        assert error_source.in_traffic(error, rows, other) is error
    far = [row("all", 1_000, 1.36, 1.0, "error"), row("kind metered", 900, 1.36, 1.0, "error")]
    assert error_source.in_traffic(error, far, slow) is error  # beyond any season
    for by_before, passed in ((0.5, True), (0.7, False)):  # of 0.4 on its own month
        told = error_source.metered(rows, audit(by_before=by_before, error=1.3, in_traffic=1.29))
        assert told.passed == passed


@pytest.mark.parametrize(
    ("expected", "level"), [(1.1, "ok"), (1.2, "warn"), (1.3, "error"), (0.5, "ok")]
)
def test_a_mix_that_is_harder_to_meet_is_told(expected: float, level: str) -> None:
    usual = ExpectedError({(): Errors(1_000, 1_000.0)})
    told = error_source.mix([row("all", 1_000, 1.0, expected)], "2023-01", usual)
    assert (told.passed, told.severity) == (level == "ok", "error" if level == "error" else "warn")
    assert error_source.mix([], "2023-01", usual).passed
