"""What the workspace tells about what it serves: metrics, logs, the page and its figures."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests
from databricks.sdk.errors import BadRequest, NotFound

from taxi_assets.deployment import endpoint
from taxi_assets.emulator.api import metrics_routes
from taxi_assets.emulator.runtime import metrics, state
from taxi_assets.emulator.runtime.metrics import BOUNDS_MS, Tally
from taxi_assets.emulator.runtime.state import State
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace

pytestmark = pytest.mark.slow  # an emulator of its own
TRIP = {
    "pickup_location_id": 74,
    "dropoff_location_id": 9_999,  # unknown
    "trip_distance": 1.8,
    "pickup_datetime": "2022-02-01 08:30:00",
}
LATE = {**TRIP, "pickup_datetime": "2022-02-28 08:30:00"}  # every row is older than a week


def exported(workspace: Workspace) -> dict[str, float]:
    """Name with labels → value, as a scraper reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    name = workspace.settings.endpoint
    contents = workspace.client.serving_endpoints.export_metrics(name).contents
    assert contents is not None
    text = contents.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(
                value for key, value in sorted(sample.labels.items()) if key != "endpoint_name"
            )
            found[f"{sample.name}({labels})"] = sample.value
    return found


def overview(workspace: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = workspace.client.api_client.do("GET", "/api/2.0/taxi/overview")
    return found


def test_counters_add_up_over_answers_refusals_and_a_restart(served: Workspace) -> None:
    client, settings = served.client, served.settings
    for _ in range(3):
        endpoint.query(client, settings, {"instances": [TRIP]})
    endpoint.query(client, settings, {"instances": [TRIP, LATE, LATE, LATE]})
    path = f"/serving-endpoints/{settings.endpoint}/invocations"
    with pytest.raises(BadRequest):
        client.api_client.do("POST", path, body={"instances": [{**TRIP, "trip_distance": -1}]})
    model = f"{settings.registered_model},1,taxi-fare"
    pickups, dropoffs = (settings.table(f"{name}_features") for name in ("pickup", "dropoff"))
    expected = {
        f"request_count_total({model})": 4,
        f"request_4xx_count_total({model})": 0,
        f"request_5xx_count_total({model})": 0,
        f"prediction_count_total({model})": 7,
        "request_count_total(,,)": 1,
        "request_4xx_count_total(,,)": 1,
        f"feature_lookup_count_total(fresh,{pickups})": 4,
        f"feature_lookup_count_total(stale,{pickups})": 3,
        f"feature_lookup_count_total(unknown,{dropoffs})": 7,
    }
    found = exported(served)
    assert {name: found[name] for name in expected} == expected
    buckets = [found[f"request_latency_ms_bucket({settings.registered_model},1,+Inf,taxi-fare)"]]
    assert buckets == [4]
    shown = overview(served)["endpoints"][0]
    assert shown["refusals"][0]["code"] == 400
    assert "trip_distance must be a number above 0" in shown["refusals"][0]["message"]
    served.restart()
    found = exported(served)
    assert {name: found[name] for name in expected} == expected


def test_the_overview_shows_versions_times_and_feature_ages(served: Workspace) -> None:
    endpoint.query(served.client, served.settings, {"instances": [TRIP]})
    found = overview(served)
    (shown,) = found["endpoints"]
    assert shown["name"] == served.settings.endpoint
    assert shown["state"] == {"ready": "READY", "config_update": "NOT_UPDATING"}
    assert shown["config"]["traffic_config"]["routes"][0]["traffic_percentage"] == 100
    answered = next(each for each in shown["answered"] if each["served"])
    assert (answered["version"], set(answered["codes"])) == ("1", {"200"})
    assert len(answered["buckets"]) == len(found["bounds_ms"]) + 1
    assert sum(answered["buckets"]) == sum(answered["codes"].values())
    tables = {table["name"]: table for table in found["online_tables"]}
    assert set(tables) == {
        served.settings.table(f"{name}_features_online") for name in ("pickup", "dropoff")
    }
    newest = {table["newest"] for table in tables.values()}
    assert newest == {1643675400000000}  # 2022-02-01 00:30
    assert {table["rows"] for table in tables.values()} == {7}


def test_the_log_of_a_served_model_tells_of_updates_and_failures(served: Workspace) -> None:
    api, name = served.client.serving_endpoints, served.settings.endpoint
    endpoint.ensure_endpoint(served.client, served.settings, "2", timeout=60)
    with pytest.raises(Exception, match="UPDATE_FAILED"):
        endpoint.ensure_endpoint(served.client, served.settings, "78", timeout=60)
    endpoint.ensure_endpoint(served.client, served.settings, "1", timeout=60)
    lines = api.logs(name, "taxi-fare").logs
    assert re.search(r"serves: .* version 2 as taxi-fare", lines)
    assert re.search(r"failed: .* version 78", lines)
    with pytest.raises(NotFound, match=r"Served model does not exist: other. One of"):
        api.logs(name, "other")


def test_the_page_is_open_holds_no_data_and_loads_nothing(served: Workspace) -> None:
    answer = requests.get(served.settings.host, timeout=10)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.count("sha256-") == 2
    assert "unsafe" not in policy
    assert not re.findall(
        r"""(?:src|href)\s*=|url\(|@import|https?://(?!www\.w3\.org/2000/svg")""",
        metrics_routes.PAGE,
    )
    assert served.token not in answer.text
    assert served.settings.endpoint not in answer.text
    data = requests.get(f"{served.settings.host}/api/2.0/taxi/overview", timeout=10)
    assert data.status_code == 401


@pytest.mark.parametrize(
    ("micros", "place"), [(0, 0), (100, 0), (101, 1), (200, 1), (5_000_000, 12), (5_000_001, 13)]
)
def test_a_bound_belongs_to_its_bucket(micros: int, place: int) -> None:
    assert metrics.bucket(micros) == place
    assert len(BOUNDS_MS) == 13


def test_counters_of_several_processes_are_summed_and_old_refusals_go(settings: Any) -> None:
    one, other = (State(state.database(settings)) for _ in range(2))
    for memory in (one, other):
        for start in range(0, 60, 20):
            tally = Tally()
            tally.add(("s", "m", "1"), 200, 10, 1_500)
            tally.looked_up["t", "stale"] += 2
            for at in range(start, start + 20):
                tally.add(("s", "m", "1"), 500, 0, 4_000)
                tally.refuse(at, 500, f"{at} " + "x" * 1000)
            memory.buffer({}, {"e": tally})
    found = one.get(metrics.KIND, "e")
    (answered,) = found["answered"]
    assert (answered["codes"], answered["rows"]) == ({"200": 6, "500": 120}, 60)
    assert answered["micros"] == 6 * 1_500 + 120 * 4_000
    assert answered["buckets"][4:6] == [6, 120]
    assert found["looked_up"] == [{"table": "t", "state": "stale", "rows": 12}]
    assert len(found["refusals"]) == metrics.REFUSALS_KEPT
    assert found["refusals"][0]["at"] == 59
    assert len(found["refusals"][0]["message"]) == metrics.MESSAGE
    text = metrics.prometheus("e", found)
    for name, value in (("count", 126), ("4xx_count", 0), ("5xx_count", 120)):
        assert re.search(rf"^request_{name}_total.*entity_version=.1.* {value}\.0$", text, re.M)
