"""`taxi-assets dev`: the UI loads, a month launched there runs to success, a browser shows it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import pytest
from browser import BROKEN, Page
from conftest_run import Home, free_port, table_rows

from databricks_steps.months import shift, this_month
from taxi_assets import status
from taxi_assets.graph import BY_MONTH
from taxi_assets_tests.waiting import Process, until

pytestmark = pytest.mark.long  # the UI, with all its processes

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) { ... on Run {
    status
    assetMaterializations { assetKey { path } partition }
  } }
}"""
RUNS = """{ runsOrError { ... on Runs { results { id parentRunId repositoryOrigin {
  repositoryLocationName } } } } }"""
AGAIN = """
mutation Again($params: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $params) {
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
ADD = """
mutation Add($repository: RepositorySelector!, $month: String!) {
  addDynamicPartition(
    repositorySelector: $repository, partitionsDefName: "months", partitionKey: $month
  ) { __typename }
}"""
BACKFILL = """
mutation Backfill($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}"""
BACKFILLED = """
query Backfilled($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
}"""
BARS = """
{ assetNodes { assetKey { path } partitionStats { numPartitions numMaterialized } } }"""
FAILURES = """
query Failures($id: ID!) {
  logsForRun(runId: $id) { ... on EventConnection { events {
    ... on ExecutionStepFailureEvent { stepKey error { message causes { message } } }
  } } }
}"""
CHECKS = """
query Checks($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetChecksOrError { ... on AssetChecks { checks {
      name blocking executionForLatestMaterialization { status evaluation {
        description
        metadataEntries { label ... on FloatMetadataEntry { floatValue }
          ... on IntMetadataEntry { intValue } }
      } }
    } } }
  } }
}"""


class Ui:
    """The GraphQL API of a running `dagster dev`."""

    def __init__(self, port: int) -> None:
        self.host = f"http://127.0.0.1:{port}"
        self.address = f"{self.host}/graphql"

    def ask(self, query: str, **variables: Any) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(self.address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
        assert "errors" not in found, found["errors"]
        return found["data"]

    def wait_until_loaded(self, server: subprocess.Popen[bytes]) -> Any:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert server.poll() is None, "dagster dev ended"
            try:
                found = self.ask(
                    "{ repositoriesOrError { ... on RepositoryConnection { nodes {"
                    " name location { name } jobs { name } assetNodes { id } } } } }"
                )["repositoriesOrError"]["nodes"]
                if found:
                    return found[0]
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(1)
        raise AssertionError("dagster dev did not load the definitions")

    def add(self, repository: Any, month: str) -> None:
        """As the button "Add a partition" does."""
        self.ask(ADD, repository=selector(repository), month=month)

    def launch(self, repository: Any, job: str, month: str) -> str:
        launched = self.ask(
            LAUNCH,
            params={
                "selector": {**selector(repository), "jobName": job},
                "runConfigData": {},
                "executionMetadata": {"tags": [{"key": "dagster/partition", "value": month}]},
            },
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return str(launched["run"]["runId"])

    def backfill(self, assets: Sequence[str], months: Sequence[str]) -> str:
        """How a backfill of these ended."""
        selection = [{"path": [name]} for name in assets]
        params = {"assetSelection": selection, "partitionNames": [*months]}
        launched = self.ask(BACKFILL, params=params)["launchPartitionBackfill"]
        deadline = time.monotonic() + 600
        ended = "REQUESTED"
        while ended in ("REQUESTED", "COMPLETING") and time.monotonic() < deadline:
            time.sleep(2)
            found = self.ask(BACKFILLED, id=launched["backfillId"])["partitionBackfillOrError"]
            ended = found["status"]
        return str(ended)

    def bars(self) -> dict[str, tuple[int, int]]:
        """Monthly asset → partitions, and how many of them are green."""
        return {
            node["assetKey"]["path"][0]: (stats["numPartitions"], stats["numMaterialized"])
            for node in self.ask(BARS)["assetNodes"]
            if (stats := node["partitionStats"]) is not None
        }

    def wait_until_ended(self, run_id: str) -> Any:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            run = self.ask(RUN, id=run_id)["runOrError"]
            if run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
                break
            time.sleep(2)
        return run


def selector(repository: Any) -> dict[str, str]:
    return {
        "repositoryLocationName": repository["location"]["name"],
        "repositoryName": repository["name"],
    }


@pytest.fixture(scope="module")
def ui(homes: Any, small_source: Path) -> Iterator[tuple[Home, Ui, subprocess.Popen[bytes]]]:
    home, port = homes("dev"), free_port()
    home.path.mkdir()
    with (home.path / "dev.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "taxi_assets.cli", "dev", "--port", str(port)],
            env={**home.environment, "TAXI_SOURCE": str(small_source)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        yield home, Ui(port), server
        server.terminate()  # itself, not its session: what it has started ends with it
        try:
            server.wait(60)
        finally:
            with suppress(ProcessLookupError):  # nothing is left of the session
                os.killpg(server.pid, signal.SIGKILL)


def warnings_of(home: Home) -> list[str]:
    """What the servers, and the run that they launched, warned of."""
    said = [home.path / "dev.log", *home.path.rglob("*.err")]
    assert len(said) > 1  # the run's own
    return [line for log in said for line in log.read_text().splitlines() if "Warning: " in line]


def checks_of(api: Ui, asset: str) -> list[Any]:
    node = api.ask(CHECKS, key={"path": [asset]})["assetNodeOrError"]
    found: list[Any] = node["assetChecksOrError"]["checks"]
    return found


def runs_of(api: Ui) -> list[Any]:
    found: list[Any] = api.ask(RUNS)["runsOrError"]["results"]
    return found


def figures(checks: list[Any], name: str) -> dict[str, float]:
    """The figures people see beside a check."""
    (check,) = (c for c in checks if c["name"] == name)
    entries = check["executionForLatestMaterialization"]["evaluation"]["metadataEntries"]
    return {e["label"]: e.get("floatValue", e.get("intValue")) for e in entries}


def test_a_month_launched_in_the_ui_is_served(
    ui: tuple[Home, Ui, subprocess.Popen[bytes]], small_source: Path
) -> None:
    home, api, server = ui
    repository = api.wait_until_loaded(server)
    assert "fare_pipeline" in {job["name"] for job in repository["jobs"]}
    assert len(repository["assetNodes"]) == 16
    foreign = urllib.request.Request(api.address, b"{}", {"Origin": "http://evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):  # taxi_assets/webserver.py
        urllib.request.urlopen(foreign, timeout=60)
    api.add(repository, "2022-01")
    run = api.wait_until_ended(api.launch(repository, "fare_pipeline", "2022-01"))
    assert run["status"] == "SUCCESS", (home.path / "dev.log").read_text()[-3000:]
    made = {(m["assetKey"]["path"][0], m["partition"]) for m in run["assetMaterializations"]}
    assert {("trips", "2022-01"), ("batch_predictions", "2022-01"), ("fare_model", None)} <= made
    assert len(made) == 16
    assert set(api.bars().values()) == {(1, 1)}  # green, all of it
    assert len(api.bars()) == 10

    checks = checks_of(api, "fare_model")
    assert {c["name"]: c["executionForLatestMaterialization"]["status"] for c in checks} == {
        "beats_baseline": "SUCCEEDED",
        "champion_not_better": "SUCCEEDED",
        "no_label_leak": "SUCCEEDED",
        "onnx_parity": "SUCCEEDED",
        "slices": "SUCCEEDED",
    }
    assert all(check["blocking"] for check in checks)
    assert abs(figures(checks, "no_label_leak")["r2_of_shuffled_fares"]) <= 0.05
    for table in ("pickup_features", "dropoff_features"):
        honest = figures(checks_of(api, table), "no_future_knowledge")
        assert (honest["trips_compared"], honest["values_that_differ"]) == (200, 0)
    # A run of the command line is one of the same job, and can be executed again from here.
    source = ("--source", str(small_source))
    done = home.call("run", *source, "--months", "2022-01", "--skip-training")
    assert done.returncode == 0, done.stderr
    newest = runs_of(api)[0]
    location = repository["location"]["name"]
    assert newest["repositoryOrigin"] == {"repositoryLocationName": location}
    again = api.ask(AGAIN, params={"parentRunId": newest["id"], "strategy": "ALL_STEPS"})
    run = api.wait_until_ended(again["launchRunReexecution"]["run"]["runId"])
    assert run["status"] == "SUCCESS", (home.path / "dev.log").read_text()[-3000:]
    assert ["batch_predictions"] in [m["assetKey"]["path"] for m in run["assetMaterializations"]]

    # All partitions, of which March is taken for the first time: February is not held.
    api.add(repository, "2022-03")
    assert api.backfill(BY_MONTH, ["2022-01", "2022-03"]) == "COMPLETED_SUCCESS"
    assert {api.bars()[name] for name in BY_MONTH} == {(2, 2)}
    assert status.logs(home.settings).months("trips") == ["2022-01", "2022-03"]
    to_come = shift(this_month(), 1)
    api.add(repository, to_come)
    refused = api.launch(repository, "new_month", to_come)
    assert api.wait_until_ended(refused)["status"] == "FAILURE"
    events = api.ask(FAILURES, id=refused)["logsForRun"]["events"]
    assert f"'{to_come}'. For example 2022-01:2022-03" in str(events)

    assert table_rows(home, "batch_predictions")
    assert "READY" in home.call("status").stdout
    assert warnings_of(home) == []


def test_a_run_is_executed_again_from_its_page(
    ui: tuple[Home, Ui, subprocess.Popen[bytes]], page: Page
) -> None:
    """The one of the command line, of which the test above has made another."""
    _, api, _ = ui
    (parent,) = {run["parentRunId"] for run in runs_of(api)} - {None}
    page.open(f"{api.host}/runs/{parent}")
    page.click("Re-execute all", of="button")
    made = page.until(f"!location.href.includes('{parent}') && location.href").rpartition("/")[2]
    assert api.wait_until_ended(made)["status"] == "SUCCESS"
    assert runs_of(api)[0] | {"id": made, "parentRunId": parent} == runs_of(api)[0]


@pytest.mark.parametrize(
    ("asset", "pictures"),
    [
        ("trips", 2),
        ("quarantined_trips", 1),
        ("fare_model", 5),
        ("drift_report", 1),
        ("live_performance", 2),
    ],
)
def test_the_pictures_of_an_asset_are_shown(
    ui: tuple[Home, Ui, subprocess.Popen[bytes]], page: Page, asset: str, pictures: int
) -> None:
    page.open(f"{ui[1].host}/assets/{asset}")
    page.click("Show Markdown")
    page.until(f"document.images.length === {pictures}")
    page.until("[...document.images].every((one) => one.complete)")
    assert page.evaluate(BROKEN) == []


def test_where_one_process_ends_all_end(
    ui: tuple[Home, Ui, subprocess.Popen[bytes]],
) -> None:
    """Last of all: nobody is told that all is well by a webserver without a daemon."""
    home, api, server = ui
    api.wait_until_loaded(server)
    (daemon,) = (line.split()[0] for line in of_session(server) if "dagster._daemon" in line)
    os.kill(int(daemon), signal.SIGKILL)
    assert server.wait(300) == 1
    assert "error: the daemon has ended with -9" in (home.path / "dev.log").read_text()
    until(lambda: not of_session(server))


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv: util-linux has it")
def test_a_supervisor_that_is_killed_leaves_nothing(homes: Any) -> None:
    home: Home = homes("killed")
    command = [sys.executable, "-m", "taxi_assets.cli", "dev", "--port", str(free_port())]
    with Process(
        command, env=home.environment, start_new_session=True, stdout=DEVNULL, stderr=DEVNULL
    ) as server:
        until(lambda: any("dagster._daemon" in line for line in of_session(server)), 120)
        server.kill()
    until(lambda: not of_session(server))


def of_session(server: subprocess.Popen[bytes]) -> list[str]:
    """Process id and command line of all processes that it has started."""
    asked = ["ps", "-ww", "-o", "pid=,args=", "-s", str(server.pid)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
