"""Error against the time of the fit and the size of the model, on real months: the search."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.ensemble import HistGradientBoostingRegressor

from benchmarks import _machine
from databricks_steps import schemas
from databricks_steps.features import lookups
from databricks_steps.features.request import with_request_features
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Forest, Settings
from databricks_steps.steps import STEPS
from databricks_steps.training import dataset
from databricks_steps.training.fit import fit
from databricks_steps.training.onnx_graph import to_onnx

if TYPE_CHECKING:
    import pandas as pd

TAUGHT, UNSEEN = ("2022-01", "2022-02"), "2022-03"
MOST_MEGABYTES = 60
MOST_OF_FIT = 1.8  # seconds of the whole step, in those of its fit
STEPS_BEFORE = ("raw_trips", "trips", "pickup_features", "dropoff_features")


def main(arguments: Sequence[str]) -> int:
    """Print a Markdown table: one line a forest, errors on a month that none has seen."""
    parser = argparse.ArgumentParser("python -m benchmarks training", description=__doc__)
    data = os.environ.get("TAXI_REAL_DATA", "../shared/data")
    parser.add_argument("--source", default=f"{data}/tlc/green")
    parser.add_argument("--step", action="store_true", help="the step against its fit, no search")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        on = EmbeddedPlatform(Settings(home=Path(folder), source=given.source))
        for name in STEPS_BEFORE:
            STEPS[name].run(on, (*TAUGHT, UNSEEN), False)
        train, _ = dataset.parts(dataset.training_rows(on, TAUGHT), on.settings.max_training_rows)
        train = dataset.as_taught(train, on.settings)
        unseen = _looked_up(on, UNSEEN)
        STEPS["training_set"].run(on, TAUGHT, False)
        before = _spent()
        STEPS["fare_model"].run(on, TAUGHT, False)
        whole = [after - then for after, then in zip(_spent(), before, strict=True)]
    before = _spent()
    forest = fit(train, Forest())[-1]
    alone = [after - then for after, then in zip(_spent(), before, strict=True)]
    facts = forest.with_facts(train[list(dataset.INPUTS)].to_numpy(), typed=True)
    before = _spent()
    HistGradientBoostingRegressor().fit(facts, train[schemas.LABEL])
    boosted = [after - then for after, then in zip(_spent(), before, strict=True)]
    print(_machine.described())
    print(
        f"fare_model {whole[0]:.1f} s, {whole[1]:.0f} CPU seconds; its fit alone {alone[0]:.1f} s, "
        f"{alone[1]:.0f}: {whole[0] / alone[0]:.1f} times the seconds; {MOST_OF_FIT} wanted\n"
        f"scikit-learn's histogram boosting on the same facts: {boosted[0]:.1f} s, {boosted[1]:.0f}"
    )
    if given.step:
        return 0
    print(f"{len(train):,} trips taught, {len(unseen):,} of {UNSEEN} unseen; dollars\n")
    columns = ("trees", "leaf", "features", "rows a tree", "fit s", "ONNX MB")
    errors = (
        "RMSE, trimmed",
        "MAE, trimmed",
        "RMSE, median",
        "MAE, median",
        "RMSE, mean",
        "MAE, mean",
    )
    print("| " + " | ".join((*columns, *errors)) + " |")
    print("|" + "---|" * (len(columns) + len(errors)))
    for forest in forests():
        print(_line(train, unseen, forest), flush=True)
    return 0


def _spent() -> tuple[float, float]:
    """Seconds, and processor seconds of this process, so far."""
    return time.monotonic(), time.process_time()


def forests() -> Iterator[Forest]:
    """The settings' forest, and around it one parameter changed at a time."""
    base = Forest()
    yield base
    for name, values in {
        "n_estimators": (10, 20, 80),
        "min_samples_leaf": (3, 8, 16),
        "max_features": (0.3, 0.8, 1.0),
        "rows_per_tree": (10_000, 20_000, 80_000),
    }.items():
        for value in values:
            yield replace(base, **{name: value})


def _looked_up(on: EmbeddedPlatform, month: str) -> pd.DataFrame:
    asked = lookups.delayed(on.settings.lookup_delay)
    trips = on.features.look_up(on.tables.read("trips", [month]), asked, [month])
    names = [*dataset.INPUTS, schemas.LABEL]
    found: Any = with_request_features(trips).select(*names).toPandas()
    return dataset.as_served(found, on.settings)


def _line(train: pd.DataFrame, unseen: pd.DataFrame, forest: Forest) -> str:
    import numpy as np

    started = time.monotonic()
    pipeline = fit(train, forest)
    seconds = time.monotonic() - started
    megabytes = len(to_onnx(pipeline)) / 1e6
    fares = unseen[schemas.LABEL].to_numpy()
    inputs = unseen[list(dataset.INPUTS)]
    trees = pipeline[-1].predict_trees(inputs.to_numpy(dtype="float64"))
    errors = []
    for predicted in (pipeline.predict(inputs), np.median(trees, axis=1), trees.mean(axis=1)):
        error = predicted - fares
        errors += [float(np.sqrt((error**2).mean())), float(np.abs(error).mean())]
    size = f"{megabytes:.1f}" + ("" if megabytes <= MOST_MEGABYTES else " (too large)")
    cells = (
        str(forest.n_estimators),
        str(forest.min_samples_leaf),
        f"{forest.max_features:g}",
        f"{forest.rows_per_tree:,}",
        f"{seconds:.1f}",
        size,
        *(f"{e:.3f}" for e in errors),
    )
    return "| " + " | ".join(cells) + " |"
