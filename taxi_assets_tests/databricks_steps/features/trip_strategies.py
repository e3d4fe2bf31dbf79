"""Random trips for property tests: each example is a world, all are tried in one Spark run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from feature_oracle import GRID, Trip
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

EXAMPLES = 200
APART = 1_000  # between the locations of one world and of the next
MONTHS = ("2022-01", "2022-02", "2022-03", "2022-11", "2022-12")
T = TypeVar("T")

# New York put its clocks forward on the first and back on the second: as wall-clock times the one
# lacks an hour that records still name, the other has an hour twice.
DST = (datetime(2022, 3, 13), datetime(2022, 11, 6))


def examples(strategy: st.SearchStrategy[T], count: int = EXAMPLES) -> list[T]:
    """As many examples as hypothesis makes of the strategy."""
    found: list[T] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: T) -> None:
        found.append(example)

    collect()
    return found


def _from(first: datetime, days: int) -> st.SearchStrategy[datetime]:
    """Instants of those days; whole quarters as likely as others: boundaries are where bugs are."""
    return st.one_of(
        st.integers(0, 4 * 24 * days).map(lambda n: first + n * GRID),
        st.integers(0, 86_400 * days).map(lambda n: first + timedelta(seconds=n)),
        st.integers(0, 86_400_000_000 * days).map(lambda n: first + timedelta(microseconds=n)),
    )


def _trips(ends: st.SearchStrategy[datetime]) -> st.SearchStrategy[Trip]:
    locations = st.sampled_from([1, 7, 9, 264])
    return st.builds(
        lambda end, minutes, origin, target, cents, hundredths: Trip(
            end - timedelta(minutes=minutes), end, origin, target, cents / 100, hundredths / 100
        ),
        ends,
        st.integers(1, 240),
        st.one_of(locations, st.none()),
        st.one_of(locations, st.none()),
        st.integers(250, 25_000),
        st.integers(5, 10_000),
    )


def worlds() -> st.SearchStrategy[list[Trip]]:
    """Busy days around a change of month, DST days, gaps longer than the lookback, one trip."""
    busy = _from(datetime(2022, 1, 25), 12)
    far_apart = st.one_of(_from(datetime(2021, 12, 20), 100), _from(datetime(2022, 10, 25), 60))
    few = st.sampled_from([datetime(2022, 2, 28, 23, 59, 59), datetime(2022, 3, 1), *DST])
    kinds = [busy, far_apart, few, *(_from(day, 1) for day in DST)]
    return st.one_of(
        *(st.lists(_trips(ends), min_size=1, max_size=25) for ends in kinds),
        st.lists(_trips(st.one_of(*kinds)), min_size=1, max_size=1),
    )


def apart(found: list[list[Trip]]) -> list[list[Trip]]:
    """The worlds with locations of their own: no trip of one is a trip of another."""
    return [
        [
            replace(
                t,
                origin=None if t.origin is None else t.origin + APART * number,
                target=None if t.target is None else t.target + APART * number,
            )
            for t in world
        ]
        for number, world in enumerate(found)
    ]
