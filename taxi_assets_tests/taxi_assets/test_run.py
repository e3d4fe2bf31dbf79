"""The main job from the command line: what comes out, again, after a kill, and what it refuses."""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest_run import MONTHS, ROWS, Home, Proxy

from databricks_steps import schemas
from databricks_steps.settings import DEMO, JVM
from databricks_steps.training import model_card, registry
from taxi_assets import status
from taxi_assets.deployment import endpoint
from taxi_assets_tests.completion import completed

pytestmark = pytest.mark.slow  # looks at a whole run


FirstRun = tuple[Home, subprocess.CompletedProcess[str]]


def test_last_run_has_the_shape_of_the_contract(first_run: FirstRun) -> None:
    home, done = first_run
    entries = len([*Path(done.args[-1]).iterdir()])
    assert f"; arrivals {entries} rows\n" in done.stdout
    report = home.last_run()
    assert report["status"] == "success"
    assert report["months"] == list(MONTHS)
    tables = report["tables"]
    assert tables["raw_trips"] == tables["trips"] + tables["quarantined_trips"] >= 3 * ROWS
    # What is captured reaches its table within a minute: a short run may end before.
    assert set(schemas.TABLES) - set(tables) <= {"endpoint_payloads"}
    assert report["model"]["name"] == "p03.e2e_demo_simon.dev_mlops_stacks_gcp_fs_model"
    assert (report["model"]["version"], report["model"]["alias"]) == ("1", "champion")
    assert {type(report["model"]["metrics"][m]) for m in ("rmse", "mae", "r2")} == {float}
    assert report["endpoint"] == {
        "name": "mlops-taxi-fare-endpoint",
        "url": f"http://127.0.0.1:{home.port}/serving-endpoints/mlops-taxi-fare-endpoint/invocations",
        "version": "1",
        "state": "READY",
    }
    assert report["batch_predictions"]["rows"] == home_rows(home, "trips", MONTHS[-1])
    assert report["checks"]["failed"] == 0
    assert report["checks"]["passed"] >= 18
    assert {"raw_trips", "fare_model", "serving_endpoint", "batch_predictions"} <= {
        stage["name"] for stage in report["stages"]
    }
    assert all(stage["seconds"] >= 0 for stage in report["stages"])
    assert report["seconds"] > 0


def home_rows(home: Home, table: str, month: str) -> int:
    from deltalake import DeltaTable

    dataset = DeltaTable(str(home.settings.table_path(table))).to_pyarrow_dataset()
    import pyarrow.compute as pc

    column = schemas.TABLES[table].month
    assert column is not None
    return int(dataset.count_rows(filter=pc.field(column) == month))


def metadata(record: Any) -> dict[str, Any]:
    return {k: each.value for k, each in record.asset_materialization.metadata.items()}


