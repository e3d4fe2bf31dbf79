"""Every step: its function, the tables it reads, the tables it writes; the same on any platform."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

from databricks_steps import distributions, fingerprint, incremental, schemas
from databricks_steps.check_cache import CheckCache
from databricks_steps.errors import TableError
from databricks_steps.features import (
    dropoff,
    leakage_checks,
    lookups,
    pickup,
    point_in_time,
    windows,
)
from databricks_steps.features import request as request_features
from databricks_steps.features.lookups import Lookup
from databricks_steps.inference import batch, scorer
from databricks_steps.interfaces import Outcome, Platform, Verdict
from databricks_steps.monitoring import month_report, payloads
from databricks_steps.months import shift, start, trailing, with_months_before
from databricks_steps.training import (
    candidate,
    dataset,
    expected_error,
    feature_ages,
    fit,
    intervals,
    lineage,
    onnx_graph,
    promotion,
    promotion_gate,
    registry,
    tariff,
)
from databricks_steps.training.leakage_checks import featured, no_label_leak
from databricks_steps.trips import ingest, kinds, zones

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_LOG = logging.getLogger(__name__)
Months = Sequence[str] | None
# By name: they bring scikit-learn.
_ESTIMATORS = tuple(f"databricks_steps.training.{n}" for n in ("metered", "boosting"))


def raw_trips(platform: Platform, months: Months, force: bool = False) -> tuple[Outcome, ...]:
    return ingest.raw_trips(platform, months, force=force)


def trips(platform: Platform, months: Months, force: bool = False) -> tuple[Outcome, ...]:
    return ingest.trips(platform, months, force)


def pickup_features(platform: Platform, months: Months, force: bool = False) -> tuple[Outcome, ...]:
    return _features(platform, schemas.PICKUP_FEATURES, pickup, months, force)


def dropoff_features(
    platform: Platform, months: Months, force: bool = False
) -> tuple[Outcome, ...]:
    return _features(platform, schemas.DROPOFF_FEATURES, dropoff, months, force)


def training_set(platform: Platform, months: Months, force: bool = False) -> tuple[Outcome, ...]:
    """The trailing months up to the last of `months`, with features looked up point in time."""
    settings, tables = platform.settings, platform.tables
    chosen = training_months(platform, months)
    made_from = fingerprint.digest(
        tables.contents("trips", chosen),
        *_lookup_inputs(platform, chosen),
        settings.holdout_share,
        fingerprint.code(dataset, kinds, tariff),
    )
    commit = None
    if force or tables.made_from("training_set") != made_from:
        read = ("trips", *(x.table.name for x in lookups.LOOKUPS))
        for name in read:
            _require(platform, name)
        versions = {name: tables.version(name) or 0 for name in read}
        rows = dataset.training_rows(platform, chosen, versions)
        commit = tables.replace("training_set", rows, made_from={"": made_from}, sources=versions)
    figures = {
        "months": list(chosen),
        "skipped": commit is None,
        "source_versions": tables.sources("training_set"),
    }
    return (Outcome("training_set", tables.rows("training_set"), figures, commit),)


def fare_model(platform: Platform, months: Months, force: bool = False) -> tuple[Outcome, ...]:
    """A candidate version; the one at hand when inputs, parameters and code are the same."""
    settings, tables = platform.settings, platform.tables
    chosen = training_months(platform, months)
    _require(platform, "training_set")
    made_from = fingerprint.digest(
        tables.made_from("training_set"),
        settings.estimator,
        settings.gate,
        settings.interval,
        settings.feature_delay_days,
        fingerprint.code(
            *(candidate, dataset, distributions, expected_error, feature_ages, fit, intervals),
            *(onnx_graph, promotion_gate, scorer, zones, *_ESTIMATORS),
        ),
        *registry.requirements(),
    )
    found = None if force else registry.made_from(settings, made_from)
    if found is not None:
        model = candidate.known(settings, found, lambda: tables.read("training_set"))
    else:
        lookback = timedelta(days=settings.lookback_days)
        _LOG.info("proves that no label leaks")
        leak = no_label_leak(
            tables.read("trips", chosen),
            lambda trips: featured(trips, chosen, lookback),
            settings.holdout_share,
        )
        ingredients = lineage.current(settings, chosen, tables.sources("training_set"))
        with platform.tracked_run():
            rows = tables.read("training_set")
            model = candidate.train(platform, rows, str(made_from), ingredients, (leak,))
    registry.point(settings, registry.CANDIDATE, model.version.number)
    figures = {
        **model.figures,
        "model_version": model.version.number,
        "mlflow_run_id": model.version.run_id,
        "passport": model.passport,
        "skipped": found is not None,
    }
    rows_used = int(model.figures.get("train_rows", 0))
    drawn = {"": model.pictures}
    return (Outcome("fare_model", rows_used, figures, verdicts=model.verdicts, pictures=drawn),)


def champion_model(platform: Platform, months: Months, force: bool = False) -> tuple[Outcome, ...]:
    """The alias `champion` on the candidate, when its checks passed; written in the ledger."""
    moved = promotion.promote(platform.settings, platform.tables, platform.user())
    figures = {
        "model": platform.settings.registered_model,
        "model_version": moved.after,
        "previous_version": moved.before or "none",
        "why": moved.why,
        "ledger": platform.tables.uri(schemas.DEPLOYMENTS.name),
    }
    return (Outcome("champion_model", 0, figures),)


def batch_predictions(
    platform: Platform, months: Months, force: bool = False
) -> tuple[Outcome, ...]:
    """Fares of the months' trips (default: the latest month) by the champion."""
    settings, tables = platform.settings, platform.tables
    chosen = list(months or _trip_months(platform)[-1:])
    champion = registry.require(settings, registry.CHAMPION)
    by = (champion.number, fingerprint.code(batch))
    inputs = (*by, *_lookup_inputs(platform, chosen))
    digests = {m: fingerprint.digest(tables.contents("trips", [m]), *inputs) for m in chosen}
    plan = incremental.plan(tables, ["batch_predictions"], digests, force)
    commit = None
    if stale := plan.stale:
        scored = batch.with_predicted_fares(
            request_features.with_request_features(_as_served(platform, stale)),
            registry.folder(settings, champion.number),
        )
        # All of the months, so that fares of trips that a correction took away go with them.
        by_others = tables.read("batch_predictions", stale).where(
            f"model_version <> '{champion.number}'"
        )
        commit = tables.merge(
            "batch_predictions",
            batch.predictions(scored, champion.number).unionByName(by_others),
            stale,
            plan.made_from,
        )

    def measure(months: Sequence[str]) -> dict[str, dict[str, Any]]:
        by_champion = tables.read("batch_predictions", months).where(
            f"model_version = '{champion.number}'"
        )
        return batch.month_figures(by_champion, months)

    measured = CheckCache(settings, "batch_predictions", force).measured(
        "months",
        {m: fingerprint.digest(*by, tables.contents("batch_predictions", [m])) for m in chosen},
        measure,
        lambda figures: not figures["bad"],
    )
    predicted = sum(each["rows"] for each in measured.values())
    verdicts = (
        batch.rows_conserved(tables.rows("trips", chosen), predicted),
        batch.no_null_predictions(text for each in measured.values() for text in each["bad"]),
    )
    figures = {
        **plan.figures,
        "rows_by_month": {month: each["rows"] for month, each in measured.items()},
        "model_version": champion.number,
    }
    return (Outcome("batch_predictions", predicted, figures, commit, verdicts),)


