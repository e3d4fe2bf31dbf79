"""The endpoint with everything on, against `mlflow models serve`, an echo, and a bare echo.

Same model, same machine, wrk on loopback; the endpoint checks the token, validates, looks up both
keys and captures every payload, the others do none of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks import _machine, _served
from benchmarks._served import Load
from databricks_steps.settings import LOOPBACK, Settings
from taxi_assets.deployment import endpoint

MLFLOW_PORT, ECHO_PORT, BARE_PORT = 8380, 8381, 8382
MLFLOW_WORKERS = 2
BATCH = 1_000
WANTED = {
    "mlflow rate": 20.0,
    "mlflow p50": 10.0,
    "echo rate": 0.5,
    "bare rate": 0.25,
    "rows": 450_000.0,
}
MOST_P99 = 5.0  # times that of the bare echo
ECHO = """
from typing import Any
import uvicorn
from fastapi import FastAPI
app = FastAPI()

@app.post("/echo")
async def echo(body: dict[str, Any]) -> dict[str, Any]:
    return body

uvicorn.run(app, host="{host}", port={port}, access_log=False, log_level="warning")
"""

# No framework: the body as it came, by the server that the endpoint has, too.
BARE = """
import uvicorn

async def app(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

uvicorn.run(
    app, host="{host}", port={port}, access_log=False, log_level="warning", lifespan="off"
)
"""


def main(arguments: Sequence[str]) -> int:
    """Print rates and times of all three, and the ratios with what is wanted of them."""
    parser = argparse.ArgumentParser("python -m benchmarks serving", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="by turns; medians are shown")
    parser.add_argument("--home", type=Path, help="of a demo run; default: one is made")
    given = parser.parse_args(arguments)
    single = json.loads(endpoint.SINGLE_FILE.read_text(encoding="utf-8"))
    with _served.endpoint(given=given.home) as settings:
        token = settings.token_file.read_text().strip()
        ours = f"{settings.host}/serving-endpoints/{settings.endpoint}/invocations"
        inputs = _inputs(settings, single)
        echo = f"http://{LOOPBACK}:{ECHO_PORT}/echo"
        bare = f"http://{LOOPBACK}:{BARE_PORT}/"
        with (
            _process(_script(ECHO, ECHO_PORT), ECHO_PORT, "/docs"),
            _process(_script(BARE, BARE_PORT), BARE_PORT, "/"),
        ):
            many, one, echoed, bared = [], [], [], []
            for _ in range(given.rounds):
                many.append(_served.load(ours, single, 16, given.seconds, token))
                echoed.append(_served.load(echo, single, 16, given.seconds))
                bared.append(_served.load(bare, single, 16, given.seconds))
                one.append(_served.load(ours, single, 1, given.seconds, token))
        batch = {"dataframe_records": single["dataframe_records"] * BATCH}
        batches = _served.load(ours, batch, 2, given.seconds, token)
        invocations = f"http://{LOOPBACK}:{MLFLOW_PORT}/invocations"
        with _process(_mlflow(settings), MLFLOW_PORT, "/ping", _tracking(settings)):
            _served.load(invocations, inputs, 16, 3)  # its workers load the model on first use
            mlflow_many = _served.load(invocations, inputs, 16, given.seconds)
            mlflow_one = _served.load(invocations, inputs, 1, given.seconds)
    ours_many, ours_one = _served.median(many), _served.median(one)
    fastapi, nothing = _served.median(echoed), _served.median(bared)
    print(f"\n{_machine.described()}")
    _line("endpoint, 16 connections", ours_many)
    _line("endpoint, 1 connection", ours_one)
    _line(f"endpoint, {BATCH} rows a request, 2 connections", batches)
    _line("FastAPI echo, 16 connections", fastapi)
    _line("bare ASGI echo, 16 connections", nothing)
    _line(f"mlflow models serve, {MLFLOW_WORKERS} workers, 16 connections", mlflow_many)
    _line("mlflow models serve, 1 connection", mlflow_one)
    _ratio("requests a second to mlflow's", ours_many.rate / mlflow_many.rate, "mlflow rate")
    _ratio("mlflow's p50 at 1 connection to ours", mlflow_one.p50 / ours_one.p50, "mlflow p50")
    _ratio("requests a second to FastAPI's echo", ours_many.rate / fastapi.rate, "echo rate")
    _ratio("requests a second to the bare echo", ours_many.rate / nothing.rate, "bare rate")
    slow = ours_many.p99 / nothing.p99
    print(f"p99 to the bare echo's: {slow:,.1f} times; at most {MOST_P99:g} wanted")
    _ratio("rows a second in batches", batches.rate * BATCH, "rows")
    failed = ours_many.failed + ours_one.failed + batches.failed
    print(f"failed requests of the endpoint: {failed}")
    return 1 if failed else 0


def _line(name: str, load: Load) -> None:
    print(
        f"  {name:<52}{load.rate:9,.0f}/s  p50 {load.p50:8.3f} ms  p99 {load.p99:8.3f} ms  "
        f"failed {load.failed}"
    )


def _ratio(name: str, value: float, wanted: str) -> None:
    print(f"{name}: {value:,.2f}; wanted at least {WANTED[wanted]:,g}")


def _inputs(settings: Settings, single: dict[str, Any]) -> dict[str, Any]:
    """The same row with its features looked up, as `mlflow models serve` wants it."""
    from taxi_assets.deployment import online_store

    client = online_store.workspace_client(settings.host, settings.token_file.read_text().strip())
    answer = endpoint.answer(client, settings, {**single, "params": {"features": True}})
    whole = {"pickup_hour", "pickup_weekday", "pickup_is_weekend"}
    row = {
        name: int(values[0]) if name in whole or float(values[0]).is_integer() else values[0]
        for name, values in answer["features"].items()
    }
    return {"dataframe_records": [row]}


def _script(text: str, port: int) -> list[str]:
    return [sys.executable, "-c", text.replace("{host}", LOOPBACK).replace("{port}", str(port))]


def _mlflow(settings: Settings) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"),
        *("-m", f"models:/{settings.registered_model}/1", "-h", LOOPBACK),
        *("-p", str(MLFLOW_PORT), "-w", str(MLFLOW_WORKERS)),
    ]


def _tracking(settings: Settings) -> dict[str, str]:
    uri = settings.mlflow_uri
    path = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # of its uvicorn
    )
    return {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri, "PATH": path}


@contextmanager
def _process(
    command: list[str], port: int, path: str, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """A peer in a process group of its own, up when entered and gone when left."""
    peer = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _served.await_answer(port, path)
        yield
    finally:
        os.killpg(peer.pid, signal.SIGTERM)
        time.sleep(1)
        with suppress(ProcessLookupError):
            os.killpg(peer.pid, signal.SIGKILL)
        peer.wait()
