"""The tariff audit: what metered trips cost a mile and a minute, and whether that has changed.

A taximeter adds what the miles and minutes of a trip cost to a base fare, in whole ticks. With the
duration known its fares are exact to half a dollar, so a new tariff shows in a month's own trips,
whatever a model says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

LEVEL = 0.03  # share of the fare; months of one tariff differ by at most 0.006, a new one by 0.33
LEAST = 100  # metered trips of a month; fewer tell nothing
LEAST_OF_DAY = 20
TICK_SHARE = 0.9  # of the fares of one tariff that are whole ticks; 0.96 to 1.00 by month
_TICKS = range(100, 4, -5)  # cents, the largest first: what is whole in fifties is so in fives
_STEPS = 50
_NEAREST = 1e-3  # dollars: a residual below weighs no more, else its weight were infinite


@dataclass(frozen=True)
class Tariff:
    """A month's tariff as its metered trips show it, in dollars; `error` is the mean absolute one.

    `tick` is the step of the meter, `tick_share` the share of the fares that are whole steps above
    the most frequent one; 0 where no step fits.
    """

    base: float
    per_mile: float
    per_minute: float
    error: float
    tick: float
    tick_share: float
    trips: int

    def fares(self, miles: Array, minutes: Array) -> Array:
        """What trips cost by it: arrays (trips,) → dollars (trips,)."""
        fares: Array = self.base + self.per_mile * miles + self.per_minute * minutes
        return fares

    def level(self, miles: Array, minutes: Array, fares: Array) -> float:
        """How much dearer the median trip is than by this tariff, as a share: 0.33 for a third."""
        import numpy as np

        return float(np.median(fares / self.fares(miles, minutes))) - 1


def fitted(miles: Array, minutes: Array, fares: Array) -> Tariff | None:
    """The tariff of metered trips, arrays (trips,); None of fewer than `LEAST`.

    Least absolute deviations, so that a tenth of odd fares moves nothing, by iteratively
    reweighted least squares (Schlossmacher, 1973).
    """
    import numpy as np

    if len(fares) < LEAST:
        return None
    terms = np.column_stack([np.ones(len(fares)), miles, minutes])
    found = np.linalg.lstsq(terms, fares, rcond=None)[0]
    for _ in range(_STEPS):
        before = found
        weighted = terms / np.maximum(np.abs(fares - terms @ found), _NEAREST)[:, None]
        found = np.linalg.lstsq(terms.T @ weighted, weighted.T @ fares, rcond=None)[0]
        if np.abs(found - before).max() < _NEAREST:
            break
    error = float(np.abs(fares - terms @ found).mean())
    base, per_mile, per_minute = map(float, found)
    return Tariff(base, per_mile, per_minute, error, *_tick(fares), len(fares))


def _tick(fares: Array) -> tuple[float, float]:
    """The meter's step in dollars, and the share of the fares that are whole steps; or 0 and 0."""
    import numpy as np

    cents = np.rint(fares * 100).astype(np.int64)
    for tick in _TICKS:
        share = float(np.bincount(cents % tick).max() / len(cents))
        if share >= TICK_SHARE:
            return tick / 100, share
    return 0.0, 0.0


def began(
    before: Tariff, days: Sequence[str], miles: Array, minutes: Array, fares: Array
) -> str | None:
    """The first day from which on every day costs another fare than by `before`; None of none.

    `days` (trips,) are those of the pickups, YYYY-MM-DD; days of few trips are passed over.
    """
    import numpy as np

    named = np.asarray(days)
    found = None
    for day in sorted(set(days)):
        own = named == day
        if own.sum() < LEAST_OF_DAY:
            continue
        changed = abs(before.level(miles[own], minutes[own], fares[own])) > LEVEL
        found = (found or day) if changed else None
    return found
