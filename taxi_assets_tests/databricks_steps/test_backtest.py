"""The backtest on made-up months: what is served when, what is kept, and months that are no use."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from databricks_steps import backtest
from databricks_steps.backtest import POLICIES, Backtest, Lived
from databricks_steps.errors import SettingsError, TableError
from databricks_steps.months import end, start
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Forest, Settings
from databricks_steps.steps import STEPS
from databricks_steps.trips import demo, scenarios

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.long  # a training a month and policy
MONTHS = ("2022-01", "2022-03", "2022-04", "2022-07", "2022-10")  # the third has ten trips
RISE = MONTHS[3:]  # of the fares
ROWS = 5_000


@pytest.fixture(scope="module")
def platform(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedPlatform:
    folder = tmp_path_factory.mktemp("backtest")
    source = folder / "source"
    source.mkdir()
    for month in MONTHS:
        trips = demo.demo_trips(month, 10 if month == "2022-04" else ROWS)
        change = scenarios.named("fare-rise" if month in RISE else "calm").change
        pq.write_table(change(trips), source / f"{demo.PREFIX}tripdata_{month}.parquet")
    settings = Settings(home=folder / "home", source=str(source), estimator=Forest(n_estimators=8))
    platform = EmbeddedPlatform(settings, lambda: spark)
    STEPS["raw_trips"].run(platform, None, False)
    return platform


@pytest.fixture(scope="module")
def history(platform: EmbeddedPlatform) -> dict[str, list[Lived]]:
    held = backtest.prepared(platform, ("2022-01", "2022-02", *MONTHS[1:]))
    assert held == MONTHS
    walk = Backtest(platform, held)
    return {policy: list(walk.walk(policy)) for policy in POLICIES}


def test_a_month_is_served_by_what_was_published_when_it_began(
    history: dict[str, list[Lived]],
) -> None:
    delay = timedelta(days=60)
    for policy, lived in history.items():
        assert [each.month for each in lived] == list(MONTHS)
        promoted = [each.month for each in lived if each.promoted]
        for each in lived:
            there = [m for m in promoted if end(m) + delay <= start(each.month)]
            assert each.served_by == (there[-1] if there else ""), (policy, each.month)
            assert (each.served.mae is None) == (each.served_by == "")
            assert each.champion == next((m for m in promoted[::-1] if m < each.month), "")
    assert [each.served_by for each in history["never"]] == ["", "", "", "2022-01", "2022-01"]


def test_drift_learns_from_what_drifted_and_pays(history: dict[str, list[Lived]]) -> None:
    learned = {p: [each.month for each in lived if each.trained] for p, lived in history.items()}
    assert learned["never"] == ["2022-01"]
    assert learned["drift"] == ["2022-01", "2022-07"]
    assert {*learned["drift"]} < {*learned["monthly"]}
    rise = next(each for each in history["drift"] if each.month == "2022-07")
    assert (rise.judged.kinds[0], rise.judged.severity) == ("concept drift", "error")
    assert {"tariff", "live_error"} <= {*rise.judged.alarms}
    totals = backtest.totals(history)
    assert [totals[p][0] for p in ("never", "drift")] == [1, 2]
    last = {p: lived[-1].served.mae for p, lived in history.items()}
    assert last["drift"] == last["monthly"]
    assert (last["drift"] or 9) < 0.5 * (last["never"] or 0)


def test_a_month_of_ten_trips_says_nothing_and_teaches_nothing(
    platform: EmbeddedPlatform, history: dict[str, list[Lived]]
) -> None:
    few = [lived[2] for lived in history.values()]
    assert {each.judged.kinds for each in few} == {("none",)}
    assert few[0].line() == "2022-04  never   none; not trained: by the policy; not served yet"
    alone = replace(platform.settings, trailing_months=1)
    first, second = Backtest(platform.with_settings(alone), MONTHS[2:4]).walk("monthly")
    assert (first.trained, first.promoted) == (False, False)
    assert first.why.startswith("The train part needs 100 trips")
    assert (second.promoted, second.why) == (True, "the first champion")


def test_what_was_done_is_kept_and_what_was_not_is_done_again(
    platform: EmbeddedPlatform, history: dict[str, list[Lived]]
) -> None:
    folder = platform.settings.home / "backtest"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert not [path for path in before if path.name.endswith(".part")]
    (lost,) = folder.glob("judged_2022-01_2022-07_*")
    lost.unlink()
    shutil.copytree(next(folder.glob("model_2022-01_*")), folder / "model_2022-01_0.part")
    again = {p: list(Backtest(platform, MONTHS).walk(p)) for p in POLICIES}
    assert again == history
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path: at for path, at in after.items() if path in before and path != lost} == {
        path: at for path, at in before.items() if path != lost
    }
    other = replace(platform.settings, estimator=Forest(n_estimators=4))
    assert Backtest(platform.with_settings(other), MONTHS).model("2022-01") is not None
    assert len(list(folder.glob("model_2022-01_*"))) == 3


def test_the_page_shows_policies_alarms_and_cost(history: dict[str, list[Lived]]) -> None:
    page = backtest.render(history)
    assert "Backtest, 2022-01 to 2022-10" in page
    for policy in POLICIES:
        assert f"Policy {policy}" in page
    assert "concept drift" in page
    assert page.count("<img") == 1
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)


def test_what_cannot_be_walked_is_refused(platform: EmbeddedPlatform, settings: Settings) -> None:
    with pytest.raises(TableError, match="A backtest needs two months of trips"):
        backtest.prepared(platform, ["2022-01", "2022-02"])
    empty: Any = EmbeddedPlatform(settings, lambda: platform.spark)
    with pytest.raises(TableError, match="A backtest needs two months of trips"):
        backtest.prepared(empty, ["2022-01"])
    with pytest.raises(SettingsError, match="--policy must be a policy: 'weekly'"):
        backtest.policies("weekly")
    assert backtest.policies(None) == POLICIES
    assert not Path(settings.home / "backtest").exists()
