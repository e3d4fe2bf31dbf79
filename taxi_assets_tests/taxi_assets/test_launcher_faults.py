"""What can go wrong while a step is launched: each ends well, or with a message a person reads."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest_run import MONTHS, Home, free_port
from faults import AnsweredError, DroppedError, FaultyProxy, Request

from databricks_steps.serving.online import workspace_client
from databricks_steps.workspace import auth, process
from taxi_assets.resources.volume_launcher import STAGING

SUBMIT, GET = "/api/2.2/jobs/runs/submit", "/api/2.2/jobs/runs/get"
LAUNCH = """
import sys
from taxi_assets import instance, pipeline
from taxi_assets.resources import targets
chosen = targets.target("loopback")
job = pipeline._job(chosen)
with instance.instance(chosen.settings) as found:
    try:
        pipeline._execute(job, found, ("raw_trips",), (sys.argv[1],), {})
    except Exception as error:
        print("said:", error)
        sys.exit(1)
print("said: success")
"""


@pytest.fixture(scope="module")
def proxied(
    tmp_path_factory: pytest.TempPathFactory, small_source: Path
) -> Iterator[tuple[Home, FaultyProxy, dict[str, str]]]:
    """A workspace behind a proxy, and the environment of an orchestrator that knows the proxy."""
    port = free_port()
    home = Home(tmp_path_factory.mktemp("faults") / "home", port)
    process.ensure_running(home.settings)
    proxy = FaultyProxy(port)
    environment = {
        **home.environment,
        "TAXI_PORT": str(proxy.port),
        "TAXI_TARGET": "loopback",
        "TAXI_SOURCE": str(small_source / f"green_tripdata_{MONTHS[0]}.parquet"),
    }
    yield home, proxy, environment
    proxy.close()
    process.stop(home.settings)


@pytest.fixture(autouse=True)
def no_faults(proxied: tuple[Home, FaultyProxy, dict[str, str]]) -> None:
    proxy = proxied[1]
    proxy.fault, proxy.change = lambda request: None, lambda request, answer: answer
    proxy.seen.clear()


def launch(environment: dict[str, str], **more: str) -> tuple[int, str]:
    """Materialize `raw_trips` by the launcher in a process of its own: its code and its word."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LAUNCH, MONTHS[0]],
        env={**environment, **more},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("said: ")]
    assert said, done.stderr[-3000:]
    return done.returncode, said[-1]


def newest(home: Home) -> dict[str, Any]:
    client = workspace_client(home.settings.host, auth.token(home.settings.token_file))
    found: Any = client.api_client.do("GET", "/api/2.2/jobs/runs/list?limit=1")
    run: dict[str, Any] = found["runs"][0]
    return run


def staged(home: Home) -> list[Path]:
    settings = home.settings
    folder = home.path / "volumes" / settings.catalog / settings.schema / STAGING
    return [file for file in folder.rglob("*") if file.is_file()]


def test_a_busy_broken_and_absent_workspace_is_asked_again(
    proxied: tuple[Home, FaultyProxy, dict[str, str]],
) -> None:
    home, proxy, environment = proxied

    def fault(request: Request) -> None:
        if request.path == SUBMIT and request.number == 1:
            raise AnsweredError(429, "REQUEST_LIMIT_EXCEEDED", "quota")
        if request.path == GET and request.number == 2:
            raise AnsweredError(500, "INTERNAL_ERROR", "broken")
        if request.path == GET and request.number == 3:
            raise DroppedError
        if "files" in request.path and request.method == "PUT" and request.number == 1:
            raise AnsweredError(503, "TEMPORARILY_UNAVAILABLE", "away")

    proxy.fault = fault
    before = len(runs(home))
    assert launch(environment) == (0, "said: success")
    assert len(runs(home)) == before + 1  # submitted twice, run once
    assert staged(home) == []


def runs(home: Home) -> list[Any]:
    client = workspace_client(home.settings.host, auth.token(home.settings.token_file))
    found: Any = client.api_client.do("GET", "/api/2.2/jobs/runs/list?limit=100")
    return list(found["runs"])


def test_a_run_that_fails_says_databricks_reason_and_its_link(
    proxied: tuple[Home, FaultyProxy, dict[str, str]],
) -> None:
    home, proxy, environment = proxied

    def change(request: Request, answer: bytes) -> bytes:
        if request.path != GET or request.number < 3:
            return answer
        run = json.loads(answer)
        run["state"] = {
            "life_cycle_state": "INTERNAL_ERROR",
            "result_state": "FAILED",
            "state_message": "Cluster 7 could not start: no more nodes of this type",
        }
        return json.dumps(run).encode()

    proxy.change = change
    code, said = launch(environment)
    assert code == 1
    assert "The launched step raw_trips must succeed" in said
    assert "no more nodes of this type" in said
    assert f"#run/{newest(home)['run_id']}" in said
    assert staged(home) == []


def test_a_refused_token_and_a_forbidden_volume_are_named(
    proxied: tuple[Home, FaultyProxy, dict[str, str]],
) -> None:
    home, proxy, environment = proxied
    for status, code, words in (
        (403, "PERMISSION_DENIED", "User does not have WRITE VOLUME on p03.e2e_demo_simon"),
        (401, "UNAUTHENTICATED", "Token is expired"),
    ):

        def fault(request: Request, given: tuple[int, str, str] = (status, code, words)) -> None:
            if "fs/files" in request.path and request.method == "PUT":
                raise AnsweredError(*given)

        proxy.fault = fault
        ended, said = launch(environment)
        assert ended == 1
        assert words in said
        assert staged(home) == []


def test_an_events_file_that_is_half_written_is_read_again(
    proxied: tuple[Home, FaultyProxy, dict[str, str]],
) -> None:
    home, proxy, environment = proxied
    cut: list[int] = []

    def change(request: Request, answer: bytes) -> bytes:
        if request.path.endswith("events.pkl") and len(answer) > 200 and len(cut) < 2:
            cut.append(len(answer))
            return answer[: len(answer) // 2]
        return answer

    proxy.change = change
    assert launch(environment) == (0, "said: success")
    assert len(cut) == 2
    assert staged(home) == []


def test_interrupting_dagster_cancels_the_run_and_ends_its_process(
    proxied: tuple[Home, FaultyProxy, dict[str, str]],
) -> None:
    home, proxy, environment = proxied
    orchestrator = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LAUNCH, MONTHS[0]],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not [path for _, path in proxy.seen if path == GET] or (
        newest(home)["state"]["life_cycle_state"] != "RUNNING"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    run_id = newest(home)["run_id"]
    tasks = [pid for pid in processes() if f"{STAGING}".encode() in command(pid)]
    assert tasks
    orchestrator.send_signal(signal.SIGINT)
    orchestrator.communicate(timeout=60)
    assert ("POST", "/api/2.2/jobs/runs/cancel") in proxy.seen
    deadline = time.monotonic() + 30
    while newest(home)["state"].get("result_state") != "CANCELED":
        assert time.monotonic() < deadline, newest(home)["state"]
        time.sleep(0.1)
    assert newest(home)["run_id"] == run_id
    deadline = time.monotonic() + 15
    while [pid for pid in tasks if STAGING.encode() in command(pid)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
