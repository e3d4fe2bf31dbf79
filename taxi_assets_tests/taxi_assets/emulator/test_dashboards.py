"""The dashboard of compose.yaml: each of its queries asked of a real Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from waiting import until

from databricks_steps.errors import ServingError
from databricks_steps.settings import LOOPBACK, REPOSITORY, Settings
from taxi_assets.deployment import endpoint
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace, free_port

FOLDER = REPOSITORY / "dashboards"
TRIP = {
    "pickup_location_id": 74,
    "dropoff_location_id": 9_999,  # unknown
    "trip_distance": 1.8,
    "pickup_datetime": "2022-02-01 08:30:00",
}


def configuration(settings: Settings) -> dict[str, Any]:
    """The scrape configuration of compose.yaml, for an endpoint that listens somewhere else."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = found["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{LOOPBACK}:8200"]}]
    assert job["metrics_path"].split("/")[-2] == settings.endpoint
    job["static_configs"] = [{"targets": [f"{LOOPBACK}:{settings.port}"]}]
    job["authorization"]["credentials_file"] = str(settings.token_file)
    found["global"]["scrape_interval"] = "1s"
    return found


def queries() -> dict[str, str]:
    """Panel and legend → query, over a minute where Grafana would choose."""
    dashboard = json.loads((FOLDER / "endpoint.json").read_text(encoding="utf-8"))
    return {
        f"{panel['title']}: {target['legendFormat']}": target["expr"].replace(
            "$__rate_interval", "1m"
        )
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def test_grafana_finds_prometheus_and_the_dashboard_where_compose_puts_them() -> None:
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    watched = services["prometheus"]["network_mode"].removeprefix("service:")
    assert source["url"] == f"http://{watched}:9090"
    dashboard = json.loads((FOLDER / "endpoint.json").read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/files.yml").read_text())[
        "providers"
    ]
    mounts = {
        inside: REPOSITORY / outside
        for name in ("grafana", "prometheus")
        for outside, inside, _ in (volume.split(":") for volume in services[name]["volumes"])
        if outside.startswith(".")
    }
    assert provider["options"]["path"] in {str(Path(inside).parent) for inside in mounts}
    assert all(outside.exists() for outside in mounts.values())


@pytest.mark.slow  # an emulator and Prometheus
def test_each_query_of_the_dashboard_has_an_answer_in_prometheus(
    served: Workspace, tmp_path: Path
) -> None:
    if (prometheus := shutil.which("prometheus")) is None:
        pytest.skip("Prometheus is not installed")
    settings = served.settings
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration(settings)))
    host = f"http://{LOOPBACK}:{(port := free_port())}"
    with (tmp_path / "log").open("wb") as log:
        command = [
            prometheus,
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
        ]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:

        def answered(query: str) -> list[tuple[dict[str, str], float]]:
            endpoint.query(served.client, settings, {"instances": [TRIP, TRIP]})
            with suppress(ServingError):
                endpoint.query(served.client, settings, {"instances": [{}]})
            with suppress(requests.ConnectionError):  # it starts
                answer = requests.get(f"{host}/api/v1/query", params={"query": query}, timeout=10)
                if answer.status_code != 503:
                    found = answer.json()
                    assert found["status"] == "success", found
                    results = found["data"]["result"]
                    return [(each["metric"], float(each["value"][1])) for each in results]
            return []

        asked = queries()
        until(lambda: [v for _, v in answered(asked["Fares a second: rows"]) if v > 0])
        found = {name: answered(query) for name, query in asked.items()}
    finally:
        server.terminate()
        server.wait(30)
    assert [name for name, results in found.items() if not results] == []
    versions = found["Requests a second, by version: version {{entity_version}}"]
    assert [metric["entity_version"] for metric, rate in versions if rate > 0] == ["1"]
    refused, failed = (
        sum(rate for _, rate in found[f"Refused and failed requests a second: {kind}"])
        for kind in ("refused (4xx)", "failed (5xx)")
    )
    assert refused > 0
    assert failed == 0
    (median,), (most,) = (found[f"Time of an answer: {legend}"] for legend in ("median", "99 %"))
    assert 0 < median[1] <= most[1] < 5_000
    title = "Share of lookups that the defaults answered"
    by_table = {metric["table"]: share for metric, share in found[f"{title}: {{{{table}}}}"]}
    assert by_table == {
        settings.table("pickup_features"): 0,
        settings.table("dropoff_features"): 1,
    }
