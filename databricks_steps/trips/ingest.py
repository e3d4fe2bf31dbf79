"""The steps `raw_trips` and `trips`: what changed is replaced month by month, the rest skipped.

A month holds exactly what its source holds; demo and real trips never stand side by side.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from databricks_steps import fingerprint, incremental, schemas
from databricks_steps.check_cache import CheckCache
from databricks_steps.errors import SourceError, TableError
from databricks_steps.incremental import Plan
from databricks_steps.interfaces import Commit, Outcome, Platform, Tables, Verdict
from databricks_steps.plots import SHARED_PLOTS
from databricks_steps.trips import (
    arrivals,
    demo,
    file_index,
    limits,
    normalize,
    plots,
    quality_checks,
    reading,
    sources,
    validation_rules,
)
from databricks_steps.trips.recognition import COPY_AGAIN

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

RAW, VALID, QUARANTINED = "raw_trips", "trips", "quarantined_trips"
ARRIVALS = arrivals.NAME
DEMO, REAL = "demo", "real"
_EMPTIED = 0  # what an emptied month was made from: nothing


def raw_trips(
    platform: Platform,
    months: Sequence[str] | None,
    source: str | None = None,
    force: bool = False,
) -> tuple[Outcome, ...]:
    """The months (default: all) of the source, as published; months at hand are skipped.

    What became of every entry of the source is written to the ledger of arrivals, in any case.

    Raises:
        SourceError: the source cannot be read, lacks a month, or would mix demo with real trips.
    """
    text = source or platform.settings.source
    tables = platform.tables
    found = sources.looked_at(text, months, platform.settings, lambda: platform.spark)
    emptied: list[str] = []
    skipped, commit = list(found.months), None
    try:
        sources.require_months(found, months)
        left = arrivals.left_behind(tables.records(ARRIVALS), found)
        if planned(tables, found, force).stale or left:
            emptied = _demo_months(platform, found)
            _empty(tables, [*emptied, *left])
            found, skipped, commit = _replaced(platform, found, [*emptied, *left], force)
    finally:
        ledger = recorded(tables, found)
    figures = {
        "source": text,
        "rows_by_month": {month: tables.rows(RAW, [month]) for month in found.months},
        "files": [file.name for file in found.chosen],
        "refused_files": {file.name: file.problem for file in found.refused},
        "skipped_months": skipped,
        "emptied_demo_months": emptied,
    }
    rows = tables.rows(RAW, found.months)
    cache = CheckCache(platform.settings, RAW, force)
    verdicts = (
        quality_checks.source_schema(tables, found.months, cache, found.chosen),
        arrivals.readable(found),
    )
    entries = arrivals.counts(tables.records(ARRIVALS))
    return (
        Outcome(RAW, rows, figures, commit or _unchanged(tables, RAW), verdicts),
        Outcome(
            ARRIVALS,
            tables.rows(ARRIVALS),
            {"source": text, "entries": entries, "skipped": ledger is None},
            ledger or _unchanged(tables, ARRIVALS),
        ),
    )


def recorded(tables: Tables, found: sources.Source) -> Commit | None:
    """Write the ledger of a source; None where it says so already."""
    every = replace(found, months=tuple(sorted({m for file in found.files for m in file.months})))
    return arrivals.record(tables, found, planned(tables, every).stale)


def trips(
    platform: Platform, months: Sequence[str] | None, force: bool = False
) -> tuple[Outcome, Outcome]:
    """Valid and quarantined trips of the months (default: all); months up to date are skipped.

    Raises:
        TableError: none of the months has been ingested.
    """
    tables = platform.tables
    chosen = _ingested(tables, months)
    code = fingerprint.code(validation_rules, limits)
    digests = {m: fingerprint.digest(tables.contents(RAW, [m]), code) for m in chosen}
    plan = incremental.plan(tables, (VALID, QUARANTINED), digests, force)
    commits = {name: _unchanged(tables, name) for name in (VALID, QUARANTINED)}
    if stale := plan.stale:
        checked = validation_rules.with_broken_rules(tables.read(RAW, stale))
        quarantined = validation_rules.quarantined_trips(checked)
        commits[QUARANTINED] = tables.replace(QUARANTINED, quarantined, stale, plan.made_from)
        valid = validation_rules.valid_trips(checked)
        commits[VALID] = tables.replace(VALID, valid, stale, plan.made_from)
    outcomes = {
        name: Outcome(
            name,
            tables.rows(name, chosen),
            {"rows_by_month": {m: tables.rows(name, [m]) for m in chosen}} | plan.figures,
            commits[name],
        )
        for name in (VALID, QUARANTINED)
    }
    measured = _month_figures(platform, chosen, force)
    verdicts = (
        rows_conserved(tables, chosen),
        schema_contract(measured),
        quality_checks.quarantine_rate(
            tables, chosen, rules={m: each["rules"] for m, each in measured.items()}
        ),
        quality_checks.volume(tables, chosen),
        quality_checks.month_complete(
            tables, chosen, {m: each["days"] for m, each in measured.items()}
        ),
    )
    by_rule = {"rows_by_rule": rows_by_rule(measured)}
    quarantine = outcomes[QUARANTINED]
    drawn = {name: {m: each["pictures"][name] for m, each in measured.items()} for name in outcomes}
    return (
        replace(outcomes[VALID], verdicts=verdicts, pictures=drawn[VALID]),
        replace(
            quarantine,
            figures={**quarantine.figures, **by_rule},
            pictures=drawn[QUARANTINED],
        ),
    )


def rows_conserved(tables: Tables, months: Sequence[str]) -> Verdict:
    """rows(raw_trips) = rows(trips) + rows(quarantined_trips), month by month."""
    counts = {
        month: {name: tables.rows(name, [month]) for name in (RAW, VALID, QUARANTINED)}
        for month in months
    }
    off = [m for m, rows in counts.items() if rows[RAW] != rows[VALID] + rows[QUARANTINED]]
    total = sum(rows[RAW] for rows in counts.values())
    reason = (
        f"Rows differ in {', '.join(off)}: "
        + "; ".join(", ".join(f"{k} {n:,}" for k, n in counts[m].items()) for m in off)
        if off
        else f"All {total:,} raw trips are valid or quarantined"
    )
    return Verdict("rows_conserved", not off, reason, counts)


def _month_figures(
    platform: Platform, months: Sequence[str], force: bool
) -> dict[str, dict[str, Any]]:
    """Month → what `trip_figures` and `rules_broken` tell of it, and its `pictures` by table."""
    tables = platform.tables
    code = fingerprint.code(sys.modules[__name__], schemas, plots, SHARED_PLOTS)

    def measure(stale: Sequence[str]) -> dict[str, dict[str, Any]]:
        written = tables.read(VALID, stale)
        valid = trip_figures(written, stale)
        broken = rules_broken(tables.read(QUARANTINED, stale))
        drawn = plots.of_months(written, stale)
        return {
            month: valid[month]
            | {"rules": broken.get(month, {})}
            | {"pictures": {VALID: drawn[month], QUARANTINED: plots.rules(broken.get(month, {}))}}
            for month in stale
        }

    fingerprints = {
        m: fingerprint.digest(code, *(tables.contents(t, [m]) for t in (VALID, QUARANTINED)))
        for m in months
    }
    cache = CheckCache(platform.settings, VALID, force)
    return cache.measured(
        "months", fingerprints, measure, lambda figures: not (figures["faults"] or figures["nulls"])
    )


def trip_figures(written: DataFrame, months: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Month → `faults` of columns and types, `nulls` by required column, `days` with a pickup.

    `nulls` names only columns that hold some; days are ISO text.
    """
    from pyspark.sql import functions as F

    wanted = {field.name: field.dataType for field in schemas.TRIPS.spark()}
    found = {field.name: field.dataType for field in written.schema}
    faults = [f"{name} is missing" for name in wanted if name not in found]
    faults += [f"{name} is not in the contract" for name in found if name not in wanted]
    faults += [
        f"{name} is {found[name].simpleString()}, not {kind.simpleString()}"
        for name, kind in wanted.items()
        if name in found and found[name] != kind
    ]
    required = [c.name for c in schemas.TRIPS.columns if not c.nullable and c.name in found]
    day = F.date_format("pickup_datetime", "yyyy-MM-dd").alias("_day")
    by_day = written.groupBy("trip_month", day).agg(
        *(F.count_if(F.col(name).isNull()).alias(f"_{name}") for name in required)
    )
    figures: dict[str, dict[str, Any]] = {
        month: {"faults": faults, "nulls": {}, "days": []} for month in months
    }
    for row in by_day.collect():
        of_month = figures[row["trip_month"]]
        of_month["days"] += [row["_day"]] if row["_day"] else []
        for name in required:
            if row[f"_{name}"]:
                of_month["nulls"][name] = of_month["nulls"].get(name, 0) + row[f"_{name}"]
    return figures


