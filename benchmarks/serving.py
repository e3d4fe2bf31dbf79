"""The endpoint with everything on, against `mlflow models serve` and a bare FastAPI echo.

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

MLFLOW_PORT, ECHO_PORT = 8380, 8381
MLFLOW_WORKERS = 2
BATCH = 1_000
WANTED = {"mlflow rate": 20.0, "mlflow p50": 10.0, "echo rate": 0.5, "rows": 50_000.0}
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
        with _process(_echo(), ECHO_PORT, "/docs"):
            many, one, echoed = [], [], []
            for _ in range(given.rounds):
                many.append(_served.load(ours, single, 16, given.seconds, token))
                echoed.append(_served.load(echo, single, 16, given.seconds))
                one.append(_served.load(ours, single, 1, given.seconds, token))
        batch = {"dataframe_records": single["dataframe_records"] * BATCH}
        batches = _served.load(ours, batch, 2, given.seconds, token)
        invocations = f"http://{LOOPBACK}:{MLFLOW_PORT}/invocations"
        with _process(_mlflow(settings), MLFLOW_PORT, "/ping", _tracking(settings)):
            _served.load(invocations, inputs, 16, 3)  # its workers load the model on first use
            mlflow_many = _served.load(invocations, inputs, 16, given.seconds)
            mlflow_one = _served.load(invocations, inputs, 1, given.seconds)
    ours_many, ours_one, bare = _served.median(many), _served.median(one), _served.median(echoed)
    print(f"\n{_machine.described()}")
    _line("endpoint, 16 connections", ours_many)
    _line("endpoint, 1 connection", ours_one)
    _line(f"endpoint, {BATCH} rows a request, 2 connections", batches)
    _line("bare FastAPI echo, 16 connections", bare)
    _line(f"mlflow models serve, {MLFLOW_WORKERS} workers, 16 connections", mlflow_many)
    _line("mlflow models serve, 1 connection", mlflow_one)
    _ratio("requests a second to mlflow's", ours_many.rate / mlflow_many.rate, "mlflow rate")
    _ratio("mlflow's p50 at 1 connection to ours", mlflow_one.p50 / ours_one.p50, "mlflow p50")
    _ratio("requests a second to the bare echo's", ours_many.rate / bare.rate, "echo rate")
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


def _echo() -> list[str]:
    return [
        sys.executable,
        "-c",
        ECHO.replace("{host}", LOOPBACK).replace("{port}", str(ECHO_PORT)),
    ]


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
