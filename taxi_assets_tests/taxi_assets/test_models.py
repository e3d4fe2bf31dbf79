"""Models on real months, by the command line: promoted, refused, rolled back, reproduced."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest_run import Home
from deltalake import DeltaTable

from databricks_steps import schemas
from databricks_steps.features import lookups
from databricks_steps.features.request import with_request_features
from databricks_steps.inference.scorer import Scorer
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.training import dataset, evaluation, model_card, registry
from taxi_assets.deployment import endpoint
from taxi_assets.deployment.online_store import workspace_client
from taxi_assets.emulator import auth

if TYPE_CHECKING:
    import pandas as pd
    from databricks.sdk import WorkspaceClient
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.long  # three trainings on real months

JFK = 132
SINGLE = json.loads(endpoint.SINGLE_FILE.read_text(encoding="utf-8"))


@dataclass
class Trained:
    """A home in which versions were trained one after another, and what each run said."""

    home: Home
    source: Path
    said: dict[str, subprocess.CompletedProcess[str]] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)

    @property
    def client(self) -> WorkspaceClient:
        settings = self.home.settings
        return workspace_client(settings.host, auth.token(settings.token_file))

    def run(self, name: str, *arguments: str) -> None:
        self.said[name] = self.home.call("run", "--source", str(self.source), *arguments)
        self.served[name] = self.version_served()

    def version_served(self) -> str:
        found = self.client.serving_endpoints.get(self.home.settings.endpoint).config
        assert found is not None
        assert found.served_entities is not None
        (entity,) = found.served_entities
        return str(entity.entity_version)

    def champion(self) -> str:
        return registry.require(self.home.settings, registry.CHAMPION).number

    def table(self, name: str) -> Any:
        return DeltaTable(str(self.home.settings.table_path(name))).to_pandas()


def shuffled(path: Path, target: Path) -> None:
    """The same month with its fares dealt out anew among the trips."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    fares = table.column("fare_amount").combine_chunks()
    order = np.random.default_rng(4).permutation(len(fares))
    place = table.schema.get_field_index("fare_amount")
    pq.write_table(table.set_column(place, "fare_amount", pc.take(fares, pa.array(order))), target)


