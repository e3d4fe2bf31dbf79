"""The canary ladder at a real endpoint: it climbs, and it falls back by itself."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databricks.sdk.errors import InternalError
from databricks.sdk.service.serving import ServingEndpointDetailed

from databricks_steps.errors import ServingError
from databricks_steps.inference.feature_spec import FeatureSpec, TableLookup
from databricks_steps.settings import Canary, Settings
from taxi_assets.deployment import canary, endpoint
from taxi_assets.deployment.canary import Probe, Rung, climb, judge
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import (
    Workspace,
    forest,
    register,
    serve,
)

pytestmark = pytest.mark.slow  # an emulator under load
REQUESTS = [
    {
        "pickup_location_id": (41, 42, 74, 75)[number % 4],
        "dropoff_location_id": (132, 166, 244)[number % 3],
        "trip_distance": 0.5 + number % 20,
        "pickup_datetime": f"2022-02-0{1 + number % 5} {number % 24:02d}:30:00",
    }
    for number in range(60)
]
QUICK = Canary(enabled=True, seconds=0.2, latency_ratio=20)


@pytest.fixture(scope="module")
def settings(served: Workspace) -> Settings:
    return replace(served.settings, canary=QUICK)


def registered(
    settings: Settings,
    folder: Path,
    seed: int,
    spec: FeatureSpec | None = None,
    rows: int | None = None,
) -> str:
    """One more version, by a process that logs to this home."""
    import mlflow

    mlflow.set_tracking_uri(settings.mlflow_uri)
    mlflow.set_registry_uri(settings.mlflow_uri)
    mlflow.set_experiment("test")
    return register(settings, forest(seed), folder / f"model-{seed}", spec, rows)


def shares(found: ServingEndpointDetailed) -> dict[str, int]:
    """Version → percent of the traffic."""
    assert found.config is not None
    versions = {e.name: e.entity_version for e in found.config.served_entities}
    routes = found.config.traffic_config.routes
    return {versions[r.served_model_name]: r.traffic_percentage for r in routes}


def served_now(workspace: Workspace) -> dict[str, int]:
    return shares(workspace.client.serving_endpoints.get(workspace.settings.endpoint))


def test_a_version_that_does_as_well_climbs_to_all_of_the_traffic(
    served: Workspace, settings: Settings, tmp_path: Path
) -> None:
    same = registered(settings, tmp_path, 1)
    done = climb(served.client, settings, same, lambda: REQUESTS)
    lines = served.client.serving_endpoints.logs(settings.endpoint, "taxi-fare").logs.splitlines()
    shown = [re.findall(r"version (\d+) at (\d+) %", line) for line in lines if "serves" in line]
    assert shown[-3:] == [[("1", "95"), (same, "5")], [("1", "75"), (same, "25")], [(same, "100")]]
    assert [rung.share for rung in done.rungs] == [5, 25]
    for each in done.rungs:
        assert each.old.fares == each.new.fares
        assert len(each.new.fares) == len(REQUESTS)
        assert each.new.errors == ()
        assert (each.live, each.live_failed) == (0, 0)  # the probes are not counted
    assert (done.state.version, done.state.action) == (same, "updated")
    assert served_now(served) == {same: 100}
    again = climb(served.client, settings, same, lambda: REQUESTS)
    assert (again.rungs, again.state.action) == ((), "unchanged")
    endpoint.ensure_endpoint(served.client, settings, "1")


def test_a_version_with_other_fares_falls_back_and_the_message_says_why(
    served: Workspace, settings: Settings
) -> None:
    answers: set[int] = set()
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            found = served.client.serving_endpoints.query(
                settings.endpoint, dataframe_records=REQUESTS[:1]
            )
            answers.add(len(found.predictions))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        with pytest.raises(
            ServingError,
            match=r"as well as version 1: version 2 at 5 % of the traffic: fares shift by .* "
            r"standard deviations .*, limit 0.25\. Version 1 serves on",
        ):
            climb(served.client, settings, "2", lambda: REQUESTS)
    finally:
        stop.set()
        thread.join()
    assert served_now(served) == {"1": 100}
    assert answers == {1}


def test_a_version_that_fails_its_requests_falls_back(
    served: Workspace, settings: Settings, tmp_path: Path
) -> None:
    spec = FeatureSpec.current(settings)
    first = spec.lookups[0]
    nowhere = TableLookup("p03.nowhere.pickup_features", first.key, first.features, first.defaults)
    broken = registered(
        settings, tmp_path, 3, FeatureSpec(spec.inputs, (nowhere, *spec.lookups[1:]))
    )
    with pytest.raises(
        ServingError, match=r"60 of 60 requests failed, limit 1%: .*p03.nowhere.pickup_features"
    ):
        climb(served.client, settings, broken, lambda: REQUESTS)
    assert served_now(served) == {"1": 100}


def test_a_version_that_fails_live_queries_alone_falls_back(
    served: Workspace, settings: Settings, tmp_path: Path
) -> None:
    """Its graph takes one row at a time: the probes do not see it, who sends two rows does."""
    single = registered(settings, tmp_path, 1, rows=1)
    stop = threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            body = {"instances": REQUESTS[:2], "client_request_id": f"live-{number}"}
            path = f"/serving-endpoints/{settings.endpoint}/invocations"
            with suppress(InternalError):
                served.client.api_client.do("POST", path, body=body)

    thread = threading.Thread(target=load)
    thread.start()
    patient = replace(settings, canary=replace(QUICK, seconds=30))
    started = time.monotonic()
    try:
        with pytest.raises(ServingError, match=r"[0-9]+ of [0-9]+ live queries failed, limit 1%"):
            climb(served.client, patient, single, lambda: REQUESTS[:5])
    finally:
        stop.set()
        thread.join()
    assert time.monotonic() - started < 20  # as soon as they failed, not when the stay was over
    assert served_now(served) == {"1": 100}


def test_a_ladder_without_requests_is_refused(served: Workspace, settings: Settings) -> None:
    with pytest.raises(ServingError, match="A canary needs requests"):
        climb(served.client, settings, "2", list)
    assert served_now(served) == {"1": 100}


def test_a_version_that_cannot_be_loaded_never_gets_traffic(
    served: Workspace, settings: Settings
) -> None:
    with pytest.raises(ServingError, match="UPDATE_FAILED.*version 88"):
        climb(served.client, settings, "88", lambda: REQUESTS)
    assert served_now(served) == {"1": 100}


def test_a_ladder_that_was_killed_begins_anew_from_the_old_version(
    served: Workspace, settings: Settings
) -> None:
    endpoint.serve_config(served.client, canary.split_config(settings, "1", "2", 25))
    assert served_now(served) == {"1": 75, "2": 25}
    with pytest.raises(ServingError, match="as well as version 1: version 2 at 5 %"):
        climb(served.client, settings, "2", lambda: REQUESTS)
    assert served_now(served) == {"1": 100}
    endpoint.serve_config(served.client, canary.split_config(settings, "1", "2", 25))
    assert climb(served.client, settings, "1", lambda: REQUESTS).state.action == "updated"
    assert served_now(served) == {"1": 100}


def test_an_interrupted_ladder_leaves_the_old_version(
    served: Workspace, settings: Settings
) -> None:
    class Interrupted(list[dict[str, Any]]):
        """Requests of which the third one never comes."""

        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from REQUESTS[:2]
            assert served_now(served) == {"1": 95, "2": 5}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        climb(served.client, settings, "2", lambda: Interrupted(REQUESTS))
    assert served_now(served) == {"1": 100}


def test_a_new_endpoint_needs_no_ladder(start: Callable[..., Workspace]) -> None:
    workspace = start()
    settings = replace(workspace.settings, canary=QUICK)
    done = climb(workspace.client, settings, "2", lambda: REQUESTS)
    assert (done.rungs, done.state.action, done.state.version) == ((), "created", "2")
    serve(workspace, "2")
    assert served_now(workspace) == {"2": 100}


OLD = Probe((4.0, 6.0, 8.0), (10.0, 20.0, 30.0))
LIMITS = Canary(error_rate=0.5, latency_ratio=2.0, latency_floor_ms=5.0, shift=0.5)


@pytest.mark.parametrize(
    ("new", "live", "broken"),
    [
        (OLD, (0, 0), []),
        (Probe((12.0, 12.0, 12.0), OLD.fares), (0, 0), []),  # at the limit is within it
        (Probe((12.1, 12.1, 12.1), OLD.fares), (0, 0), ["12.1 ms against 6.0 ms, limit 2 times"]),
        (Probe((4.0, 6.0), (10.0, 30.0), ("a", "b")), (0, 0), []),
        (
            Probe((4.0, 6.0), (10.0, 30.0), ("a", "b", "c")),
            (0, 0),
            ["3 of 5 requests failed, limit 50%"],
        ),
        (Probe((), (), ("gone",)), (0, 0), ["1 of 1 requests failed, limit 50%: gone"]),
        (OLD, (10, 5), []),
        (OLD, (10, 6), ["6 of 10 live queries failed, limit 50%"]),
        (Probe(OLD.milliseconds, (14.0, 24.0, 34.0)), (0, 0), []),  # 4 dollars of 8.16
        (Probe(OLD.milliseconds, (15.0, 25.0, 35.0)), (0, 0), ["fares shift by 0.61"]),
    ],
)
def test_each_limit_is_judged_by_itself(
    new: Probe, live: tuple[int, int], broken: list[str]
) -> None:
    found = judge(Rung(5, OLD, new, *live), LIMITS)
    assert len(found) == len(broken)
    for sentence, part in zip(found, broken, strict=True):
        assert part in sentence


def test_a_fast_answer_is_never_too_slow_and_equal_fares_have_no_spread() -> None:
    old, new = Probe((0.1,), (9.0,)), Probe((4.9,), (9.0,))
    assert judge(Rung(5, old, new), LIMITS) == []
    assert canary.shift([9.0], [9.0]) == 0.0
    assert canary.shift([9.0, 9.0], [9.0, 9.1]) == float("inf")
