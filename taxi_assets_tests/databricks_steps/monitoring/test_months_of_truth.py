"""What real months are, by which champion: the product is held to every line of the table."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from databricks_steps import schemas
from databricks_steps.backtest import Backtest, prepared
from databricks_steps.features import lookups
from databricks_steps.features.request import with_request_features
from databricks_steps.inference.scorer import Scorer
from databricks_steps.monitoring import month_report, triage
from databricks_steps.months import trailing
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS
from databricks_steps.training import dataset, evaluation, tariff

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from pyspark.sql import SparkSession

    Rides = Callable[[str], dict[str, pd.DataFrame]]

pytestmark = pytest.mark.long
FILE = Path(__file__).with_name("months_of_truth.csv")
TRUTH = list(csv.DictReader(FILE.read_text(encoding="utf-8").splitlines()))
FORMULAS = {  # base, a mile, a minute, tick; dollars
    "2022-03": (2.01, 1.873, 0.357, 0.5),
    "2023-12": (2.23, 2.563, 0.512, 0.7),
}
PAIRS = (("2021-01", "2021-02"), ("2023-12", "2024-01"))  # learned from, and the month after
JFK = 132


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
    STEPS["raw_trips"].run(platform, None, False)
    return Backtest(platform, prepared(platform, platform.tables.months("raw_trips")))


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


@pytest.fixture(scope="module")
def rides(walked: Backtest) -> Rides:
    """Of a month: the trips with features of each age, as inputs with the fare."""
    platform = walked.platform

    def at(month: str, delay: timedelta) -> pd.DataFrame:
        trips = platform.tables.read("trips", [month])
        known = platform.features.look_up(trips, lookups.delayed(delay), [month])
        found: Any = with_request_features(known).select(*dataset.INPUTS, schemas.LABEL).toPandas()
        frame: pd.DataFrame = found
        return frame

    @cache
    def of(month: str) -> dict[str, pd.DataFrame]:
        fresh, old = at(month, timedelta(0)), at(month, timedelta(days=1))
        return {"fresh": fresh, "a day": old, "none": dataset.without(fresh)}

    return of


@pytest.mark.parametrize(("learned", "month"), PAIRS)
@pytest.mark.parametrize("delay", [60, 0])
def test_a_champion_beats_the_line_at_every_age_on_every_pair_of_months(
    walked: Backtest, rides: Rides, learned: str, month: str, delay: int
) -> None:
    """Its ranges cover what they promise at every age; with the publisher's delay they are one.

    With a live feed they are on average no narrower where no feature is known, from or to JFK, too.
    """
    settings = replace(walked.settings, feature_delay_days=delay)
    assert trailing(walked.months, learned, settings.trailing_months) == (learned,)
    backtest = walked if delay else Backtest(walked.platform.with_settings(settings), (learned,))
    champion = backtest.model(learned)
    assert champion is not None
    scorer = Scorer.load(champion.model)
    train = walked.platform.tables.read("trips", [learned]).select("trip_distance", schemas.LABEL)
    line = evaluation.MeteredFare.fit(*np.array(train.toPandas()).T)
    wide = {}
    for age, frame in rides(month).items():
        fares = frame[schemas.LABEL].to_numpy()
        beat = evaluation.measures(fares, line.predict(frame["trip_distance"].to_numpy()))
        asked = dataset.matrix(frame.assign(trip_type=0))
        error = evaluation.measures(fares, scorer.predict(asked))
        found = scorer.predict_interval(asked)
        covered = float(((fares >= found.low) & (fares <= found.high)).mean())
        jfk = frame[["pickup_location_id", "dropoff_location_id"]].eq(JFK).any(axis=1).to_numpy()
        wide[age] = [
            float(part.mean()) for part in (found.high - found.low, (found.high - found.low)[jfk])
        ]
        print(f"{month}, delay {delay}, {age}: RMSE {error['rmse']:.3f} ({beat['rmse']:.3f}), MAE")
        print(
            f"  {error['mae']:.3f} ({beat['mae']:.3f}), covered {covered:.3f}, "
            f"wide {wide[age][0]:.2f}, at JFK {wide[age][1]:.2f}"
        )
        assert error["rmse"] < beat["rmse"], age
        assert error["mae"] < beat["mae"], age
        assert 0.77 <= covered <= 0.83, age
    if delay:
        assert wide["none"] == pytest.approx(wide["fresh"])
    else:
        assert wide["none"][0] > wide["fresh"][0]
        assert wide["none"][1] > wide["fresh"][1]
