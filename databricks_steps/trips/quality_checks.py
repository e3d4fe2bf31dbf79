"""Whether a month of trips is as months are: quarantined share, volume, days, columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from statistics import median
from typing import TYPE_CHECKING

from databricks_steps import fingerprint, schemas
from databricks_steps.check_cache import CheckCache
from databricks_steps.interfaces import Severity, Tables, Verdict
from databricks_steps.months import end, shift, start

if TYPE_CHECKING:
    from databricks_steps.trips.files import TripFile

RAW, VALID, QUARANTINED = "raw_trips", "trips", "quarantined_trips"


@dataclass(frozen=True)
class TripLimits:
    """Limits of a month of trips; `warn` and `error` each.

    Real months of TLC have 1 to 6 percent of trips that break a rule, and trips a day within a
    quarter of the months before (`docs/monitoring.md` has the figures).
    """

    quarantined: tuple[float, float] = (0.12, 0.25)  # share of the rows as published
    vendor: tuple[float, float] = (0.35, 0.50)  # the same, of one vendor; real ones reach 0.24
    least_of_vendor: int = 100
    fewer: tuple[float, float] = (0.70, 0.45)  # trips a day, as a share of the months before
    more: tuple[float, float] = (1.5, 2.5)
    months_before: int = 3  # whose median is what a month is compared with
    least: int = 1_000  # rows; a share of fewer tells nothing
    delay_days: int = 75  # TLC publishes a month about two months after its end
    followed_months: int = 12  # who holds nothing newer follows no publication


LIMITS = TripLimits()


def quarantine_rate(
    tables: Tables,
    months: Sequence[str],
    limits: TripLimits = LIMITS,
    rules: Mapping[str, Mapping[str, int]] | None = None,
) -> Verdict:
    """The share of rows that break a rule is as usual, month by month.

    `rules`: month → rule → rows that break it, to tell the cause.
    """
    shares, few = {}, []
    for month in months:
        rows = tables.rows(RAW, [month])
        if rows < limits.least:
            few.append(month)
        else:
            shares[month] = tables.rows(QUARANTINED, [month]) / rows
    warn, error = limits.quarantined
    worst = max(shares, key=lambda month: shares[month], default=None)
    if worst is None:
        return Verdict("quarantine_rate", True, _too_few(few, limits), {}, "warn")
    share = shares[worst]
    reason = f"{share:.1%} of the rows of {worst} break a rule; allowed are {warn:.0%}"
    broken = (rules or {}).get(worst, {})
    if share > warn and broken:
        most = sorted(broken, key=lambda rule: -broken[rule])[:2]
        reason += f"; most often {', '.join(f'{rule} ({broken[rule]:,})' for rule in most)}"
    figures = {"quarantined_share": shares, "warn": warn, "error": error}
    severity: Severity = "error" if share > error else "warn"
    return Verdict("quarantine_rate", share <= warn, reason, figures, severity)


def vendors(
    tables: Tables, months: Sequence[str], cache: CheckCache, limits: TripLimits = LIMITS
) -> Verdict:
    """No vendor publishes rows that mostly break a rule, however few they are: `vendors`.

    `cache` is that of `raw_trips`.
    """
    fingerprints = {
        month: fingerprint.digest(*(tables.contents(name, [month]) for name in (RAW, QUARANTINED)))
        for month in months
    }
    counts = cache.measured("vendors", fingerprints, lambda stale: _by_vendor(tables, stale))
    shares = {
        f"vendor {vendor}, {month}": broken / rows
        for month, each in counts.items()
        for vendor, (rows, broken) in each.items()
        if rows >= limits.least_of_vendor
    }
    warn, error = limits.vendor
    over = {name: share for name, share in shares.items() if share > warn}
    told = ", ".join(f"of {name} {share:.0%}" for name, share in (over or shares).items())
    reason = f"rows that break a rule: {told or 'no vendor has enough'}; allowed are {warn:.0%}"
    severity: Severity = "error" if any(share > error for share in over.values()) else "warn"
    return Verdict("vendors", not over, reason, {"shares": shares}, severity)


def _by_vendor(tables: Tables, months: Sequence[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """Month → vendor → rows as published, and those of them that break a rule."""
    counts = [
        {
            (row["trip_month"], str(row["vendor_id"])): row["count"]
            for row in tables.read(name, months)
            .groupBy("trip_month", "vendor_id")
            .count()
            .collect()
        }
        for name in (RAW, QUARANTINED)
    ]
    found: dict[str, dict[str, tuple[int, int]]] = {month: {} for month in months}
    for (month, vendor), rows in counts[0].items():
        found[month][vendor] = (rows, counts[1].get((month, vendor), 0))
    return found


def volume(tables: Tables, months: Sequence[str], limits: TripLimits = LIMITS) -> Verdict:
    """Trips a day, against the median of the months just before: no half month, no double one."""
    ratios: dict[str, float] = {}
    for month in months:
        first = shift(month, -limits.months_before)
        usual = [_a_day(tables, m) for m in tables.months(RAW) if first <= m < month]
        middle = median(usual) if usual else 0.0
        if middle * 30 >= limits.least:
            ratios[month] = _a_day(tables, month) / middle
    off = {m: _outside(ratio, limits) for m, ratio in ratios.items()}
    bad = [m for m in ratios if off[m]]
    figures = {"trips_a_day_ratio": ratios, "fewer": limits.fewer, "more": limits.more}
    if not ratios:
        return Verdict("volume", True, "no month before to compare with", figures, "warn")
    if bad:
        severity: Severity = "error" if any(off[m] == "error" for m in bad) else "warn"
        told = ", ".join(f"{m} has {ratios[m]:.0%}" for m in bad)
        reason = f"{told} of the trips a day of the months before"
        return Verdict("volume", False, reason, figures, severity)
    told = ", ".join(f"{m} {ratio:.0%}" for m, ratio in ratios.items())
    reason = f"trips a day against the months before: {told}"
    return Verdict("volume", True, reason, figures, "warn")


def month_complete(
    tables: Tables,
    months: Sequence[str],
    pickup_days: Mapping[str, Collection[str]],
    today: date | None = None,
    limits: TripLimits = LIMITS,
) -> Verdict:
    """Each month has trips on all its days, and the month that is due by now is in.

    `pickup_days`: month → days of its valid pickups, as ISO text. The month that is due follows
    from today and TLC's delay, whatever older months were brought in since; a home that holds
    nothing of the last `followed_months` follows no publication, and nothing is due.
    """
    today = today or datetime.now(timezone.utc).date()
    faults = []
    for month in months:
        days = (end(month) - start(month)).days
        wanted = [f"{start(month) + timedelta(days=n):%Y-%m-%d}" for n in range(days)]
        gaps = [day for day in wanted if day not in pickup_days.get(month, ())]
        if gaps and tables.rows(RAW, [month]) >= limits.least:
            shown = ", ".join(gaps[:3])
            faults.append(f"{month} has no trip on {len(gaps)} of its days: {shown}")
    held = tables.months(RAW)
    due = due_month(today, limits)
    newest = held[-1] if held else ""
    followed = newest >= shift(f"{today:%Y-%m}", -limits.followed_months)
    if followed and newest < due:
        since = end(due).date() + timedelta(days=limits.delay_days)
        faults.append(f"{due} is due since {since} and not in; the newest is {newest}")
    reason = "; ".join(faults) or (
        f"every day has trips; the month that is due, {due}, is in"
        if followed
        else "every day has trips; the months held are old, so that none is due"
    )
    return Verdict("month_complete", not faults, reason, {"due": due, "newest": newest}, "warn")


def due_month(today: date, limits: TripLimits = LIMITS) -> str:
    """The newest month that TLC should have published by `today`."""
    month = f"{today:%Y-%m}"
    while end(month).date() + timedelta(days=limits.delay_days) > today:
        month = shift(month, -1)
    return month


def source_schema(
    tables: Tables, months: Sequence[str], cache: CheckCache, files: Sequence[TripFile] = ()
) -> Verdict:
    """The publisher gives the columns of the month before: none came, none went.

    A column counts as there when any row has a value. `files` add the names that are no column
    of ours, which are not read. `cache` is that of `raw_trips`.
    """
    held = tables.months(RAW)
    changes: dict[str, dict[str, list[str]]] = {}
    pairs = [(held[held.index(m) - 1], m) for m in months if m in held and held.index(m)]
    filled = filled_columns(tables, sorted({m for pair in pairs for m in pair}), cache)
    for before, month in pairs:
        came = sorted(filled[month] - filled[before])
        went = sorted(filled[before] - filled[month])
        if came or went:
            changes[month] = {"came": came, "went": went}
    unknown = sorted({name for file in files for name in file.layout.unknown})
    told = [
        f"{month}: " + ", ".join(f"{name} {what}" for what, names in c.items() for name in names)
        for month, c in changes.items()
    ]
    told += [f"not read, for it is no column of ours: {name}" for name in unknown]
    reason = "; ".join(told) or "the columns are those of the month before"
    figures = {"changes": changes, "unknown": unknown}
    return Verdict("source_schema", not told, reason, figures, "warn")


def filled_columns(tables: Tables, months: Sequence[str], cache: CheckCache) -> dict[str, set[str]]:
    """Month → published columns that hold a value in at least one of its rows."""
    names = [column.name for column in schemas.PUBLISHED]
    fingerprints = {m: fingerprint.digest(tables.contents(RAW, [m]), *names) for m in months}
    found = cache.measured("filled", fingerprints, lambda stale: _filled(tables, stale))
    return {month: set(figures["columns"]) for month, figures in found.items()}


def _filled(tables: Tables, months: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    from pyspark.sql import functions as F

    names = [column.name for column in schemas.PUBLISHED]
    raw = tables.read(RAW, months)  # starts Spark, which the functions need
    counts = [F.count(name).alias(name) for name in names]
    rows = raw.groupBy("trip_month").agg(*counts).collect()
    found = {row["trip_month"]: [name for name in names if row[name]] for row in rows}
    return {month: {"columns": found.get(month, [])} for month in months}


def _a_day(tables: Tables, month: str) -> float:
    return tables.rows(RAW, [month]) / (end(month) - start(month)).days


def _outside(ratio: float, limits: TripLimits) -> Severity | None:
    if ratio < limits.fewer[1] or ratio > limits.more[1]:
        return "error"
    return "warn" if ratio < limits.fewer[0] or ratio > limits.more[0] else None


def _too_few(months: Sequence[str], limits: TripLimits) -> str:
    return f"too few rows to tell: {', '.join(months) or 'no month'}; {limits.least:,} are needed"