def schema_contract(measured: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Columns and types are those of `schemas.TRIPS`, and required columns hold no null.

    `measured` is month → `trip_figures`.
    """
    faults = list(dict.fromkeys(fault for each in measured.values() for fault in each["faults"]))
    nulls = _added(each["nulls"] for each in measured.values())
    faults += [f"{name} is null in {count:,} rows" for name, count in nulls.items()]
    columns = len(schemas.TRIPS.columns)
    reason = "; ".join(faults) or f"{columns} columns as in schemas.py; none required is null"
    return Verdict("schema_contract", not faults, reason, {"nulls": nulls})


def rules_broken(quarantined: DataFrame) -> dict[str, dict[str, int]]:
    """Month → rule → trips that broke it; a trip counts under each of its rules."""
    exploded = quarantined.selectExpr("trip_month", "explode(rules) AS rule")
    found: dict[str, dict[str, int]] = {}
    for row in exploded.groupBy("trip_month", "rule").count().collect():
        found.setdefault(row["trip_month"], {})[row["rule"]] = row["count"]
    return found


def rows_by_rule(measured: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Rule → trips of all months that broke it, in the order of the rules."""
    found = _added(each["rules"] for each in measured.values())
    return {rule.name: found[rule.name] for rule in validation_rules.RULES if rule.name in found}


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The counts of all mappings, name by name."""
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each)
    return dict(found)


def _ingested(tables: Tables, months: Sequence[str] | None) -> list[str]:
    """Those of the months that were ingested; one that its source left without rows counts."""
    held = tables.months(RAW)
    if months is not None:
        held = [m for m in months if m in held or tables.made_from(RAW, m)]
    if not held:
        wanted = ", ".join(months or ()) or "any month"
        raise TableError("raw_trips is needed first", f"no rows of {wanted}", "Ingest the month")
    return held


def planned(tables: Tables, found: sources.Source, force: bool = False) -> Plan:
    """The months of the source; stale where their files, or the code that reads them, changed."""
    code = fingerprint.code(*file_index.READERS)
    digests = {
        month: fingerprint.digest(
            code, *sorted((f.name, f.hash, f.months) for f in found.of(month))
        )
        for month in found.months
    }
    return incremental.plan(tables, [RAW], digests, force)


def _replaced(
    platform: Platform, found: sources.Source, emptied: Sequence[str], force: bool
) -> tuple[sources.Source, list[str], Commit | None]:
    """Write the stale months and empty those, in one commit; what was skipped.

    A file that turns out to be damaged while its rows are read is refused, and the rest written.
    """
    plan = planned(platform.tables, found, force)
    skipped, stale = plan.figures["skipped_months"], plan.stale
    made_from = dict.fromkeys(sorted({*stale, *emptied}), _EMPTIED) | plan.made_from
    if not made_from:
        return found, skipped, None
    read = [file for file in found.files if set(file.months) & set(stale)]
    try:
        frame = normalize.raw_trips(platform.spark, read, stale)
        commit = platform.tables.replace(RAW, frame, list(made_from), made_from)
    except reading.failures():
        problems = {file: normalize.problem(file) for file in read}
        damaged = [
            file.refused("damaged", text, COPY_AGAIN) for file, text in problems.items() if text
        ]
        if not damaged:
            raise
        return _replaced(platform, found.without(damaged), emptied, force)
    return found, skipped, commit


def _demo_months(platform: Platform, found: sources.Source) -> list[str]:
    """The months of demo trips that go as real ones come in.

    Raises:
        SourceError: demo trips would come in where real ones are.
    """
    stored = _months_by_kind(platform)
    if found.is_demo:
        if stored[REAL]:
            raise SourceError(
                "Demo and real trips never mix",
                f"raw_trips holds real trips of {', '.join(stored[REAL])}",
                "Name the source of the real trips with --source, or set another TAXI_HOME",
            )
        return []
    return stored[DEMO]


def _empty(tables: Tables, months: Sequence[str]) -> None:
    """Take the months from every table made from raw trips; raw_trips is left to the commit that
    brings what comes in their place."""
    for table in schemas.TABLES.values():
        if table.month and table.name != RAW and months and tables.rows(table.name, months):
            nothing = tables.read(table.name, [])
            tables.replace(table.name, nothing, months, dict.fromkeys(months, _EMPTIED))


def _months_by_kind(platform: Platform) -> dict[str, list[str]]:
    """The months of demo trips and of real trips that raw_trips holds."""
    tables = platform.tables

    def kinds(stale: Sequence[str]) -> dict[str, dict[str, Any]]:
        is_demo = f"startswith(source_file, '{demo.PREFIX}') AS is_demo"
        rows = tables.read(RAW, stale).selectExpr("trip_month", is_demo).distinct().collect()
        told = {month: {DEMO: False, REAL: False} for month in stale}
        for row in rows:
            told[row["trip_month"]][DEMO if row["is_demo"] else REAL] = True
        return told

    # Kept by month: to look at all trips that were ever held would cost more each month.
    digests = {m: fingerprint.digest(tables.contents(RAW, [m])) for m in tables.months(RAW)}
    measured = CheckCache(platform.settings, RAW).measured("kinds", digests, kinds)
    return {kind: [m for m, told in measured.items() if told[kind]] for kind in (DEMO, REAL)}


def _unchanged(tables: Tables, name: str) -> Commit:
    return Commit(name, "unchanged", tables.version(name) or 0, 0)
