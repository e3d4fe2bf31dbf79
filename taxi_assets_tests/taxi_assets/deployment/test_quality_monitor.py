"""The monitor on `endpoint_payloads` is created once, corrected, read back, and refused clearly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from databricks_steps.errors import ServingError
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.deployment import plan, quality_monitor
from taxi_assets.deployment.online_store import workspace_client
from taxi_assets_tests.documents import Documents, answering

CATALOG = "/api/2.1/unity-catalog"
NAME = "p03.e2e_demo_simon.endpoint_payloads"
MONITORS = "/api/data-quality/v1/monitors"
MINE = f"{MONITORS}/table/table-7"
# What Databricks' reference takes in these places; anything else is refused there.
TAKEN = {"output_schema_id", "assets_dir", "schedule", "inference_log"}
LOG = {
    *("problem_type", "timestamp_column", "granularities"),
    *("prediction_column", "model_id_column", "label_column"),
}


class Databricks(Documents):
    """The part of the REST API that keeps monitors, written from its published reference."""

    calls: list[str]

    def do_POST(self) -> None:
        asked = self._body()
        assert urlsplit(self.path).path == MONITORS
        if "refused" in self.documents:
            self.answer(403, "MANAGE is lacking")
            return
        profiling = asked["data_profiling_config"]
        unknown = {*profiling} - TAKEN | {*profiling["inference_log"]} - LOG
        if unknown or asked["object_type"] != "table":
            self.answer(400, str(unknown))
            return
        if MINE in self.documents:
            self.answer(409, "there is one")
            return
        made = {
            "status": "DATA_PROFILING_STATUS_PENDING",
            "drift_metrics_table_name": f"{NAME}_drift_metrics",
            "profile_metrics_table_name": f"{NAME}_profile_metrics",
        }
        document = {**asked, "data_profiling_config": {**profiling, **made}}
        self.documents[f"{MONITORS}/table/{asked['object_id']}"] = document
        if self.documents.pop("lost", None) is None:
            self.answer(200, document)

    def do_PATCH(self) -> None:
        asked, where = self._body(), urlsplit(self.path)
        kept = self.documents[where.path]["data_profiling_config"]
        (mask,) = parse_qs(where.query)["update_mask"]
        for part in mask.split(","):
            first, name = part.split(".")
            kept[name] = asked[first][name]
        self.answer(200, self.documents[where.path])

    def _body(self) -> dict[str, Any]:
        self.calls.append(f"{self.command} {urlsplit(self.path).path}")
        found: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return found


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[type[Databricks], Any, Settings]]:
    """Databricks' API with table and schema in place, a client of it, and the target's settings."""
    documents = {
        f"{CATALOG}/tables/{NAME}": {"full_name": NAME, "table_id": "table-7"},
        f"{CATALOG}/schemas/p03.e2e_demo_simon": {"schema_id": "schema-3"},
    }
    handler = type("Own", (Databricks,), {"documents": documents, "calls": []})
    with answering(handler) as host:
        client = workspace_client(host, "a-token-of-no-one")
        yield handler, client, replace(Settings(home=tmp_path), platform=DATABRICKS)


def planned(client: Any, settings: Settings) -> list[str]:
    """What `deploy --plan` says of the monitor, among what else is to be made."""
    changes = plan.plan(client, settings, "1")
    assert {"online store", "serving endpoint"} <= {each.kind for each in changes}
    return [str(each) for each in changes if each.kind == "monitor"]


def test_it_is_created_once_and_profiles_fares_by_day_and_version(remote: Any) -> None:
    api, client, settings = remote
    assert quality_monitor.ensure(client, settings) == "created"
    assert quality_monitor.ensure(client, settings) == "unchanged"
    assert api.calls == [f"POST {MONITORS}"]
    made = api.documents[MINE]
    assert (made["object_type"], made["object_id"]) == ("table", "table-7")
    profiling = made["data_profiling_config"]
    assert profiling["output_schema_id"] == "schema-3"
    assert profiling["inference_log"] == {
        "problem_type": "INFERENCE_PROBLEM_TYPE_REGRESSION",
        "timestamp_column": "requested_at",
        "granularities": ["AGGREGATION_GRANULARITY_1_DAY"],
        "prediction_column": "predicted_fare",
        "model_id_column": "model_version",
    }
    columns = {column.name for column in quality_monitor.TABLE.columns}
    assert {v for k, v in profiling["inference_log"].items() if k.endswith("column")} <= columns


def test_one_whose_making_is_asked_for_twice_is_made_once(remote: Any) -> None:
    api, client, settings = remote
    api.documents["lost"] = {}
    assert quality_monitor.ensure(client, settings) == "created"
    assert api.calls == [f"POST {MONITORS}"] * 2
    assert quality_monitor.ensure(client, settings) == "unchanged"


def test_what_differs_is_planned_and_corrected_and_the_rest_stays(remote: Any) -> None:
    api, client, settings = remote
    quality_monitor.ensure(client, settings)
    profiling = api.documents[MINE]["data_profiling_config"]
    profiling["inference_log"]["prediction_column"] = "fare"
    profiling["assets_dir"] = "/Workspace/Shared/elsewhere"
    assert planned(client, settings) == [
        f"~ update    monitor {NAME}: inference_log.prediction_column fare -> predicted_fare"
    ]
    assert quality_monitor.ensure(client, settings) == "updated"
    profiling = api.documents[MINE]["data_profiling_config"]
    assert profiling["inference_log"]["prediction_column"] == "predicted_fare"
    assert profiling["assets_dir"] == "/Workspace/Shared/elsewhere"
    assert planned(client, settings) == [f"= unchanged monitor {NAME}"]


def test_before_the_table_and_on_a_laptop_there_is_nothing_to_watch(remote: Any) -> None:
    api, client, settings = remote
    assert planned(client, settings) == [f"+ create    monitor {NAME}: daily, by model version"]
    del api.documents[f"{CATALOG}/tables/{NAME}"]
    assert quality_monitor.ensure(client, settings) is None
    assert quality_monitor.read(client, settings) is None
    assert planned(client, settings) == []
    here = Settings(home=settings.home)
    assert quality_monitor.ensure(client, here) is None
    assert quality_monitor.read(client, here) is None
    assert planned(client, here) == []
    assert api.calls == []


def test_its_newest_refresh_is_read_back(remote: Any) -> None:
    api, client, settings = remote
    assert quality_monitor.read(client, settings) is None
    quality_monitor.ensure(client, settings)
    api.documents[f"{MINE}/refreshes"] = {}
    assert quality_monitor.read(client, settings) == quality_monitor.Monitor(
        state="DATA_PROFILING_STATUS_PENDING",
        drift_table=f"{NAME}_drift_metrics",
        profile_table=f"{NAME}_profile_metrics",
        refreshed=None,
        at=None,
        message=None,
    )
    api.documents[MINE]["data_profiling_config"]["status"] = "DATA_PROFILING_STATUS_ACTIVE"
    api.documents[f"{MINE}/refreshes"] = {
        "refreshes": [
            {
                "refresh_id": 2,
                "state": "MONITOR_REFRESH_STATE_FAILED",
                "message": "no rows of this day",
                "start_time_ms": 1648774800000,
                "end_time_ms": 1648774860000,
            },
            {
                "refresh_id": 1,
                "state": "MONITOR_REFRESH_STATE_SUCCESS",
                "start_time_ms": 1648688400000,
                "end_time_ms": 1648688460000,
            },
        ]
    }
    found = quality_monitor.read(client, settings)
    assert found is not None
    assert (found.state, found.refreshed) == (
        "DATA_PROFILING_STATUS_ACTIVE",
        "MONITOR_REFRESH_STATE_FAILED",
    )
    assert (found.at, found.message) == ("2022-04-01T01:01:00+00:00", "no rows of this day")


def test_a_refusal_is_one_sentence_with_its_remedy(remote: Any) -> None:
    api, client, settings = remote
    api.documents["refused"] = {}
    with pytest.raises(ServingError) as told:
        quality_monitor.ensure(client, settings)
    rule = "The monitor of endpoint_payloads must be kept by these credentials: MANAGE is lacking"
    assert str(told.value).startswith(rule)
    assert str(told.value).endswith("Grant MANAGE and SELECT on the table: docs/databricks.md")
    assert "a-token-of-no-one" not in str(told.value)