def endpoint_payloads(
    platform: Platform, months: Months, force: bool = False
) -> tuple[Outcome, ...]:
    """Every captured request as rows; of any month, for a run's months are months of trips."""
    return payloads.endpoint_payloads(platform, None, force)


def drift_report(platform: Platform, months: Months, force: bool = False) -> tuple[Outcome, ...]:
    """The champion on the months' trips (default: the latest month): drift, live error, class."""
    chosen = list(months or _trip_months(platform)[-1:])
    return month_report.drift_report(platform, chosen, _lookup_inputs(platform, chosen), force)


def training_months(platform: Platform, months: Months) -> tuple[str, ...]:
    """The trailing months that hold trips, up to the last of `months` or of all."""
    held = _trip_months(platform)
    return trailing(held, max(months) if months else held[-1], platform.settings.trailing_months)


def _trip_months(platform: Platform) -> list[str]:
    held = platform.tables.months("trips")
    if not held:
        raise TableError("Trips are needed", "the table trips is empty", "Ingest a month first")
    return held


def _require(platform: Platform, name: str) -> None:
    if not platform.tables.rows(name):
        raise TableError(f"{name} is needed", "it holds no rows", "Run without --skip-features")


def _as_served(platform: Platform, months: Sequence[str]) -> DataFrame:
    """Trips as rides are asked for: with features as old as then, no trip type told."""
    settings = platform.settings
    trips = platform.tables.read("trips", months).drop(request_features.TRIP_TYPE)
    if not settings.features_are_served:
        return point_in_time.with_defaults(trips, lookups.LOOKUPS)
    return platform.features.look_up(trips, lookups.delayed(settings.lookup_delay), months)


def _lookup_inputs(
    platform: Platform, months: Sequence[str], chosen: Sequence[Lookup] = lookups.LOOKUPS
) -> list[object]:
    """Everything that what the months' trips look up depends on, but for the trips."""
    lookback = platform.settings.lookback_days
    read = with_months_before(months, timedelta(days=lookback))
    return [
        *(platform.tables.contents(x.table.name, read) for x in chosen),
        *(x.defaults for x in chosen),
        lookback,
        platform.settings.feature_delay_days,
        fingerprint.code(point_in_time, request_features, lookups, windows),
    ]


