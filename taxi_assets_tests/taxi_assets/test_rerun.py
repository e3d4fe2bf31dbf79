"""Running again: after a kill, without news (no engine, no commit), and forced."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest_run import MONTHS, Home, table_rows
from deltalake import DeltaTable

from databricks_steps import schemas
from taxi_assets.deployment import endpoint
from taxi_assets_tests.waiting import until

pytestmark = pytest.mark.slow  # whole runs
DISTANCES = ("population_stability_index", "jensen_shannon", "wasserstein")
NO_ENGINE = {"TAXI_SPARK": "sc://127.0.0.1:1"}  # where nothing listens


@pytest.fixture(scope="module")
def home(homes: Any, small_source: Path) -> Home:
    """Its first run was killed in the middle of `trips`, its second of `dropoff_features`."""
    home: Home = homes("killed")
    for stage, before in (("trips", "raw_trips"), ("dropoff_features", "trips")):
        killed = home.start("run", "--source", str(small_source))
        assert killed.stdout is not None
        assert any(line.split()[:1] == [before] for line in killed.stdout), stage
        time.sleep(1.5)  # into the stage that follows
        killed.kill()
        killed.wait()
        assert not (home.path / "last_run.json").exists()
    again = home.call("run", "--source", str(small_source))
    assert again.returncode == 0, again.stderr
    return home


def test_killed_twice_and_run_again_gives_the_rows_of_a_clean_run(
    home: Home, first_run: tuple[Home, Any]
) -> None:
    clean, _ = first_run
    for name, table in schemas.TABLES.items():
        if name in ("endpoint_payloads", "live_performance"):  # as many as were captured by then
            continue
        # Fares and metrics come from a model fitted anew, in a run of its own: the same to
        # rounding, which sets cannot say.
        left_out = (*table.computed, "predicted_fare", "metrics", "run_id", *DISTANCES)
        assert table_rows(home, name, left_out) == table_rows(clean, name, left_out), name
    fitted = [found.last_run()["model"]["metrics"] for found in (home, clean)]
    assert fitted[0] == pytest.approx(fitted[1], rel=1e-6)
    with dg.DagsterInstance.from_config(str(home.path / "dagster")) as found:
        statuses = sorted(run.status.value for run in found.get_runs())
    assert statuses == ["FAILURE", "FAILURE", "SUCCESS", "SUCCESS"]


def state(home: Home) -> dict[str, Any]:
    """Version of every Delta table on disk, and when each file that people read was written."""
    logs = home.path.rglob("_delta_log")
    pages = [p for folder in ("reports", "check_cache") for p in (home.path / folder).rglob("*")]
    return {
        **{str(log.parent): DeltaTable(str(log.parent)).version() for log in logs},
        **{str(page): page.stat().st_mtime_ns for page in pages},
    }


def held(home: Home) -> tuple[Any, ...]:
    """The partitions in Dagster, and the months of which an asset says that it was not made."""
    with dg.DagsterInstance.from_config(str(home.path / "dagster")) as found:
        records = found.fetch_materializations(dg.AssetKey("drift_report"), limit=99).records
        unmade = [r.partition_key for r in records if "why" in r.asset_materialization.metadata]
        return found.get_dynamic_partitions("months"), unmade


def rerun(home: Home, source: Path, *options: str, **environment: str) -> dict[str, Any]:
    done = home.call("run", "--source", str(source), *options, **environment)
    assert done.returncode == 0, done.stderr + done.stdout
    return home.last_run()


def test_two_runs_without_news_change_nothing_and_ask_no_engine(
    home: Home, small_source: Path
) -> None:
    home.captured()  # what the run itself has asked, which comes after its end
    before, last, months = state(home), home.last_run(), held(home)
    assert months == ([*MONTHS], [MONTHS[1], MONTHS[0]])
    runs = [rerun(home, small_source, **NO_ENGINE) for _ in range(2)]
    assert (state(home), held(home)) == (before, months)
    for report in runs:
        assert {k: report[k] for k in ("tables", "model", "checks")} == {
            k: last[k] for k in ("tables", "model", "checks")
        }
        assert {stage["name"] for stage in report["stages"]} == {
            stage["name"] for stage in last["stages"]
        }
        assert report["batch_predictions"] == last["batch_predictions"]


def test_the_runs_own_requests_are_nobodys_rides_and_those_of_users_are(
    home: Home, small_source: Path
) -> None:
    before = home.captured()
    raw = DeltaTable(str(home.settings.table_path(home.settings.payload_table)))
    names = raw.to_pyarrow_table(columns=["client_request_id"]).column(0).to_pylist()
    assert len(names) > 100  # parity or latency have asked
    assert all(str(name).startswith("taxi-assets-check-") for name in names)
    assert "endpoint_payloads" not in home.last_run()["tables"]

    asked = home.call("query", str(endpoint.SINGLE_FILE))
    assert len(json.loads(asked.stdout)["predictions"]) == 1
    until(lambda: home.captured() > before)
    assert rerun(home, small_source)["tables"]["endpoint_payloads"] == 1
    rerun(home, small_source, **NO_ENGINE)


@pytest.mark.long  # a whole run more
def test_forced_every_verdict_is_proven_anew_and_no_row_is_added(
    home: Home, small_source: Path
) -> None:
    made = [name for name in schemas.TABLES if home.settings.table_path(name).exists()]
    of_a_run = schemas.TABLES["drift_report"].computed
    kept = {name: of_a_run if name == "drift_report" else () for name in made}
    rows = {name: table_rows(home, name, without) for name, without in kept.items()}
    before, last = state(home), home.last_run()
    done = home.call("run", "--source", str(small_source), "--force-features")
    assert done.returncode == 0, done.stderr + done.stdout
    after, report = state(home), home.last_run()
    verdicts = [path for path in before if "check_cache" in path]
    assert len(verdicts) >= 8
    assert all(after[path] > before[path] for path in verdicts)
    assert {k: report[k] for k in ("tables", "checks")} == {
        k: last[k] for k in ("tables", "checks")
    }
    assert {name: table_rows(home, name, without) for name, without in kept.items()} == rows
    stages = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert f"skipped, unchanged: {', '.join(MONTHS)}" in stages["raw_trips"]
    assert "skipped" not in stages["pickup_features"]  # forced, to the same rows
    assert "skipped, nothing changed" in stages["fare_model"]
    assert report["model"]["version"] == "1"

    redeployed = home.call("run", "--skip-features", "--skip-training")
    assert redeployed.returncode == 0, redeployed.stderr
    assert home.last_run()["source"] == "tables at hand"
    names = {stage["name"] for stage in home.last_run()["stages"]}
    assert {"serving_endpoint", "batch_predictions"} <= names
    assert not {"raw_trips", "pickup_features", "fare_model"} & names


def test_light_commands_import_nothing_heavy(home: Home) -> None:
    heavy = ("mlflow", "databricks.sdk", "pandas", "pyspark", "sklearn")
    commands = {
        ("--help",): (*heavy, "dagster", "deltalake"),
        ("query", str(endpoint.SINGLE_FILE)): (*heavy, "dagster", "deltalake", "numpy"),
        ("status",): heavy,
        ("alerts",): heavy,
    }
    for command, absent in commands.items():
        script = (
            "import sys; from taxi_assets.cli import main\n"
            f"try: main({list(command)!r})\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            f"print([name for name in {absent!r} if name in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=home.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.splitlines()[-1] == "[]", command
