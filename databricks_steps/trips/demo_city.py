"""The made-up city behind the demo trips: zones, distances, speeds, and the demand of a week."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

ZONES = 263
NEWARK, JFK, LAGUARDIA = 1, 132, 138
AIRPORTS = (NEWARK, JFK, LAGUARDIA)
MANHATTAN = (*range(74, 76), *range(41, 43), *range(161, 167), *range(229, 240))
_SEED = 7
_WIDTH_MILES, _HEIGHT_MILES = 14.0, 16.0
_CHOICES = 6


@dataclass(frozen=True)
class City:
    """Popularity and speed by zone, miles by pair of zones; arrays by zone number less one."""

    popularity: Any
    speed: Any
    miles: Any


@cache
def city() -> City:
    """The same city every time."""
    import numpy as np

    rng = np.random.default_rng(_SEED)
    places = rng.random((ZONES, 2)) * (_WIDTH_MILES, _HEIGHT_MILES)
    near = np.array([z - 1 for z in MANHATTAN])
    places[near] = rng.normal((5.0, 8.0), 1.2, (len(near), 2))
    for zone, place in zip(AIRPORTS, ((-5.0, 6.0), (13.0, 2.0), (8.5, 9.0)), strict=True):
        places[zone - 1] = place
    apart = places[:, None, :] - places[None, :, :]
    miles = np.hypot(apart[..., 0], apart[..., 1]) * 1.15
    np.fill_diagonal(miles, rng.uniform(0.5, 1.1, ZONES))
    rank = rng.permutation(ZONES)
    rank[near], rank[[JFK - 1, LAGUARDIA - 1]] = np.arange(len(near)), (30, 12)
    popularity = 1.0 / (rank + 4.0)
    central = np.hypot(places[:, 0] - 5.0, places[:, 1] - 8.0)
    speed = 8.5 + 0.75 * np.minimum(central, 9.0) + rng.normal(0, 0.7, ZONES)
    return City(popularity / popularity.sum(), speed, miles)


def destinations(known: City, origin: Any, rng: np.random.Generator) -> Any:
    """Where rides go: popular zones, and of a few of those most often the nearest.

    The nearest of some candidates is cheap for millions of rides, and gives short medians with a
    long tail, as measured.
    """
    import numpy as np

    rows = len(origin)
    candidates = rng.choice(ZONES, (rows, _CHOICES), p=known.popularity)
    candidates[rng.random(rows) < 0.08, 0] = -1
    candidates[:, 0] = np.where(candidates[:, 0] < 0, origin, candidates[:, 0])
    nearest = known.miles[origin[:, None], candidates].argmin(axis=1)
    nearest = np.where(rng.random(rows) < 0.12, 1, nearest)
    return candidates[np.arange(rows), nearest]


def demand() -> Any:
    """Rides by hour of the week from Monday 0:00, relative."""
    import numpy as np

    day = [3, 2, 1.5, 1.2, 1.1, 1.1, 3.5, 8, 11, 11.5, 12, 12, 12.3, 12.6]
    day += [14, 15, 15.8, 15.8, 15, 12.7, 9.5, 7.2, 6.2, 5]
    week = np.tile(np.array(day), (7, 1)) * np.array([0.95, 1, 1, 1, 1.08, 1.0, 0.85])[:, None]
    week[5:, 0:5] *= 2.2
    week[5:, 6:10] *= 0.55
    return week.ravel()


def traffic(hour: Any) -> Any:
    """How fast traffic flows by hour of the day, relative."""
    import numpy as np

    by_hour = np.array([1.4] * 6 + [1.15, 0.95, 0.88, 0.9, 0.92, 0.92, 0.92, 0.9, 0.86, 0.82])
    by_hour = np.append(by_hour, [0.8, 0.8, 0.85, 0.95, 1.05, 1.15, 1.2, 1.3])
    return by_hour[hour]
