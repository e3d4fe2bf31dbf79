"""What monitoring still takes for usual: thresholds as data, measured on TLC's own months."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorLimits:
    """By how much the mean absolute error may exceed the one expected of the same mix of trips.

    Each pair is (warn, error), as ratios. A ratio counts by its lower end, `sure` standard errors
    below what was measured, so that a day of few trips needs a larger one.
    """

    ratio: tuple[float, float] = (1.15, 1.25)  # of a month or a day
    slice_ratio: tuple[float, float] = (1.3, 1.5)  # of a slice
    most_of_traffic: float = 1.35  # of a month that slower trips may explain; 2023-12 has 1.21
    sure: float = 2.0
    least: int = 100  # trips, of those it was measured on too; fewer are not judged
    least_of_mix: int = 1_000  # trips; the mix of fewer is chance
    alone: float = 0.5  # share of the trips from which on a slice is not one alone
    carried: float = 0.25  # share of the growth from which on a slice is named
    more_than_its_trips: float = 1.5  # times its share of the trips


@dataclass(frozen=True)
class RangeLimits:
    """The share of fares that may lie inside a fare range meant for 80 percent."""

    low: float = 0.75
    high: float = 0.88
    least: int = 500  # trips; fewer are not judged


@dataclass(frozen=True)
class DriftLimits:
    """How far a distribution may be from the baseline's. Each pair is (warn, error).

    A feature is over a limit when its Wasserstein distance is and its population stability index
    is over `index`: 0.1 and 0.25 are the field's rule of thumb for that index, but it alone calls
    a mean over seven days drifted when it moves by a few cents, for pickups differ so little in
    it. Measured on green taxis with a champion of 2022-01 and 2022-02: in 2022-03 the largest
    Wasserstein distance is 0.21 standard deviations (and the largest index 0.86, at a distance of
    0.14); in 2023-01, after the rise of the fares, 0.48 to 1.9 for what tells of fares, and 0.21
    for the predicted fare.
    """

    index: tuple[float, float] = (0.1, 0.25)
    wasserstein: tuple[float, float] = (0.25, 0.35)  # standard deviations of the baseline
    predicted: tuple[float, float] = (0.15, 0.35)  # the same, of the predicted fare
    missing: tuple[float, float] = (0.02, 0.10)  # share of the trips, above the baseline's
    features: int = 3  # in error, of all that are watched; fewer are a warning
    quantities: int = 2  # that they tell of: mean fares over an hour, a day and a week are one
    least: int = 1_000  # trips of a month, and of the baseline; fewer are not judged
    least_slice: int = 500
