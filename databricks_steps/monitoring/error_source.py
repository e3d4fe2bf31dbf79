"""Where an error comes from: the mix of trips, one vendor or block, or what metered trips cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from databricks_steps.interfaces import Severity, Verdict
from databricks_steps.monitoring import performance
from databricks_steps.monitoring.performance import ALL, LIMITS, VENDOR, Row
from databricks_steps.monitoring.thresholds import ErrorLimits
from databricks_steps.training.expected_error import ExpectedError
from databricks_steps.training.tariff import Audit
from databricks_steps.trips.kinds import BLOCK, METERED

SHOWN = 3  # slices that are named
_METERED = f"kind {METERED}"


def mix(
    rows: Sequence[Row], month: str, expected: ExpectedError, limits: ErrorLimits = LIMITS
) -> Verdict:
    """Whether the month's mix of kinds, distances and hours makes for larger errors: `mix`."""
    row, usual = performance.whole(rows, month), expected.mae
    if row is None or not usual or row["trips"] < limits.least_of_mix:
        return Verdict("mix", True, "too few trips to tell", severity="warn")
    ratio = row["expected"] / usual
    warn, error = limits.ratio
    reason = (
        f"on {month}'s mix of kinds, distances and hours an error of {row['expected']:.2f} dollars "
        f"is expected, {ratio - 1:+.0%} of that on what the version learned from"
    )
    severity: Severity = "error" if ratio > error else "warn"
    return Verdict("mix", ratio <= warn, reason, {"ratio": ratio}, severity)


def carrier(rows: Sequence[Row], month: str, limits: ErrorLimits = LIMITS) -> Verdict:
    """Whether a larger error is spread: not one vendor's, nor that of rows without columns, alone.

    One is alone when its own error is over its limit, and that of all other trips within theirs.
    The figure `alone` names it.
    """
    total = performance.whole(rows, month)
    if total is None or total["level"] in (performance.OK, performance.FEW):
        return Verdict("error_source", True, "the error is as expected", severity="warn")
    found = performance.carriers(rows, month, limits)
    named = "; ".join(
        f"{each.name}: {each.trips:.1%} of the trips, {each.squared:.0%} of the squared error, "
        f"{each.growth:.0%} of its growth"
        for each in found[:SHOWN]
    )
    alone = [
        each
        for each in found
        if (each.name.startswith(f"{VENDOR.name} ") or each.name == f"kind {BLOCK}")
        and each.trips < limits.alone
        and each.ratio > limits.slice_ratio[1]
        and each.rest <= limits.ratio[0]
    ]
    if alone:
        named = f"{alone[0].name} alone errs more than expected: {named}"
    figures = {"alone": alone[0].name if alone else ""}
    return Verdict("error_source", not alone, named or "none carries it", figures, "warn")


def in_traffic(
    error: Verdict, rows: Sequence[Row], audit: Audit, limits: ErrorLimits = LIMITS
) -> Verdict:
    """The live error's verdict; no worse than a warning where slower or faster trips explain it.

    They do where the error would be within its limit, had metered trips taken as long as in the
    month that the version knows: that is the season, and no other tariff.
    """
    if error.passed or error.severity == "warn" or audit.changed:
        return error
    whole, row = (performance.whole(rows, audit.month, name) for name in (ALL, _METERED))
    if whole is None or row is None or audit.explained is None:
        return error
    if performance.ratio(whole) > limits.most_of_traffic:
        return error  # no season makes so much: in April 2020 the trips were others, too
    less = row["trips"] * row["mae"] * audit.explained / whole["trips"]
    ratio = (whole["mae"] - less) / whole["expected"]
    if ratio > limits.ratio[1]:
        return error
    reason = (
        f"{error.reason}; metered trips take {audit.slower:+.0%}, without which the error were "
        f"{ratio - 1:+.0%}"
    )
    return replace(error, reason=reason, severity="warn")


def metered(rows: Sequence[Row], audit: Audit, limits: ErrorLimits = LIMITS) -> Verdict:
    """Whether metered trips are met as expected once traffic is as it was: `metered_error`.

    It fails where the tariff, too, misses more of their fares: else no fare has changed, but trips.
    """
    row = performance.whole(rows, audit.month, _METERED)
    if row is None or audit.explained is None:
        return Verdict("metered_error", True, "too few metered trips to tell", severity="warn")
    ratio = performance.ratio(row)
    in_traffic = ratio * (1 - audit.explained)
    reason = (
        f"metered trips of {audit.month} miss by {row['mae']:.2f} dollars, {ratio - 1:+.0%} of the "
        f"expected error; {in_traffic - 1:+.0%} if they took as long as in {audit.before_month} "
        f"(they take {audit.slower:+.0%})"
    )
    figures = {"ratio": ratio, "in_traffic": in_traffic, "slower": audit.slower}
    passed = in_traffic <= limits.ratio[1] or not audit.meters_otherwise
    return Verdict("metered_error", passed, reason, figures, "warn")
