"""Every step on the platform `databricks`, on real Delta: the rows of the embedded platform.

As the contract of the tables, this runs in a pytest process of its own; see `delta_spark`.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import feature_engineering
import pytest

from databricks_steps import schemas
from databricks_steps.interfaces import Outcome, Platform
from databricks_steps.platforms.databricks.platform import DatabricksPlatform
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import DATABRICKS, Settings
from databricks_steps.steps import STEPS
from databricks_steps.training import deployment_log, model_card, registry
from databricks_steps.training.lineage import Recipe
from databricks_steps.trips.demo import demo_trips
from taxi_assets_tests.databricks_steps.platforms import delta_spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.long  # here and in the other process
MONTHS = ("2022-01", "2022-02")
COMMIT = "0123abc"  # as a bundle tells it
ROWS = 2_500


@dataclass(frozen=True)
class Both:
    """The same steps run on both platforms, and what they said there."""

    databricks: DatabricksPlatform
    embedded: EmbeddedPlatform
    outcomes: Mapping[str, tuple[Outcome, ...]]


# In a process without a JVM: Sail makes the same rows in a tenth of the time.
EMBEDDED = """
import sys
from pathlib import Path
from databricks_steps.__main__ import run
from databricks_steps.settings import SAIL, Settings
from databricks_steps.steps import STEPS
settings = Settings(home=Path(sys.argv[1]), source=sys.argv[2], spark=SAIL)
for step in STEPS:
    run(settings, step, sys.argv[3], False)
"""


def run(platform: Platform) -> dict[str, tuple[Outcome, ...]]:
    return {name: step.run(platform, MONTHS, False) for name, step in STEPS.items()}


@pytest.fixture(scope="module")
def both(running: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("steps")
    source = folder / "source"
    source.mkdir()
    for month in MONTHS:
        pq.write_table(demo_trips(month, ROWS), source / f"green_tripdata_{month}.parquet")
    # The embedded platform reads the files of its Delta tables by themselves.
    running.conf.set("spark.databricks.delta.formatCheck.enabled", "false")
    running.sql("CREATE SCHEMA spark_catalog.steps")
    before = Path.cwd()
    os.chdir(folder)  # MLflow's own place for artifacts is the folder it runs in
    plain = Settings(home=folder / "home", source=str(source))
    remote = replace(
        plain,
        home=folder / "volume",
        platform=DATABRICKS,
        catalog="spark_catalog",
        schema="steps",
        experiment="/Shared/taxi-fare-test",
        git_commit=COMMIT,
        tracking=f"sqlite:///{folder / 'remote.db'}",
    )
    databricks = DatabricksPlatform(remote, lambda: running)
    embedded = EmbeddedPlatform(plain, lambda: running)
    words = [sys.executable, "-c", EMBEDDED, str(plain.home), plain.source, ":".join(MONTHS)]
    subprocess.run(words, check=True, timeout=600)
    with feature_engineering.installed():
        yield Both(databricks, embedded, run(databricks))
    os.chdir(before)


def rows(platform: Platform, table: schemas.Table) -> list[tuple[Any, ...]]:
    kept = [name for name in table.names if name not in table.computed]
    return sorted(map(tuple, platform.tables.read(table.name).select(*kept).collect()), key=str)


def versions(platform: Platform) -> dict[str, int | None]:
    return {name: platform.tables.version(name) for name in schemas.TABLES}


def on_databricks_every_step_makes_the_rows_of_the_embedded_platform(both: Both) -> None:
    for table in schemas.TABLES.values():
        if table is not schemas.DEPLOYMENTS:
            made = rows(both.databricks, table)
            # Nobody has asked an endpoint here.
            assert bool(made) == (table is not schemas.ENDPOINT_PAYLOADS), table.name
            assert made == rows(both.embedded, table), table.name
    verdicts = [v for outcomes in both.outcomes.values() for o in outcomes for v in o.verdicts]
    assert [v for v in verdicts if not v.passed] == []
    assert len(verdicts) == 23


def on_databricks_the_champion_is_a_model_with_its_lookups_and_a_row_of_the_ledger(
    both: Both,
) -> None:
    settings = both.databricks.settings
    champion = registry.require(settings, registry.CHAMPION)
    assert champion.number == "1"
    assert registry.folder(settings, "1").parts[-3:] == registry.WRAPPED.parts
    (row,) = deployment_log.entries(both.databricks.tables)
    assert (row["action"], row["to_version"], row["why"]) == ("promoted", "1", "the first champion")
    assert row["model"] == "spark_catalog.steps.dev_mlops_stacks_gcp_fs_model"
    assert row["moved_by"] == delta_spark.IDENTITY  # as whom the run runs, and no user of a machine
    assert champion.tags["git_commit"] == COMMIT


def on_databricks_a_version_is_made_again_as_its_model_card_says(
    both: Both, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = both.databricks.settings
    version = registry.numbered(settings, "1")
    card = registry.read_text(settings, version, model_card.FILE)
    cell = html.unescape(card.partition("<h2>Make it again</h2><pre>")[2].partition("</pre>")[0])
    # The workspace's own MLflow is a file here.
    there = f"Settings(\n    tracking={settings.tracking!r},"
    exec(cell.replace("Settings(", there), {})
    pairs = re.findall(r"'(\w+)': \(([^,]+), ([^)]+)\)", capsys.readouterr().out)
    again = {name: float(now) for name, _, now in pairs}
    assert again == pytest.approx({name: float(then) for name, then, _ in pairs}, abs=1e-9)
    assert again["rmse"] == pytest.approx(version.metrics["rmse"], abs=1e-9)
    recipe = Recipe.from_json(registry.read_text(settings, version, "recipe.json"))
    assert recipe.commit == COMMIT


def on_databricks_a_second_run_commits_nothing(both: Both) -> None:
    before = versions(both.databricks)
    again = run(both.databricks)
    assert versions(both.databricks) == before
    assert again["fare_model"][0].figures["skipped"]
    assert again["batch_predictions"][0].figures["skipped_months"] == list(MONTHS)


def on_databricks_a_change_by_hand_is_computed_again(both: Both) -> None:
    tables, spark = both.databricks.tables, both.databricks.spark
    spark.sql(
        f"UPDATE {tables.uri('trips')} SET fare_amount = fare_amount + 1"
        " WHERE trip_month = '2022-02' AND pickup_location_id = 74"
    )
    (made,) = STEPS["pickup_features"].run(both.databricks, MONTHS, False)
    assert made.figures["skipped_months"] == []  # nobody noted which months a hand changed
    assert made.commit is not None
    assert made.commit.action == "merged"
    assert [v for v in made.verdicts if not v.passed] == []
    for name in ("trips", "pickup_features"):  # what a hand changed is put right
        STEPS[name].run(both.databricks, MONTHS, False)
    assert rows(both.databricks, schemas.TRIPS) == rows(both.embedded, schemas.TRIPS)
    assert rows(both.databricks, schemas.PICKUP_FEATURES) == rows(
        both.embedded, schemas.PICKUP_FEATURES
    )


if not delta_spark.RUNNING:
    CASES = [name for name in globals() if name.startswith("on_databricks_")]

    @pytest.mark.parametrize("case", CASES)
    def test_on_databricks(verdicts: dict[str, ElementTree.Element], case: str) -> None:
        delta_spark.repeat(verdicts[case])