@pytest.fixture(scope="module")
def trained(homes: Any, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Versions 1 (two months), 2 (shuffled fares), 3 (January 2023)."""
    green = real_data / "tlc" / "green"
    source = tmp_path_factory.mktemp("months")
    made = Trained(homes("models"), source)
    for month in ("2022-01", "2022-02"):
        shutil.copy(green / f"green_tripdata_{month}.parquet", source)
    made.run("first", "--months", "2022-01:2022-02")
    assert made.said["first"].returncode == 0, made.said["first"].stderr

    shutil.copy(green / "green_tripdata_2022-03.parquet", source)
    made.run("scored", "--months", "2022-03", "--skip-training")
    assert made.said["scored"].returncode == 0, made.said["scored"].stderr

    for month in ("2022-01", "2022-02"):
        file = f"green_tripdata_{month}.parquet"
        shuffled(green / file, source / file)
    made.run("shuffled", "--months", "2022-01:2022-02")

    for month in ("2022-01", "2022-02"):  # as they were published
        shutil.copy(green / f"green_tripdata_{month}.parquet", source)
    shutil.copy(green / "green_tripdata_2023-01.parquet", source)
    made.run("later", "--months", "2023-01")
    assert made.said["later"].returncode == 0, made.said["later"].stderr
    return made


def test_the_first_candidate_is_promoted_and_its_holdout_ends_its_months(trained: Trained) -> None:
    first = registry.numbered(trained.home.settings, "1")
    assert (first.tags["checks"], first.tags["months"]) == ("passed", "2022-01,2022-02")
    assert trained.served["first"] == "1"
    ledger = trained.table("deployments").sort_values("number")
    assert list(ledger["to_version"]) == ["1", "3"]
    assert list(ledger["action"]) == ["promoted", "promoted"]
    assert ledger["why"].iloc[0] == "the first champion"


def test_the_champion_of_two_months_keeps_its_bounds_on_the_third(trained: Trained) -> None:
    """RMSE at most 3.92 and MAE at most 1.62 dollars on March 2022, as served."""
    predictions = trained.table("batch_predictions")
    first = predictions[predictions["model_version"] == "1"]
    march = first[first["trip_month"] == "2022-03"]
    trips = trained.table("trips")[["trip_id", "fare_amount"]]
    both = march.merge(trips, on="trip_id")
    assert len(both) == 72_786
    error = both["predicted_fare"] - both["fare_amount"]
    rmse, mae = float(np.sqrt((error**2).mean())), float(error.abs().mean())
    print(f"March 2022: RMSE {rmse:.3f}, MAE {mae:.3f} dollars over {len(both):,} trips")
    assert rmse <= 3.92
    assert mae <= 1.62


@pytest.fixture(scope="module")
def march(trained: Trained, spark: SparkSession) -> pd.DataFrame:
    """March 2022 with fresh features and the trip type told, as inputs with the fare."""
    platform = EmbeddedPlatform(trained.home.settings, lambda: spark)
    trips = platform.tables.read("trips", ["2022-03"])
    known = platform.features.look_up(trips, lookups.LOOKUPS, ["2022-03"])
    found: Any = with_request_features(known).select(*dataset.INPUTS, schemas.LABEL).toPandas()
    frame: pd.DataFrame = found
    return frame


def test_the_champion_keeps_its_bounds_whatever_its_rides_meet(
    trained: Trained, march: pd.DataFrame
) -> None:
    typed = march
    fresh = typed.assign(trip_type=0)
    fares = typed[schemas.LABEL].to_numpy()
    line = evaluation.MeteredFare.fit(typed["trip_distance"].to_numpy(), fares)
    beat = evaluation.measures(fares, line.predict(typed["trip_distance"].to_numpy()))["rmse"]
    scorer = Scorer.load(registry.folder(trained.home.settings, "1"))
    for name, frame, rmse, mae in (
        ("fresh", fresh, 3.88, 1.60),
        ("none", dataset.without(fresh), 3.92, 1.62),
        ("none, type told", dataset.without(typed), 3.50, 1.50),
    ):
        found = evaluation.measures(fares, scorer.predict(dataset.matrix(frame)))
        print(f"March 2022, {name}: RMSE {found['rmse']:.3f}, MAE {found['mae']:.3f}")
        assert found["rmse"] <= rmse < beat, name
        assert found["mae"] <= mae, name


def test_the_model_card_tells_the_error_by_age(trained: Trained) -> None:
    settings = trained.home.settings
    version = registry.numbered(settings, "1")
    verdicts = {v.check: v for v in registry.verdicts(settings, version)}
    ages = {k: v for k, v in verdicts["beats_baseline"].figures.items() if "_at_" in k}
    assert set(ages) == {
        f"rmse_at_{age}" for age in ("fresh", "a_day", "a_week", "a_month", "two_months", "none")
    }
    assert all(0 < rmse < version.metrics["metered_fare_rmse"] for rmse in ages.values())
    assert ages["rmse_at_two_months"] == pytest.approx(version.metrics["rmse"])  # as served
    page = registry.read_text(settings, version, model_card.FILE)
    for cell in ("two months", "RMSE without dropoff_features"):
        assert cell in page


def test_a_candidate_of_shuffled_fares_is_refused_with_its_sentence(trained: Trained) -> None:
    refused = trained.said["shuffled"]
    assert refused.returncode == 1
    (line,) = [x for x in refused.stderr.splitlines() if x.startswith("error: ")]
    assert "A blocking check failed: failed check fare_model: beats_baseline: not better than" in (
        line
    )
    assert trained.served["shuffled"] == "1"
    second = registry.numbered(trained.home.settings, "2")
    assert second.tags["checks"] == "failed"
    assert "2" not in set(trained.table("deployments")["to_version"])


def test_after_the_fare_change_the_new_candidate_wins_on_the_same_rows(trained: Trained) -> None:
    third = registry.numbered(trained.home.settings, "3")
    assert third.tags["months"] == "2023-01"
    compared = {v.check: v for v in registry.verdicts(trained.home.settings, third)}[
        "champion_not_better"
    ]
    print(compared.reason)
    assert compared.passed
    assert compared.figures["champion"] == "1"
    assert compared.figures["high"] < 0  # significantly better, not merely no worse
    assert "on the same" in compared.reason
    assert "95% interval" in compared.reason
    assert trained.served["later"] == "3"


def test_the_interval_covers_what_it_promises_on_a_month_never_seen(
    trained: Trained, march: pd.DataFrame
) -> None:
    """Between 77 and 83 of 100 fares of March 2022 lie inside the 80 % interval of version 1."""
    settings, typed = trained.home.settings, march
    fares = typed[schemas.LABEL].to_numpy()
    scorer = Scorer.load(registry.folder(settings, "1"))
    asked = typed.assign(trip_type=0)
    for frame in (dataset.without(asked), dataset.without(typed)):
        found = scorer.predict_interval(dataset.matrix(frame))
        inside = (fares >= found.low) & (fares <= found.high)
        assert 0.77 <= float(inside.mean()) <= 0.83
        by = {
            "distance": np.digitize(frame["trip_distance"], [1, 2, 5, 10]),
            "hour": np.digitize(frame["pickup_hour"], [6, 10, 16, 20]),
            "airport": frame[["pickup_is_airport", "dropoff_is_airport"]].max(axis=1).to_numpy(),
            "trip type": frame["trip_type"].to_numpy(),
        }
        for name, values in by.items():
            covered = {int(v): round(float(inside[values == v].mean()), 3) for v in set(values)}
            print(f"coverage of March 2022 by {name}: {covered}")
            assert all(0.72 <= share <= 0.88 for share in covered.values()), name
    assert scorer.spec.interval is not None
    assert 0.77 <= scorer.spec.interval.coverage <= 0.83


def test_the_endpoint_gives_the_interval_when_asked(trained: Trained) -> None:
    settings = trained.home.settings
    plain = endpoint.answer(trained.client, settings, SINGLE)
    asked = endpoint.answer(trained.client, settings, {**SINGLE, "params": {"interval": True}})
    (fare,) = plain["predictions"]
    (found,) = asked["predictions"]
    assert found["fare"] == pytest.approx(fare, abs=1e-6)
    assert 0 <= found["low"] < fare < found["high"]
    assert 0.7 < asked["interval"]["coverage"] < 0.9
    assert set(plain) == {"predictions"}


def test_a_ride_of_now_is_answered_from_what_its_zones_are(trained: Trained) -> None:
    """At the endpoint nothing is known of the last days: zones are, and JFK is an airport."""
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    asked = {"dropoff_location_id": 230, "trip_distance": 17.0, "pickup_datetime": f"{now:%F %T}"}
    records = [{"pickup_location_id": zone, **asked} for zone in (JFK, 74)]
    params = {"interval": True, "features": True}
    body = {"dataframe_records": records, "params": params}
    found = endpoint.answer(trained.client, trained.home.settings, body)
    assert found["features"]["pickup_is_airport"] == [1.0, 0.0]
    assert len(found["feature_age_seconds"]) == 2
    assert all(ages == [None, None] for ages in found["feature_age_seconds"].values())
    airport, other = found["predictions"]
    assert 60 < airport["fare"] < 80  # the flat fare to Manhattan is 70 dollars since December 2022
    assert airport["fare"] != pytest.approx(other["fare"], abs=1.0)


def test_a_version_reproduces_itself(trained: Trained) -> None:
    """From the table versions of then, although January and February were replaced twice since."""
    done = trained.home.call("reproduce", "1", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert (found["version"], found["equal"]) == ("1", True)
    print("largest difference of a reproduced metric:", found["largest_difference"])
    assert found["largest_difference"] <= 1e-9
    assert {"rmse", "mae", "r2", "p90_absolute_error"} <= set(found["metrics"])


def test_the_model_card_tells_the_version_and_needs_no_network(trained: Trained) -> None:
    settings = trained.home.settings
    path = registry.artifact(settings, registry.numbered(settings, "1"), "passport.html")
    page = Path(path).read_text(encoding="utf-8")
    for text in ("2022-01", "2022-02", "pickup_features", "taxi-assets reproduce 1", "rmse"):
        assert text.lower() in page.lower(), text
    for address in ('src="http', 'href="http', "url(http", "@import", "<script"):
        assert address not in page, address


class Asking(threading.Thread):
    """Sends requests one after another, and counts answers by kind, until it is stopped."""

    def __init__(self, trained: Trained) -> None:
        super().__init__(daemon=True)
        self.answered, self.failed = 0, list[str]()
        self._done = threading.Event()
        self._client, self._settings = trained.client, trained.home.settings

    def run(self) -> None:
        while not self._done.is_set():
            try:
                endpoint.query(self._client, self._settings, SINGLE)
                self.answered += 1
            except Exception as error:  # noqa: PERF203 each answer counts
                self.failed.append(str(error))

    def __enter__(self) -> Asking:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join(30)


@pytest.fixture
def back_to_the_newest(trained: Trained) -> Iterator[None]:
    yield
    trained.home.call("rollback", "--to", "3")


@pytest.mark.usefixtures("back_to_the_newest")
def test_rollback_moves_alias_and_endpoint_without_a_failed_request(trained: Trained) -> None:
    dry = trained.home.invoke("rollback", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "dry run: would move version 3 to version 1" in dry.stdout
    assert (trained.champion(), trained.version_served()) == ("3", "3")

    moves = len(trained.table("deployments"))
    with Asking(trained) as asking:
        time.sleep(1)
        done = trained.home.call("rollback", "--why", "a test")
        time.sleep(1)
    assert done.returncode == 0, done.stderr
    print(f"{asking.answered:,} answers, {len(asking.failed)} failed;", done.stdout.strip())
    assert asking.failed == []
    assert asking.answered > 100
    assert "moved version 3 to version 1, endpoint updated, in" in done.stdout
    assert (trained.champion(), trained.version_served()) == ("1", "1")
    ledger = trained.table("deployments").sort_values("number")
    assert len(ledger) == moves + 1
    last = ledger.iloc[-1]
    assert (last["action"], last["from_version"], last["to_version"], last["why"]) == (
        "rolled back",
        "3",
        "1",
        "a test",
    )
    again = trained.home.call("rollback", "--to", "1")
    assert "version 1 is champion already; endpoint unchanged" in again.stdout
    assert len(trained.table("deployments")) == moves + 1


def test_rollback_to_what_is_not_there_or_failed_is_refused(trained: Trained) -> None:
    for version, said in (("99", "99"), ("2", "checks failed")):
        done = trained.home.invoke("rollback", "--to", version)
        assert done.returncode == 1
        (line,) = [x for x in done.stderr.splitlines() if x]
        assert line.startswith("error: ")
        assert said in line
    assert trained.champion() == trained.version_served()


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    (line,) = [x for x in done.stderr.splitlines() if x]
    assert line.startswith("error: ")
    return line


def test_without_a_champion_nothing_rolls_back_or_reproduces(homes: Any) -> None:
    home = homes("no_champion")
    assert "A trained model is needed: no p03." in one_line(home.invoke("rollback"))
    assert "1" in one_line(home.invoke("reproduce", "1"))
    assert "1" in one_line(home.invoke("approve", "1"))


def test_when_every_trip_is_quarantined_the_run_says_so(homes: Any, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from databricks_steps.trips.demo import demo_trips

    table = demo_trips("2022-01", 500)
    place = table.schema.get_field_index("fare_amount")
    free = table.set_column(place, "fare_amount", pa.array([0.0] * table.num_rows))
    pq.write_table(free, tmp_path / "green_tripdata_2022-01.parquet")
    home = homes("quarantined")
    said = one_line(home.call("run", "--source", str(tmp_path)))
    assert "Trips are needed: the table trips is empty" in said
    assert registry.version(home.settings, registry.CHAMPION) is None
    assert home.last_run()["tables"]["quarantined_trips"] == table.num_rows
