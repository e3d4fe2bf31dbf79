"""`taxi-assets dev` left alone: months of real trips land, and the rest needs no further hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from conftest_run import Home, free_port
from deltalake import DeltaTable

from databricks_steps.training import registry
from taxi_assets import dagster_instance
from taxi_assets.resources.alerts import AlertLog, JsonLines
from taxi_assets_tests.taxi_assets.webhook_receiver import Receiver

KEPT = 4  # every fourth trip of a month: its days and zones stay as they are
SECONDS = 900.0  # of a machine that does other things, too


def sample(source: Path, file: Path) -> bytes:
    whole = pq.read_table(source)
    pq.write_table(whole.take(list(range(0, len(whole), KEPT))), file)
    return file.read_bytes()


@dataclass
class Watched:
    """A home under `taxi-assets dev`, and a webhook that it tells of its problems."""

    home: Home
    months: Path
    receiver: Receiver

    def __post_init__(self) -> None:
        self.instance = dagster_instance.instance(self.home.settings)
        self.landing = self.home.path / "landing"

    def land(self, month: str, share: float = 1.0) -> None:
        """Copy a month into the landing folder; by `share` only its beginning."""
        name = f"green_tripdata_{month}.parquet"
        self.landing.mkdir(exist_ok=True)
        content = (self.months / name).read_bytes()
        (self.landing / name).write_bytes(content[: int(len(content) * share)])

    def wait(self, what: str, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not done():
            assert time.monotonic() < deadline, (what, self.runs(), self.said())
            time.sleep(1)

    def runs(self) -> list[tuple[str, str]]:
        """Job and status of every run of a sensor, the oldest first."""
        found = self.instance.get_runs()
        asked = [run for run in reversed(found) if run.tags.get("dagster/sensor_name")]
        return [(run.job_name, run.status.value) for run in asked]

    def alerts(self) -> list[tuple[str, str]]:
        rows = JsonLines(self.home.path / "alerts.jsonl").rows()
        return [(row["severity"], row["key"]) for row in rows]

    def said(self) -> str:
        return (self.home.path / "dev.log").read_text()[-3000:]


@pytest.fixture
def watched(homes: Any, real_data: Path, tmp_path: Path) -> Iterator[Watched]:
    """The pipeline has run on 2022-01 and 2022-02; the daemon is on."""
    months, first = tmp_path / "months", tmp_path / "first"
    months.mkdir()
    first.mkdir()
    for month in ("2022-01", "2022-02", "2022-03", "2023-01"):
        name = f"green_tripdata_{month}.parquet"
        sample(real_data / "tlc" / "green" / name, months / name)
        if month < "2022-03":
            (first / name).write_bytes((months / name).read_bytes())
    home, receiver = homes("watched"), Receiver()
    done = home.call("run", "--source", str(first))
    assert done.returncode == 0, done.stderr + done.stdout
    with (home.path / "dev.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "taxi_assets.cli", "dev", "--port", str(free_port())],
            env={
                **home.environment,
                "TAXI_SOURCE": str(first),
                "TAXI_SENSOR_SECONDS": "2",
                "TAXI_ALERT_URLS": receiver.url,
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    yield Watched(home, months, receiver)
    os.killpg(server.pid, signal.SIGINT)
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
    receiver.close()


@pytest.mark.long
def test_a_usual_month_is_learned_from_and_a_drifted_one_is_told_once(watched: Watched) -> None:
    settings = watched.home.settings
    before = versions(watched.home)
    judged = [("new_month", "SUCCESS"), ("retrain", "SUCCESS")]

    # A file that is still being copied waits; a broken one is told by name and blocks nothing.
    watched.land("2022-03", share=0.5)
    (watched.landing / "green_tripdata_2022-04.parquet").write_bytes(b"PAR1 and no more")
    log = watched.home.path / "alerts.jsonl"
    broken = "green_tripdata_2022-04.parquet: it is truncated"
    watched.wait(
        "the broken file", lambda: any(broken in str(row["what"]) for row in JsonLines(log).rows())
    )
    assert watched.runs() == []
    (watched.landing / "green_tripdata_2022-04.parquet").unlink()
    watched.land("2022-03")

    watched.wait("2022-03", lambda: watched.runs() == judged)
    (version,) = versions(watched.home) - before
    verdicts = registry.verdicts(settings, registry.numbered(settings, version))
    refused = [verdict.reason for verdict in verdicts if not verdict.passed]
    assert (version in promoted(watched.home)) is not any(refused), refused
    assert predicted_months(watched.home) == {"2022-02", "2022-03"}
    drifted = [key for _, key in watched.alerts() if "triage" in key]
    assert drifted == []  # a month like those before raises none

    watched.land("2023-01")
    key = "check drift_report: triage 2023-01"
    watched.wait("2023-01", lambda: ("resolved", key) in watched.alerts())
    watched.wait("its webhook", lambda: f"[resolved] {key}" in watched.receiver.titles)
    watched.wait("the end of the retrain", lambda: watched.runs() == judged * 2)
    assert [row for row in watched.alerts() if row[1] == key] == [("error", key), ("resolved", key)]
    assert [title for title in watched.receiver.titles if key in title] == [
        f"[error] {key}",
        f"[resolved] {key}",
    ]
    (told,) = [
        row
        for row in JsonLines(watched.home.path / "alerts.jsonl").rows()
        if (row["severity"], row["key"]) == ("error", key)
    ]
    assert "concept drift" in told["what"]
    # The champion's own fares move by 0.12 standard deviations, of 0.15: `prediction_drift` passes.
    assert failed_checks(watched.instance) >= {
        ("pickup_features", "drift"),
        ("dropoff_features", "drift"),
        ("live_performance", "live_error"),
        ("drift_report", "triage"),
    }
    watched.wait("the end of every other problem", lambda: AlertLog(settings).problems() == [])


def versions(home: Home) -> set[str]:
    name = home.settings.registered_model
    found = registry.client(home.settings).search_model_versions(f"name = '{name}'")
    return {str(each.version) for each in found}


def promoted(home: Home) -> list[str]:
    rows = DeltaTable(str(home.settings.table_path("deployments"))).to_pyarrow_table()
    return [str(number) for number in rows["to_version"].to_pylist()]


def predicted_months(home: Home) -> set[str]:
    found = DeltaTable(str(home.settings.table_path("batch_predictions"))).to_pyarrow_table()
    return set(found["trip_month"].to_pylist())


def failed_checks(found: dg.DagsterInstance) -> set[tuple[str, str]]:
    """Asset and check of every evaluation that failed."""
    events = found.get_event_records(
        dg.EventRecordsFilter(dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    )
    evaluations = [e.event_log_entry.dagster_event.asset_check_evaluation_data for e in events]
    return {(e.asset_key.to_user_string(), e.check_name) for e in evaluations if not e.passed}