def floats(value: Any) -> Iterator[float]:
    """Every float within the value."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from floats(each)


def test_files_that_cannot_be_read_are_refused_by_name_and_the_rest_loads(
    first_run: FirstRun,
) -> None:
    home, done = first_run
    refused = home.last_run()["refused_files"]
    assert set(refused) == {"truncated_2022-01.parquet", "pointer_2022-02.parquet"}
    assert "Git LFS pointer" in refused["pointer_2022-02.parquet"]
    assert "refused      truncated_2022-01.parquet: " in done.stdout


def test_a_terminal_reads_stages_a_summary_and_nothing_else(first_run: FirstRun) -> None:
    home, done = first_run
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert any(line.startswith("  raw_trips ") and " s  " in line for line in lines)
    assert any(line.startswith("status: success in ") for line in lines)
    assert not [line for line in lines if "WARN" in line or "Warning" in line]
    (pasted,) = [line.removeprefix("next ").strip() for line in lines if line.startswith("next ")]
    asked = subprocess.run(
        pasted, shell=True, env=home.environment, capture_output=True, text=True, check=True
    )
    assert set(json.loads(asked.stdout)["predictions"][0]) == {"fare", "low", "high"}


def test_behind_a_proxy_a_run_works_and_no_library_talks_to_its_maker(
    first_run: FirstRun, proxy: Proxy
) -> None:
    home, _ = first_run
    assert proxy.asked == []
    assert [path for path in home.cache.rglob("*") if "onnx" in path.name.lower()] == []


def test_figures_of_made_up_trips_are_told_as_such(first_run: FirstRun) -> None:
    report = first_run[0].last_run()
    assert "made-up" not in status.summary(report)
    assert "made-up" in status.summary({**report, "source": DEMO})


def test_any_delta_reader_opens_every_table(first_run: FirstRun) -> None:
    import duckdb
    from deltalake import DeltaTable

    home, _ = first_run
    report = home.last_run()
    for name, table in schemas.TABLES.items():
        if name not in report["tables"]:
            continue
        opened = DeltaTable(str(home.settings.table_path(name)))
        dataset = opened.to_pyarrow_dataset()
        assert dataset.count_rows() >= report["tables"][name] > 0, name
        assert {f.name for f in opened.schema().fields} == set(table.names)
        assert duckdb.sql("SELECT count(*) FROM dataset").fetchall() == [(dataset.count_rows(),)]


def test_curl_and_the_sdk_get_the_same_fare_whatever_the_request_says_it_was(
    first_run: FirstRun,
) -> None:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.serving import DataframeSplitInput

    home, _ = first_run
    payload = json.loads(endpoint.SINGLE_FILE.read_text())
    token = (home.path / "token").read_text().strip()
    client = WorkspaceClient(host=home.settings.host, token=token, auth_type="pat")
    fares = set()
    for fare in (0.0, 12.5, 9999.0):
        record = {**payload["dataframe_records"][0], "fare_amount": fare}
        request = urllib.request.Request(
            home.last_run()["endpoint"]["url"],
            json.dumps({"dataframe_records": [record]}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            fares.add(json.load(answer)["predictions"][0])
        split = DataframeSplitInput(columns=list(record), data=[list(record.values())])
        for asked in ({"dataframe_records": [record]}, {"dataframe_split": split}):
            answered = client.serving_endpoints.query("mlops-taxi-fare-endpoint", **asked)
            assert answered.predictions is not None
            fares.add(answered.predictions[0])
    assert len(fares) == 1
    queried = home.call("query", str(endpoint.SINGLE_FILE))
    assert json.loads(queried.stdout)["predictions"] == list(fares)


def test_status_tells_what_is_there(first_run: FirstRun) -> None:
    home, _ = first_run
    found = json.loads(home.call("status", "--json").stdout)
    assert found["tables"]["trips"]["months"] == list(MONTHS)
    assert (found["champion"]["version"], found["endpoint"]["state"]) == ("1", "READY")
    assert "endpoint  READY, version 1" in home.call("status").stdout


MONTHLY = (
    *("raw_trips", "arrivals", "trips", "quarantined_trips"),
    *("pickup_features", "dropoff_features"),
    *("batch_predictions", "endpoint_payloads", "drift_report", "live_performance"),
)
PICTURES = {
    "trips": ["Mean fare by hour and weekday", "Mean fare by pickup zone"],
    "quarantined_trips": ["Trips by the rule they broke"],
    "fare_model": [*model_card.PICTURES],
    "drift_report": ["How far features moved"],
    "live_performance": ["Mean absolute error", "Mean absolute error by day"],
}


def test_a_shell_completes_months_and_versions(first_run: FirstRun) -> None:
    home, _ = first_run
    there = {"TAXI_HOME": str(home.path)}
    assert completed("taxi-assets run --months 2022-0", **there) == list(MONTHS)
    assert completed("taxi-assets rollback --to ", **there) == ["1"]
    assert completed("taxi-assets run --target dev --months ", **there) == []


def test_the_run_shows_in_dagster(first_run: FirstRun) -> None:
    import dagster as dg

    home, _ = first_run
    with dg.DagsterInstance.from_config(str(home.path / "dagster")) as found:
        assert [run.status.value for run in found.get_runs()] == ["SUCCESS", "SUCCESS"]
        for name in ("raw_trips", "trips", "pickup_features"):
            records = found.fetch_materializations(dg.AssetKey(name), limit=10).records
            rows = {r.partition_key: metadata(r)["dagster/row_count"] for r in records}
            assert rows == {month: home_rows(home, name, month) for month in MONTHS}
        held = found.get_dynamic_partitions("months")
        assert held == list(MONTHS)
        for name in MONTHLY:
            assert found.get_materialized_partitions(dg.AssetKey(name)) == {*held}, name
        reports = found.fetch_materializations(dg.AssetKey("drift_report"), limit=10).records
        told = {record.partition_key: metadata(record) for record in reports}
        assert {month: "why" in each for month, each in told.items()} == {
            MONTHS[0]: True,
            MONTHS[1]: True,
            MONTHS[2]: False,
        }
        for key in found.all_asset_keys():
            for record in found.fetch_materializations(key, limit=10).records:
                assert [v for v in floats(metadata(record)) if float(f"{v:.6g}") != v] == []
        for name, pictures in PICTURES.items():
            records = found.fetch_materializations(dg.AssetKey(name), limit=10).records
            for told in map(metadata, records):
                if "why" in told:  # a month that the champion learned from
                    continue
                captions = re.findall(r"!\[(.+?)\]\(data:image/svg\+xml;base64,", told["pictures"])
                assert captions == pictures
                for svg in re.findall(r"base64,([^)]+)\)", told["pictures"]):
                    ElementTree.fromstring(base64.b64decode(svg))
                assert len(told["pictures"]) < 150_000
        model = found.get_latest_materialization_event(dg.AssetKey("fare_model"))
        assert model is not None
        assert model.asset_materialization is not None
        assert model.asset_materialization.metadata["model_version"].value == "1"
        report = found.get_latest_materialization_event(dg.AssetKey("drift_report"))
        assert report is not None
        for name in ("pickup_features", "dropoff_features"):  # told by the report, so after it
            key = dg.AssetCheckKey(dg.AssetKey(name), "drift")
            records = found.event_log_storage.get_asset_check_execution_history(key, limit=5)
            told = [each.run_id for each in records if each.status.value == "SUCCEEDED"]
            assert told == [report.run_id]


def test_mlflow_knows_what_a_version_has_learned_from_and_keeps_its_pictures(
    first_run: FirstRun,
) -> None:
    home, _ = first_run
    found = registry.client(home.settings)
    version = found.get_model_version(home.settings.registered_model, "1")
    assert re.match(
        r"Learned from 2022-01, .*RMSE \d\.\d\d, .*Checks passed\.", version.description
    )
    datasets = [each.dataset for each in found.get_run(version.run_id).inputs.dataset_inputs]
    assert {each.name: each.digest for each in datasets} == dict.fromkeys(
        ("trips", "pickup_features", "dropoff_features"), "version 0"
    )
    for each in datasets:
        assert json.loads(each.source)["path"] == str(home.settings.table_path(each.name))
    kept = {each.path for each in found.list_artifacts(version.run_id, "pictures")}
    assert kept == {*model_card.PICTURES.values()}


REFUSED = {
    "a missing source": (
        ["--source", "/nowhere/at/all"],
        {},
        r"error: .*/nowhere/at/all.*",
    ),
    "a month that is not there": (["--months", "2021-07"], {}, r"error: .*2021-07.*"),
    "a month that is none": (
        ["--months", "2022-13"],
        {},
        r"error: Months must be written YYYY-MM.*: '2022-13'\. For example 2022-01:2022-03",
    ),
    "no features to skip": (
        ["--skip-features"],
        {},
        r"error: --skip-features needs features: trips is empty\. Run without it once",
    ),
    "no model to skip": (
        ["--skip-training"],
        {},
        r"error: --skip-training needs a model: no \S+@champion\. Run without it once",
    ),
    "a port that is none": (
        [],
        {"TAXI_PORT": "eighty"},
        r"error: TAXI_PORT must be a whole number from 1024 to 65535: 'eighty'\. .*",
    ),
    "a target that is none": (
        [],
        {"TAXI_TARGET": "moon"},
        r"error: TAXI_TARGET must be a target: 'moon'\. Use one of: local, loopback, dev, .*",
    ),
    "skipped and forced": (["--skip-features", "--force-features"], {}, r"error: .*Give one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_writes_nothing(
    homes: Any, small_source: Path, case: str
) -> None:

    arguments, environment, message = REFUSED[case]
    home = homes("refused")
    if "--source" not in arguments:
        arguments = [*arguments, "--source", str(small_source)]
    done = home.invoke("run", *arguments, **environment)
    assert done.returncode == 1, done.stdout
    assert re.fullmatch(message, done.stderr.strip()), done.stderr
    assert not (home.path / "warehouse").exists()
    assert not (home.path / "last_run.json").exists()


def test_a_port_in_use_is_named(homes: Any, small_source: Path) -> None:
    home = homes("taken")
    with socket.socket() as other:
        other.bind(("127.0.0.1", home.port))
        other.listen()
        done = home.invoke("run", "--source", str(small_source))
    assert done.returncode == 1
    assert str(home.port) in done.stderr
    assert "TAXI_PORT" in done.stderr
    assert done.stderr.count("\n") == 1


def _java(folder: Path, version: str) -> str:
    java = folder / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2018-09-25' >&2\n")
    java.chmod(0o755)
    return str(folder)


def test_no_java_and_an_old_java_are_named_where_the_engine_needs_one(
    homes: Any, small_source: Path, tmp_path: Path
) -> None:
    home = homes("java")
    arguments = ("run", "--source", str(small_source))
    in_jvm = {"TAXI_SPARK": JVM}
    old = home.invoke(*arguments, JAVA_HOME=_java(tmp_path / "java11", "11.0.2"), **in_jvm)
    assert old.returncode == 1
    assert "Spark needs Java 17 or newer: " in old.stderr
    assert "11.0.2" in old.stderr
    none = home.invoke(*arguments, JAVA_HOME=str(tmp_path / "nothing"), **in_jvm)
    assert none.returncode == 1
    assert "Spark needs Java: none found at " in none.stderr
    assert none.stderr.count("\n") == 1


def test_a_run_asks_for_no_java(first_run: Any, no_java: dict[str, str]) -> None:
    home, done = first_run
    assert done.returncode == 0
    assert home.last_run()["checks"]["failed"] == 0
    folder = Path(no_java["PATH"].partition(":")[0])
    assert [path.name for path in folder.iterdir()] == ["java"]  # nobody asked for it


def test_too_little_memory_for_the_engine_is_named(homes: Any, small_source: Path) -> None:
    done = homes("memory").call("run", "--source", str(small_source), TAXI_DRIVER_MEMORY="1m")
    assert done.returncode == 1
    assert "TAXI_DRIVER_MEMORY is 1m" in done.stderr
    assert "TAXI_SPARK=local" in done.stderr


@pytest.mark.long
def test_three_real_months_without_java(
    homes: Any, real_data: Path, no_java: dict[str, str]
) -> None:
    home = homes("real")
    source, months = str(real_data / "tlc" / "green"), "2022-01:2022-03"
    done = home.call("run", "--source", source, "--months", months, **no_java)
    assert done.returncode == 0, done.stderr + done.stdout
    report = home.last_run()
    assert report["tables"]["raw_trips"] == 210_431
    assert report["checks"] == {"passed": 35, "warned": 0, "failed": 0}
    folder = Path(no_java["PATH"].partition(":")[0])
    assert [path.name for path in folder.iterdir()] == ["java"]


def test_a_home_that_cannot_be_written_is_named(
    homes: Any, small_source: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = homes("blocked").call("run", "--source", str(small_source), TAXI_HOME=str(blocked))
    assert done.returncode == 1
    assert done.stderr.startswith("error: TAXI_HOME must be a folder: ")
    assert done.stderr.count("\n") == 1
