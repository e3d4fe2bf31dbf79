"""The expected error: sums by cell, what few trips are drawn to, trees that have not seen it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from databricks_steps.errors import ModelError
from databricks_steps.inference.feature_spec import middle
from databricks_steps.settings import Gate
from databricks_steps.training.dataset import INPUTS
from databricks_steps.training.expected_error import ANY, ExpectedError, measured
from databricks_steps.training.metered import Metered

NEAR, FAR = "distance 1 to 2 miles", "distance 5 to 10 miles"
NIGHT, DAY = "hour under 6 h", "hour 10 to 16 h"


def trips(rows: int = 4_000) -> tuple[pd.DataFrame, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Metered trips are missed by 1 dollar, block trips by 5; in the Bronx by half more."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "kind": random.choice(["metered", "block"], rows, p=[0.8, 0.2]),
            "trip_distance": random.choice([1.5, 7.0], rows),
            "pickup_hour": random.choice([3, 12], rows),
            "pickup_location_id": random.choice([74, 3], rows),  # Manhattan, the Bronx
            "pickup_is_airport": 0,
        }
    )
    error = np.where(frame["kind"] == "block", 5.0, 1.0) * random.choice([-1, 1], rows)
    return frame, error * np.where(frame["pickup_location_id"] == 3, 1.5, 1.0)


def test_a_cell_has_its_mean_and_a_slice_its_factor() -> None:
    frame, error = trips()
    found = measured(frame, error, Gate())
    assert found.trips == len(frame)
    assert found.mae == pytest.approx(np.abs(error).mean())
    for kind, usual in (("metered", 1.25), ("block", 6.25)):
        for distance in (NEAR, FAR):
            for hour in (NIGHT, DAY):
                mean = found.of((f"kind {kind}", distance, hour))
                assert mean == pytest.approx(usual, rel=0.05)
    assert found.factor("borough Bronx", 100) == pytest.approx(1.2, rel=0.05)
    assert found.factor("borough Manhattan", 100) == pytest.approx(0.8, rel=0.05)
    assert found.factor("borough Queens", 100) is None
    assert found.factor("borough Bronx", 10_000) is None
    assert ExpectedError.from_json(found.to_json()) == found


def test_what_is_not_known_takes_what_is() -> None:
    frame, error = trips()
    found = measured(frame, error, Gate())
    of_any = found.of((None, NEAR, DAY))
    assert of_any == pytest.approx(found.of((ANY, NEAR, DAY)))
    assert of_any == pytest.approx(np.abs(error).mean(), rel=0.1)
    assert found.of(("kind flat", NEAR, DAY)) == found.of(("kind flat", FAR, NIGHT))
    block = found.of(("kind block", "distance under 1 miles", DAY))
    assert block == pytest.approx(6.25, rel=0.05)
    few = measured(frame.head(20), error[:20], Gate())
    assert few.of(("kind block", NEAR, DAY)) < found.of(("kind block", NEAR, DAY))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"cells": [[["a"], 1]], "slices": {}}'])
def test_what_is_no_expected_error_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"expected_error.json must hold errors by cell"):
        ExpectedError.from_json(text)


def test_of_nothing_nothing_is_expected() -> None:
    frame, error = trips()
    found = measured(frame.head(0), error[:0], Gate())
    assert (found.trips, found.mae, found.slices) == (0, None, {})


def test_a_row_is_answered_by_the_trees_that_have_not_drawn_it() -> None:
    from sklearn.ensemble import RandomForestRegressor

    random = np.random.default_rng(5)
    rows = random.random((1_500, len(INPUTS))) * 10
    rows[:, INPUTS.index("pickup_location_id")] = random.integers(1, 264, 1_500)
    rows[:, INPUTS.index("dropoff_location_id")] = random.integers(1, 264, 1_500)
    rows[:, INPUTS.index("trip_type")] = 0
    fares = 3 + 2.5 * rows[:, INPUTS.index("trip_distance")] + random.normal(0, 1, 1_500)
    forest = Metered(
        RandomForestRegressor(n_estimators=9, max_samples=1_000, random_state=1),
        INPUTS.index("trip_distance"),
        (INPUTS.index("pickup_location_id"), INPUTS.index("dropoff_location_id")),
        INPUTS.index("trip_type"),
    ).fit(rows, fares)
    asked = np.arange(0, 1_500, 7)
    found = forest.predict_unseen(rows, asked)
    trees = forest.predict_trees(rows[asked])
    drawn = forest.any_.estimators_samples_
    for place, row in enumerate(asked):
        unseen = np.sort([trees[place, n] for n, each in enumerate(drawn) if row not in each])
        if not len(unseen):
            assert np.isnan(found[place])
            continue
        first, end = middle(len(unseen))
        assert found[place] == pytest.approx(unseen[first:end].mean())
    assert forest.predict_unseen(rows, asked[:0]).shape == (0,)
    seen = np.abs(forest.predict(rows[asked]) - fares[asked]).mean()
    assert np.nanmean(np.abs(found - fares[asked])) > seen
