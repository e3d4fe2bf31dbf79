"""The endpoint's configuration and test requests, held to the settings and the contract."""

from __future__ import annotations

import json
from dataclasses import replace

from databricks_steps.inference import request
from databricks_steps.settings import Settings
from taxi_assets.deployment import endpoint


def test_the_file_holds_the_names_of_the_default_settings(settings: Settings) -> None:
    written = json.loads(endpoint.CONFIG_FILE.read_text())
    (entity,) = written["config"]["served_entities"]
    assert entity["entity_version"] is None
    entity["entity_version"] = "7"
    assert endpoint.endpoint_config(settings, "7") == written


def test_another_target_changes_names_and_nothing_else(settings: Settings) -> None:
    target = replace(settings, catalog="c", schema="s", model="m", endpoint="e", payload_prefix="p")
    config = endpoint.endpoint_config(target, "12")
    (entity,) = config["config"]["served_entities"]
    assert (config["name"], entity["entity_name"], entity["entity_version"]) == ("e", "c.s.m", "12")
    assert config["ai_gateway"]["inference_table_config"] == {
        "catalog_name": "c",
        "schema_name": "s",
        "table_name_prefix": "p",
        "enabled": True,
    }
    (route,) = config["config"]["traffic_config"]["routes"]
    assert route == {"served_model_name": entity["name"], "traffic_percentage": 100}


def test_both_test_requests_keep_the_contract() -> None:
    single = request.parse(endpoint.SINGLE_FILE.read_bytes())
    batch = request.parse(endpoint.BATCH_FILE.read_bytes())
    assert (len(single), len(batch)) == (1, 6)
    assert "fare_amount" in json.loads(endpoint.SINGLE_FILE.read_text())["dataframe_records"][0]
    zones = {*batch.pickup_location_id.tolist(), *batch.dropoff_location_id.tolist()}
    assert zones == {74, 75, 41, 166, 244, 132}
