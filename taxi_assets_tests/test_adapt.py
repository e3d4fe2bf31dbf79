"""What docs/adapt.md says to change, changed in a copy of the package, and run there."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from databricks_steps.inference.scorer import Scorer
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import REPOSITORY, Boosting, Settings
from databricks_steps.steps import STEPS
from databricks_steps.training import dataset, registry, reproduction
from databricks_steps.trips.demo import demo_trips

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.slow  # steps in a process and an engine of their own
MONTH = "2022-01"
RUN = """
import json, sys
from pathlib import Path
from databricks_steps.features.lookups import LOOKUPS
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS
from databricks_steps.training.dataset import INPUTS

on = EmbeddedPlatform(Settings(home=Path(sys.argv[1]), source=sys.argv[2]))
for name in sys.argv[3:]:
    verdicts = [v for made in STEPS[name].run(on, None, False) for v in made.verdicts]
    assert [v for v in verdicts if not v.passed and v.severity == "error"] == [], verdicts
table = on.tables.read(made := STEPS[sys.argv[-1]].writes[0])
print(json.dumps({"inputs": INPUTS, "rows": [r.asDict() for r in table.collect()]}, default=str))
"""


def patched(section: str, folder: Path) -> Path:
    """A folder with a copy of the package in which the section's changes are made."""
    page = (REPOSITORY / "docs" / "adapt.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {section}$.*?^```diff\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    shutil.copytree(REPOSITORY / "databricks_steps", folder / "databricks_steps")
    file, changes = Path(), 0
    for hunk in re.split(r"^(?=--- |@@$)", found[1], flags=re.MULTILINE):
        if named := re.match(r"--- a/(.+)\n\+\+\+ b/(.+)\n", hunk):
            assert named[1] == named[2]
            file = folder / named[1]
        elif lines := hunk.splitlines()[1:]:
            before = "".join(f"{line[1:]}\n" for line in lines if line[0] in " -")
            after = "".join(f"{line[1:]}\n" for line in lines if line[0] in " +")
            text = file.read_text(encoding="utf-8")
            assert text.count(before) == 1, before
            file.write_text(text.replace(before, after), encoding="utf-8")
            changes += 1
    assert changes
    return folder


def run(copy: Path, source: Path, *steps: str) -> dict[str, list[dict[str, object]]]:
    """The rows of the last step's table, and the model's inputs."""
    command = [sys.executable, "-c", RUN, str(copy / "home"), str(source), *steps]
    done = subprocess.run(
        command, cwd=copy, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[dict[str, object]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_feature_of_three_lines_is_computed_and_learned_from(tmp_path: Path) -> None:
    copy = patched("A feature", tmp_path)
    pq.write_table(demo_trips(MONTH, 2_000), tmp_path / f"green_tripdata_{MONTH}.parquet")
    steps = ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set")
    made = run(copy, tmp_path / f"green_tripdata_{MONTH}.parquet", *steps)
    assert "pickup_mean_miles_7d" in made["inputs"]
    values = [float(str(row["pickup_mean_miles_7d"])) for row in made["rows"]]
    assert len({*values}) > 100
    assert all(0.05 <= value <= 100 for value in values)


def test_trips_of_another_city_are_read_and_held_to_its_limits(tmp_path: Path) -> None:
    copy = patched("Another city", tmp_path)
    ride = {
        "trip_start_timestamp": "2022-01-03 08:00:00",
        "trip_end_timestamp": "2022-01-03 08:20:00",
        "pickup_community_area": "76",
        "dropoff_community_area": "8",
        "trip_distance": "16.4",
        "fare": "42.50",
    }
    source = tmp_path / f"chicago_{MONTH}.csv"
    with source.open("w", newline="") as out:
        rows = csv.DictWriter(out, list(ride))
        rows.writeheader()
        rows.writerows([ride, {**ride, "fare": "3.00"}, {**ride, "fare": "3.25"}])
    made = run(copy, source, "raw_trips", "trips")
    assert sorted(float(str(row["fare_amount"])) for row in made["rows"]) == [3.25, 42.5]
    assert {row["pickup_location_id"] for row in made["rows"]} == {76}


@pytest.mark.long  # two trainings
def test_another_estimator_is_trained_judged_and_served(
    spark: SparkSession, tmp_path: Path
) -> None:
    months = ("2022-01", "2022-02")
    (source := tmp_path / "source").mkdir()
    for month in months:
        pq.write_table(demo_trips(month, 4_000), source / f"green_tripdata_{month}.parquet")
    settings = replace(
        Settings.from_environment({"TAXI_ESTIMATOR": "boosting", "TAXI_HOME": str(tmp_path / "h")}),
        source=str(source),
    )
    assert settings.estimator == Boosting()
    settings = replace(settings, estimator=Boosting(max_iter=40))
    on = EmbeddedPlatform(settings, lambda: spark)
    for name in ("raw_trips", "trips", "pickup_features", "dropoff_features", "training_set"):
        STEPS[name].run(on, months, False)
    (made,) = STEPS["fare_model"].run(on, months, False)
    assert [v.check for v in made.verdicts if not v.passed] == []
    version = registry.numbered(settings, "1")
    assert version.metrics["onnx_parity"] < 0.01
    assert 0.7 <= version.metrics["interval_coverage"] <= 0.9
    scorer = Scorer.load(registry.folder(settings, "1"))
    rows: Any = on.tables.read("training_set").where("split = 'holdout'").toPandas()
    found = scorer.predict_interval(dataset.matrix(rows))
    assert (found.low <= found.fares).all()
    assert (found.fares <= found.high).all()
    assert float(np.abs(found.fares - rows["fare_amount"]).mean()) < 2
    assert reproduction.reproduce(on, "1").equal
