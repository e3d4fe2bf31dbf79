"""Months as `YYYY-MM` strings: parsing ranges, neighbours, and where each begins and ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta

from databricks_steps.errors import SettingsError

FIRST = "2009-01"  # TLC's first published month
_SHOWN = 40  # letters of what was given
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)


def parse(text: str) -> tuple[str, ...]:
    """`2022-01`, `2022-01:2022-03` or `2022-01,2022-03` → the months, ascending.

    Raises:
        SettingsError: not of that form, before 2009-01, not over yet, or a range that ends before
            it starts.
    """
    found: set[str] = set()
    for part in text.split(","):
        first, colon, last = part.strip().partition(":")
        last = last if colon else first
        well = _MONTH.fullmatch(first) and _MONTH.fullmatch(last)
        newest = shift(this_month(), -1)
        if not (well and FIRST <= first <= last <= newest):
            shown = part if len(part) <= _SHOWN else f"{part[:_SHOWN]}…"
            raise SettingsError(
                f"Months must be written YYYY-MM or YYYY-MM:YYYY-MM, from {FIRST} to {newest}",
                repr(shown),
                "For example 2022-01:2022-03",
            )
        found.update(between(first, last))
    return tuple(sorted(found))


def is_month(text: str) -> bool:
    """Whether the text is a month as this project writes it, whichever."""
    return _MONTH.fullmatch(text) is not None


def this_month() -> str:
    """The month of today, as people read their calendar."""
    return f"{date.today():%Y-%m}"  # noqa: DTZ011


def between(first: str, last: str) -> tuple[str, ...]:
    """All months from `first` to `last`, both included."""
    months = []
    while first <= last:
        months.append(first)
        first = shift(first, 1)
    return tuple(months)


def shift(month: str, by: int) -> str:
    """The month `by` months later (earlier when negative)."""
    index = numbered(month) + by
    return f"{index // 12:04d}-{index % 12 + 1:02d}"


def numbered(month: str) -> int:
    """Months since the year 0, of which January is 0."""
    return int(month[:4]) * 12 + int(month[5:]) - 1


def spans(months: Iterable[str]) -> list[tuple[str, ...]]:
    """The months in runs without a gap: each is one range of partitions."""
    found: list[tuple[str, ...]] = []
    for month in sorted(set(months)):
        if found and shift(found[-1][-1], 1) == month:
            found[-1] = (*found[-1], month)
        else:
            found.append((month,))
    return found


def ranges(months: Iterable[str]) -> str:
    """The runs of months for people: 2021-01 to 2021-03, 2022-05."""
    runs = (dict.fromkeys((run[0], run[-1])) for run in spans(months))
    return ", ".join(" to ".join(run) for run in runs)


def start(month: str) -> datetime:
    """First instant of the month, New York wall clock."""
    return datetime(int(month[:4]), int(month[5:]), 1)  # noqa: DTZ001 wall clock as published


def end(month: str) -> datetime:
    """First instant after the month."""
    return start(shift(month, 1))


def with_months_before(months: Iterable[str], reach: timedelta) -> tuple[str, ...]:
    """The months and those that `reach` back from their first instant touches."""
    found: set[str] = set()
    for month in months:
        earliest = start(month) - reach
        found.update(between(f"{earliest:%Y-%m}", month))
    return tuple(sorted(found))


def trailing(months: Sequence[str], last: str, count: int) -> tuple[str, ...]:
    """Those of `months` that are among the `count` months up to `last`."""
    window = between(shift(last, 1 - count), last)
    return tuple(month for month in sorted(months) if month in window)