def _features(
    platform: Platform, table: schemas.Table, module: ModuleType, months: Months, force: bool
) -> tuple[Outcome, ...]:
    """Merge the months whose trips, or the code, changed since they were last computed."""
    tables = platform.tables
    # A month whose trips are all gone still has rows to lose; one of no valid trip was made, too.
    held = {*tables.months("trips"), *tables.months(table.name)}
    held |= {month for month in months or () if tables.made_from("trips", month)}
    chosen = [month for month in sorted(held) if months is None or month in months]
    if not chosen:
        wanted = ", ".join(months or ()) or "any month"
        raise TableError(f"{table.name} needs trips", f"none in {wanted}", "Ingest the month first")
    source = fingerprint.code(module, windows)

    def digest(month: str) -> int:
        read = with_months_before([month], windows.REACH)
        return fingerprint.digest(tables.contents("trips", read), source)

    plan = incremental.plan(tables, [table.name], {m: digest(m) for m in chosen}, force)
    commit = None
    if stale := plan.stale:
        read = tables.read("trips", with_months_before(stale, windows.REACH))
        computed = getattr(module, table.name)(read, stale)
        commit = tables.merge(table.name, computed, stale, plan.made_from)
    before = {shift(month, -1) for month in chosen}.intersection(held)
    old = incremental.plan(tables, [table.name], {m: digest(m) for m in before}).stale
    verdicts = _features_judged(platform, table, chosen, old, force)
    rows = tables.rows(table.name, chosen)
    return (Outcome(table.name, rows, plan.figures, commit, verdicts),)


def _features_judged(
    platform: Platform, table: schemas.Table, months: Sequence[str], old: Sequence[str], force: bool
) -> tuple[Verdict, Verdict]:
    """Whether the months' keys are unique, and no lookup knows the future."""
    tables, lookup = platform.tables, lookups.of(table)
    cache = CheckCache(platform.settings, table.name, force)
    code = fingerprint.code(leakage_checks, sys.modules[type(platform.features).__module__])

    def keys(stale: Sequence[str]) -> dict[str, dict[str, Any]]:
        bad = leakage_checks.bad_keys(tables.read(table.name, stale), table)
        return {month: {"bad": bad.get(month, [])} for month in stale}

    def compared(stale: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = leakage_checks.compared(
            {month: _asked(platform, month, old) for month in stale},
            tables.read("trips", with_months_before(stale, windows.REACH)),
            lookup,
            lambda sample: platform.features.look_up(sample, [lookup], stale),
        )
        return {month: found.get(month, leakage_checks.nothing_compared()) for month in stale}

    contents = {m: fingerprint.digest(code, tables.contents(table.name, [m])) for m in months}
    looked_up = {
        m: fingerprint.digest(
            code,
            shift(m, -1) in old,
            tables.contents("trips", with_months_before([m], windows.REACH)),
            *_lookup_inputs(platform, [m], [lookup]),
        )
        for m in months
    }
    unique = cache.measured("key_unique", contents, keys, lambda figures: not figures["bad"])
    honest = cache.measured(
        "no_future_knowledge", looked_up, compared, lambda figures: not figures["wrong"]
    )
    return (
        leakage_checks.key_unique(text for each in unique.values() for text in each["bad"]),
        leakage_checks.no_future_knowledge(honest.values()),
    )


def _asked(platform: Platform, month: str, old: Sequence[str]) -> DataFrame:
    """Trips of the month whose lookups read nothing but rows that are up to date.

    Where the month before still has to be computed, the first trips would find its rows absent
    or old: that is for its own run to mend, and no leak.
    """
    from pyspark.sql import functions as F

    trips = platform.tables.read("trips", [month])
    if shift(month, -1) not in old:
        return trips
    first = start(month) + timedelta(days=platform.settings.lookback_days)
    return trips.where(F.col("pickup_datetime") >= windows.instant(first))


@dataclass(frozen=True)
class Step:
    """One step: its function, and the tables (or models) it reads and writes."""

    run: Callable[[Platform, Months, bool], tuple[Outcome, ...]]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


STEPS: dict[str, Step] = {
    "raw_trips": Step(raw_trips, (), ("raw_trips", "arrivals")),
    "trips": Step(trips, ("raw_trips",), ("trips", "quarantined_trips")),
    "pickup_features": Step(pickup_features, ("trips",), ("pickup_features",)),
    "dropoff_features": Step(dropoff_features, ("trips",), ("dropoff_features",)),
    "training_set": Step(
        training_set, ("trips", "pickup_features", "dropoff_features"), ("training_set",)
    ),
    "fare_model": Step(fare_model, ("training_set", "trips"), ("fare_model",)),
    "champion_model": Step(champion_model, ("fare_model",), ("champion_model",)),
    "batch_predictions": Step(
        batch_predictions,
        ("trips", "pickup_features", "dropoff_features", "champion_model"),
        ("batch_predictions",),
    ),
    "endpoint_payloads": Step(endpoint_payloads, ("serving_endpoint",), ("endpoint_payloads",)),
    "drift_report": Step(
        drift_report,
        ("trips", "pickup_features", "dropoff_features", "batch_predictions", "endpoint_payloads"),
        ("drift_report", "live_performance"),
    ),
}
