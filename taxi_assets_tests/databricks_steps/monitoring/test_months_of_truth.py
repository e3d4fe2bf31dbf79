"""What real months are, by which champion: the product is held to every line of the table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from databricks_steps.backtest import Backtest
from databricks_steps.monitoring import month_report, triage
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS
from databricks_steps.training import tariff

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.long
FILE = Path(__file__).with_name("months_of_truth.csv")
TRUTH = list(csv.DictReader(FILE.read_text(encoding="utf-8").splitlines()))
FORMULAS = {  # base, a mile, a minute, tick; dollars
    "2022-03": (2.01, 1.873, 0.357, 0.5),
    "2023-12": (2.23, 2.563, 0.512, 0.7),
}


@pytest.fixture(scope="module")
def walked(
    spark: SparkSession, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Backtest:
    """All green months at hand, and the models that are made of them."""
    folder = tmp_path_factory.mktemp("truth")
    source = folder / "source"
    source.mkdir()
    for file in real_data.glob("tlc/*/green_tripdata_*.parquet"):
        (source / file.name).symlink_to(file)
    platform = EmbeddedPlatform(Settings(home=folder / "home", source=str(source)), lambda: spark)
    for step in ("raw_trips", "trips", "pickup_features", "dropoff_features"):
        STEPS[step].run(platform, None, False)
    return Backtest(platform, tuple(platform.tables.months("trips")))


@pytest.mark.parametrize("line", TRUTH, ids=lambda line: f"{line['month']}-by-{line['champion']}")
def test_a_month_is_what_it_is(line: dict[str, str], walked: Backtest) -> None:
    assert walked.model(line["champion"]) is not None
    found = walked.judgement(line["champion"], line["month"])
    severity = "error" if found.severity == "error" else "quiet"
    told = "\n".join(found.evidence)
    assert (found.kinds[0], severity) == (line["class"], line["severity"]), told
    assert ("live_error" in found.alarms) == (line["class"] == triage.CONCEPT), told


@pytest.mark.parametrize(("month", "champion"), [("2023-01", "2022-03"), ("2024-01", "2023-12")])
def test_the_audit_finds_the_one_change_of_the_tariff(
    month: str, champion: str, walked: Backtest
) -> None:
    platform = walked.platform
    before, now = (
        tariff.metered(platform.tables.read("trips", [each]), each) for each in (champion, month)
    )
    audit = tariff.audited(month, champion, now, before)
    assert audit.before is not None
    base, per_mile, per_minute, tick = FORMULAS[champion]
    fit = (audit.before.base, audit.before.per_mile, audit.before.per_minute)
    assert fit == pytest.approx((base, per_mile, per_minute), rel=0.03)
    assert (audit.before.tick, audit.before.tick_share > 0.995) == (tick, True)
    assert audit.changed == (month == "2023-01")
    assert audit.since == ("2023-01-01" if audit.changed else "")
    assert month_report.Audit.from_json(audit.to_json()) == audit
