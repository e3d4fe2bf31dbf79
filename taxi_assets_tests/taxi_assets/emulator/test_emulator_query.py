"""Queries of a served model over real sockets: values, forms, refusals, and what stays up."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from databricks.sdk.service.serving import DataframeSplitInput

from databricks_steps import schemas
from databricks_steps.inference import feature_spec
from databricks_steps.inference.request import parse
from databricks_steps.inference.scorer import Scorer
from databricks_steps.settings import Settings
from taxi_assets.deployment import endpoint, online_store
from taxi_assets.emulator.api import invocations
from taxi_assets.emulator.runtime import online_tables, predict
from taxi_assets.emulator.runtime.lookups import taking
from taxi_assets.emulator.runtime.online_tables import OnlineTables
from taxi_assets.emulator.runtime.served_model import ServedModel
from taxi_assets_tests.databricks_steps.inference.test_request import REFUSED
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import (
    INPUTS,
    TABLES,
    Workspace,
    forest,
    to_onnx,
)

TUESDAY = {
    "pickup_location_id": 74,
    "dropoff_location_id": 42,
    "trip_distance": 1.8,
    "pickup_datetime": "2022-02-01 08:30:00",
}
SUNDAY = {
    "pickup_location_id": 75,
    "dropoff_location_id": 9_999,  # unknown: the defaults answer
    "trip_distance": 7,
    "pickup_datetime": "2022-02-06T23:59:59",
}


def post(workspace: Workspace, body: Any, **headers: str) -> requests.Response:
    """A query as curl would send it; text and bytes go as they are."""
    settings = workspace.settings
    return requests.post(
        f"{settings.host}/serving-endpoints/{settings.endpoint}/invocations",
        data=body if isinstance(body, (str, bytes)) else json.dumps(body),
        headers={"Authorization": f"Bearer {workspace.token}", **headers},
        timeout=30,
    )


def by_hand(
    workspace: Workspace, record: Mapping[str, Any], when: tuple[int, int], stale: bool = False
) -> float:
    """The fare by the scikit-learn pipeline; `when` is the pickup's (hour, weekday).

    `stale`: every row is too old.
    """
    settings = workspace.settings
    tables = OnlineTables(online_tables.database(settings))
    values: dict[str, float | None] = {
        "trip_distance": record["trip_distance"],
        "pickup_hour": when[0],
        "pickup_weekday": when[1],
        "pickup_is_weekend": int(when[1] >= 5),
        "pickup_is_airport": int(record["pickup_location_id"] in (1, 132, 138)),
        "dropoff_is_airport": int(record["dropoff_location_id"] in (1, 132, 138)),
        "pickup_location_id": record["pickup_location_id"],
        "dropoff_location_id": record["dropoff_location_id"],
        "trip_type": 0,
    }
    for table, key in (
        (schemas.PICKUP_FEATURES, "pickup_location_id"),
        (schemas.DROPOFF_FEATURES, "dropoff_location_id"),
    ):
        rows = tables.rows(online_store.online_table_name(settings, table))
        row = {} if stale else rows.get(record[key], {})
        for column in table.features:
            found = row.get(column.name)
            values[column.name] = column.default if found is None else found
    row_of_inputs = np.array([[values[name] for name in INPUTS]], dtype=np.float32)
    return float(workspace.pipelines["1"].predict(row_of_inputs)[0])


@pytest.fixture(scope="module")
def fares(served: Workspace) -> list[float]:
    return [by_hand(served, TUESDAY, (8, 1)), by_hand(served, SUNDAY, (23, 6))]


def test_fares_equal_the_pipelines_with_features_looked_up_by_hand(
    served: Workspace, fares: list[float]
) -> None:
    answer = post(served, {"dataframe_records": [TUESDAY, SUNDAY]})
    assert answer.status_code == 200
    assert answer.json()["predictions"] == pytest.approx(fares, abs=1e-3)
    assert fares[0] != pytest.approx(fares[1], abs=1)


def test_features_older_than_the_lookback_give_way_to_the_defaults(served: Workspace) -> None:
    known = datetime(2022, 2, 1, 0, 30)
    for age, stale in ((timedelta(days=7), False), (timedelta(days=7, seconds=1), True)):
        at = known + age
        record = {**TUESDAY, "pickup_datetime": f"{at:%Y-%m-%d %H:%M:%S}"}
        unknown = {**record, "pickup_location_id": 9_999, "dropoff_location_id": 9_998}
        for rows in ([record], [record, record], [record, unknown]):
            answer = post(served, {"instances": rows, "params": {"features": True}}).json()
            expected = by_hand(served, record, (at.hour, at.weekday()), stale)
            assert answer["predictions"][0] == pytest.approx(expected, abs=1e-3)
            ages = answer["feature_age_seconds"]
            assert list(ages) == [served.settings.table(table.name) for table in TABLES]
            assert {each[0] for each in ages.values()} == {None if stale else 7 * 86_400}


def test_the_inputs_are_told_when_asked_for(served: Workspace) -> None:
    answer = post(served, {"instances": [TUESDAY, SUNDAY], "params": {"features": True}}).json()
    features = answer["features"]
    assert list(features) == list(INPUTS)
    assert features["trip_distance"] == pytest.approx([1.8, 7.0])
    assert (features["pickup_hour"], features["pickup_weekday"]) == ([8, 23], [1, 6])
    defaults = {column.name: column.default for column in schemas.DROPOFF_FEATURES.features}
    assert {name: features[name][1] for name in defaults} == pytest.approx(defaults)
    single = post(served, {"instances": [TUESDAY], "params": {"features": True}}).json()
    assert {name: values[0] for name, values in single["features"].items()} == {
        name: values[0] for name, values in features.items()
    }
    assert "features" not in post(served, {"instances": [TUESDAY]}).json()
    refused = post(served, {"instances": [TUESDAY], "params": {"features": 1}})
    assert refused.status_code == 400
    assert "params.features must be true or false: 1" in refused.json()["message"]


def test_headers_say_which_request_and_model(served: Workspace) -> None:
    first, second = (post(served, {"dataframe_records": [TUESDAY]}) for _ in range(2))
    assert first.headers["served-model-name"] == "taxi-fare"
    assert len(first.headers["databricks-request-id"]) == 36
    assert first.headers["databricks-request-id"] != second.headers["databricks-request-id"]


def test_every_form_gives_the_same_fares(served: Workspace, fares: list[float]) -> None:
    names = list(TUESDAY)
    rows = [TUESDAY, SUNDAY]
    split = {"columns": names, "data": [[row[name] for name in names] for row in rows]}
    bodies: list[dict[str, Any]] = [
        {"dataframe_records": rows},
        {"dataframe_split": split},
        {"dataframe_split": {**split, "index": [5, 6]}},
        {"instances": rows},
        {"inputs": rows},
        {"inputs": {name: [row[name] for row in rows] for name in reversed(names)}},
        {"dataframe_records": rows, "params": {"any": 1}, "client_request_id": "mine"},
    ]
    answers = [post(served, body).json() for body in bodies]
    assert [answer["predictions"] for answer in answers] == [
        pytest.approx(fares, abs=1e-3) for _ in bodies
    ]


def test_queries_that_come_at_once_are_answered_as_alone(served: Workspace) -> None:
    rows = {"dataframe_records": [TUESDAY, SUNDAY]}
    bodies: list[dict[str, Any]] = [
        {"dataframe_records": [TUESDAY]},
        rows,
        {**rows, "params": {"features": True}, "client_request_id": "mine"},
        {**rows, "params": {"interval": True}},  # the model has none: 400 for it, for no other
        {"dataframe_records": [{**SUNDAY, "trip_distance": -1}]},
        {"dataframe_records": [SUNDAY]},
    ]
    alone = [(answer.status_code, answer.json()) for answer in (post(served, b) for b in bodies)]
    assert [status for status, _ in alone] == [200, 200, 200, 400, 400, 200]
    assert len({str(told) for _, told in alone}) == len(bodies)
    path = f"/serving-endpoints/{served.settings.endpoint}/invocations"
    headers = {"Authorization": f"Bearer {served.token}"}
    asked = bodies * 50  # more than may be read at the same time: each comes whole
    assert len(asked) > invocations.IN_FLIGHT
    lines = [http.client.HTTPConnection("127.0.0.1", served.settings.port) for _ in asked]
    try:
        for line, body in zip(lines, asked, strict=True):
            line.request("POST", path, json.dumps(body), headers)
        answers = [line.getresponse() for line in lines]
        assert [(a.status, json.loads(a.read())) for a in answers] == alone * 50
    finally:
        for line in lines:
            line.close()


def test_what_a_shared_call_refuses_takes_no_other_query_along(tmp_path: Path) -> None:
    """A graph that takes one row at a time: a query of one row is answered beside any other."""
    files = tmp_path / feature_spec.FOLDER
    files.mkdir()
    (files / feature_spec.ONNX_FILE).write_bytes(to_onnx(forest(1), rows=1))
    spec = feature_spec.FeatureSpec.current(Settings(home=tmp_path))
    (files / feature_spec.FILE).write_text(spec.to_json())
    tables = OnlineTables(tmp_path / "online.db")
    known = ("name", "id", "model", "1", Scorer.load(tmp_path), tables, (), taking([0, 1]))
    model = ServedModel(*known)
    queries = [
        predict.Query(str(count), parse(body), model, np.zeros((count, len(INPUTS)), "float32"), ())
        for count in (1, 2, 1)
        for body in [json.dumps({"dataframe_records": [TUESDAY] * count}).encode()]
    ]
    answers = predict.answers(queries)
    assert [(a.status, a.request_id) for a in answers] == [(200, "1"), (500, "2"), (200, "1")]
    assert answers[0].body == answers[2].body == predict.answers(queries[:1])[0].body


def test_the_sdk_and_raw_http_agree(served: Workspace) -> None:
    raw = post(served, {"dataframe_records": [TUESDAY, SUNDAY]}).json()["predictions"]
    api, name = served.client.serving_endpoints, served.settings.endpoint
    names = list(TUESDAY)
    split = DataframeSplitInput(names, [[row[n] for n in names] for row in (TUESDAY, SUNDAY)])
    by_records = api.query(name, dataframe_records=[TUESDAY, SUNDAY])
    assert by_records.predictions == raw
    assert by_records.served_model_name == "taxi-fare"
    assert api.query(name, dataframe_split=split).predictions == raw
    assert api.query(name, instances=[TUESDAY, SUNDAY]).predictions == raw
    assert api.query(name, inputs=[TUESDAY, SUNDAY]).predictions == raw
    payload = {"dataframe_records": [TUESDAY, SUNDAY]}
    assert endpoint.query(served.client, served.settings, payload) == raw


@pytest.mark.parametrize("name", ["fare_amount", "tip_amount", "total_amount", "dropoff_datetime"])
def test_what_is_known_after_the_ride_has_no_influence(
    served: Workspace, fares: list[float], name: str
) -> None:
    for value in (0, 1e9, -5, "x", None, math.nan):
        body = {"dataframe_records": [{**TUESDAY, name: value}]}
        assert post(served, body).json() == {"predictions": [pytest.approx(fares[0], abs=1e-3)]}


def test_both_test_files_are_answered(served: Workspace) -> None:
    for file, rows in ((endpoint.SINGLE_FILE, 1), (endpoint.BATCH_FILE, 6)):
        fares = endpoint.query(served.client, served.settings, json.loads(file.read_text()))
        assert len(fares) == rows
        assert all(math.isfinite(fare) for fare in fares)


def test_ten_thousand_rows_are_answered_in_order_and_one_more_is_refused(
    served: Workspace, fares: list[float]
) -> None:
    names = list(TUESDAY)
    data = [list(TUESDAY.values()), list(SUNDAY.values())] * 5_000
    answer = post(served, {"dataframe_split": {"columns": names, "data": data}})
    assert answer.json()["predictions"] == pytest.approx(fares * 5_000, abs=1e-3)
    refused = post(served, {"dataframe_split": {"columns": names, "data": [*data, data[0]]}})
    assert refused.status_code == 400
    assert "1 to 10,000 rows: 10001" in refused.json()["message"]


def refusal(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error_code"]


def test_the_token_is_asked_for(served: Workspace) -> None:
    body = {"dataframe_records": [TUESDAY]}
    assert refusal(post(served, body, Authorization="")) == (401, "UNAUTHENTICATED")
    assert refusal(post(served, body, Authorization="Basic abc")) == (401, "UNAUTHENTICATED")
    assert refusal(post(served, body, Authorization="Bearer no")) == (403, "PERMISSION_DENIED")
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert post(served, body, Authorization=f"{scheme} {served.token}").status_code == 200
    longer = f"Bearer {served.token}x"
    assert refusal(post(served, body, Authorization=longer)) == (403, "PERMISSION_DENIED")
    host = served.settings.host
    listing = requests.get(f"{host}/api/2.0/serving-endpoints", timeout=10)
    assert refusal(listing) == (401, "UNAUTHENTICATED")
    assert requests.get(f"{host}/health", timeout=10).json()["status"] == "ok"
    assert requests.get(f"{host}/openapi.json", timeout=10).json()["paths"]
    assert requests.get(f"{host}/docs", timeout=10).status_code == 401


def test_a_body_over_one_mebibyte_is_refused(served: Workspace) -> None:
    fits = json.dumps({"dataframe_records": [TUESDAY]}).ljust(1024 * 1024)
    assert post(served, fits).status_code == 200
    assert refusal(post(served, fits + " ")) == (413, "REQUEST_TOO_LARGE")
    assert refusal(post(served, b"x" * 5_000_000)) == (413, "REQUEST_TOO_LARGE")
    url = f"{served.settings.host}/api/2.0/serving-endpoints"
    headers = {"Authorization": f"Bearer {served.token}"}
    answer = requests.post(url, data=b"x" * 2_000_000, headers=headers, timeout=10)
    assert refusal(answer) == (413, "REQUEST_TOO_LARGE")


def test_unknown_paths_and_endpoints_are_answered_in_databricks_form(served: Workspace) -> None:
    host, headers = served.settings.host, {"Authorization": f"Bearer {served.token}"}
    nowhere = requests.get(f"{host}/api/2.0/nothing", headers=headers, timeout=10)
    assert refusal(nowhere) == (404, "ENDPOINT_NOT_FOUND")
    path = f"{host}/serving-endpoints/none/invocations"
    missing = requests.post(path, data="{}", headers=headers, timeout=10)
    assert refusal(missing) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert "none" in missing.json()["message"]
    assert requests.get(path, headers=headers, timeout=10).status_code in (404, 405)


def test_every_refusal_of_the_contract_is_a_400_with_its_message(served: Workspace) -> None:
    bodies = [(json.dumps(payload), message) for payload, message in REFUSED]
    answers = [(post(served, body), message) for body, message in bodies if len(body) < 1_000_000]
    assert len(answers) >= 60
    for answer, message in answers:
        assert answer.status_code == 400
        assert message in answer.json()["message"]
        assert set(answer.json()) == {"error_code", "message"}


def test_hostile_bodies_never_break_the_server(served: Workspace) -> None:
    bodies = [
        b"",
        b"\x00",
        b"\xff\xfe",
        b"nan",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"dataframe_records":[' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"]}",
        b'{"instances":[{"trip_distance":' + b"[" * 900 + b"]" * 900 + b"}]}",
        b'{"dataframe_records":[{"trip_distance":' + b"9" * 5_000 + b"}]}",
        b'{"inputs":{"\\ud800":1}}',
        b'{"client_request_id":"\\ud800","fare_amount":NaN,"inputs":[{}]}',
    ]
    answers = [post(served, body) for body in bodies]
    assert [refusal(answer)[0] for answer in answers] == [400] * len(bodies)
    assert not any("Traceback" in answer.text for answer in answers)
    assert post(served, {"dataframe_records": [TUESDAY]}).status_code == 200


def test_no_log_holds_the_token(served: Workspace) -> None:
    log = served.settings.home / "logs" / "workspace.log"
    assert served.token not in log.read_text()
    assert served.settings.token_file.stat().st_mode & 0o777 == 0o600
