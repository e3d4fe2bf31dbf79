"""What leaves this machine: no library talks to its maker, no proxy is asked for what is local.

Prepared as the package is imported: the libraries look once, as they are imported themselves.
"""

from __future__ import annotations

import os

# ONNX Runtime tells Microsoft of machine, program and model, on Linux since 1.29.
SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
LOCAL = ("127.0.0.1", "localhost")  # Sail, the emulator and Dagster listen there


def prepare() -> None:
    """Set what the environment does not say otherwise, for this process and those it starts.

    gRPC sends what is for Sail to the proxy of `https_proxy`, and waits for it for ever.
    """
    for name, value in SILENT.items():
        os.environ[name] = os.environ.get(name) or value
    for name in ("no_proxy", "NO_PROXY"):
        told = [host.strip() for host in os.environ.get(name, "").split(",") if host.strip()]
        os.environ[name] = ",".join([*told, *(host for host in LOCAL if host not in told)])
