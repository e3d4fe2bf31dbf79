"""The scenario lab: each changed month fires exactly the checks of its line, and gets its class."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from databricks_steps.errors import SourceError
from databricks_steps.monitoring import triage
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import REPOSITORY, Settings
from databricks_steps.steps import STEPS
from databricks_steps.trips import demo, scenarios
from databricks_steps.trips.files import inspected
from databricks_steps.trips.scenarios import SCENARIOS
from taxi_assets_tests.databricks_steps.monitoring.monitor_table import measured, write

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TAUGHT, MONTH = ("2022-01", "2022-02"), "2022-03"
ROWS = 12_000
TRAINING = ("training_set", "fare_model", "champion_model")
JUDGED = (
    *("raw_trips", "trips", "pickup_features", "dropoff_features"),
    *("batch_predictions", "drift_report"),
)


@pytest.fixture(scope="module")
def taught(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose champion has learned two calm months."""
    home = tmp_path_factory.mktemp("lab") / "home"
    source = home.parent / "source"
    source.mkdir()
    for month in (*TAUGHT, MONTH):
        file = source / f"{demo.PREFIX}tripdata_{month}.parquet"
        pq.write_table(demo.demo_trips(month, ROWS), file)
    platform = EmbeddedPlatform(Settings(home=home, source=str(source)), lambda: spark)
    for name in (*JUDGED[:4], *TRAINING):
        STEPS[name].run(platform, TAUGHT, False)
    return home


def by_cost() -> list[Any]:
    """A calm month, a changed one, and what is refused; the others, of the same cost, as long."""
    short = ("calm", "fare-rise", *(name for name, each in SCENARIOS.items() if each.refused))
    return [pytest.param(n, marks=() if n in short else pytest.mark.long) for n in SCENARIOS]


@pytest.mark.slow
@pytest.mark.parametrize("name", by_cost())
def test_a_scenario_fires_exactly_its_checks(
    name: str, taught: Path, spark: SparkSession, tmp_path: Path
) -> None:
    scenario = SCENARIOS[name]
    calm = taught.parent / "source" / f"{demo.PREFIX}tripdata_{MONTH}.parquet"
    file = scenarios.landed(scenario, tmp_path / "landing", MONTH, calm)
    assert [path.name for path in file.parent.iterdir()] == [calm.name]
    if scenario.refused:
        assert inspected(file).problem == scenario.refused
        return
    home = tmp_path / "home"
    shutil.copytree(taught, home)
    settings = Settings(home=home, source=str(file.parent))
    platform = EmbeddedPlatform(settings, lambda: spark)
    fired, kind = set(), ""
    for step in JUDGED:
        for outcome in STEPS[step].run(platform, [MONTH], False):
            fired |= {f"{outcome.name}.{v.check}" for v in outcome.verdicts if not v.passed}
            for asset, told in outcome.figures.get("verdicts", {}).items():
                fired |= set() if told["passed"] else {f"{asset}.{told['check']}"}
            if "triage" in outcome.figures:
                kind = outcome.figures["triage"]["kind"]
    assert (kind, sorted(fired)) == (scenario.kind, sorted(scenario.fires))
    assert (home / "reports" / f"drift_report_{MONTH}.html").read_text().count("<img") >= 6


@pytest.mark.slow
def test_what_databricks_monitor_measured_is_told_with_the_report(
    taught: Path, spark: SparkSession, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(taught, home)
    platform = EmbeddedPlatform(Settings(home=home), lambda: spark)
    (alone, _) = STEPS["drift_report"].run(platform, TAUGHT[-1:], False)
    assert "databricks_monitor" not in alone.figures
    write(platform.settings, [measured(2, 0.2), measured(3, 0.3)])
    (found, _) = STEPS["drift_report"].run(platform, TAUGHT[-1:], False)
    assert found.figures["databricks_monitor"] == {
        "since": "2022-03-03T00:00:00",
        "model_version": "1",
        "population_stability_index": 0.3,
        "js_distance": 0.25,
    }


def test_the_table_of_the_docs_is_that_of_the_code() -> None:
    text = (REPOSITORY / "docs" / "monitoring.md").read_text()
    lines = re.findall(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    assert lines == [
        (
            each.name,
            each.story,
            (each.refused and f"none: the file is refused, {each.refused}")
            or ", ".join(f"`{check}`" for check in each.fires)
            or "none",
            each.kind,
        )
        for each in SCENARIOS.values()
    ]
    assert {each.kind for each in SCENARIOS.values()} <= set(triage.KINDS)


def test_what_cannot_be_rehearsed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"must be one of the lab's: 'flood'\. Use one of: calm,"):
        scenarios.named("flood")
    other = tmp_path / "green_tripdata_2022-01.parquet"
    pq.write_table(demo.demo_trips("2022-01", 100), other)
    with pytest.raises(SourceError, match=r"needs the month 2022-02 as a parquet file"):
        scenarios.landed(SCENARIOS["calm"], tmp_path, "2022-02", other)
    other.write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"green_tripdata_2022-01.parquet: it is truncated"):
        scenarios.landed(SCENARIOS["calm"], tmp_path, "2022-01", other)


def test_the_month_after_the_newest_is_the_default() -> None:
    assert scenarios.next_month(["2022-01", "2022-12"]) == "2023-01"
    assert scenarios.next_month([]) == demo.MONTHS[0]


def test_a_change_leaves_every_other_column_alone() -> None:
    calm = demo.demo_trips("2022-01", 500)
    for scenario in SCENARIOS.values():
        changed = scenario.change(calm)
        same = [
            name
            for name in changed.column_names
            if name in calm.column_names
            and len(changed) == len(calm)
            and not changed.column(name).equals(calm.column(name))
        ]
        # A fare is part of the total; a vendor's, or a minute's, goes with a second column.
        assert len({*same} - {"total_amount"}) <= 2, scenario.name
    assert replace(SCENARIOS["calm"]).change(calm).equals(calm)
