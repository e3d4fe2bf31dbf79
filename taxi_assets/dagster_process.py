"""A process of Dagster's with longer intervals between heartbeats than Dagster has a setting for.

`python -m taxi_assets.dagster_process MODULE ARGUMENT…` is `python -m MODULE ARGUMENT…`. Dagster's
three processes ask each other every second: a third of the processor time of an idle `dev`.
"""

from __future__ import annotations

import runpy
import sys
from types import ModuleType
from typing import Any

from dagster._grpc import client, server_watcher

HEARTBEAT_SECONDS = 5  # a code server that hears none for 30 seconds ends


def replace(module: ModuleType, name: str, ours: Any) -> None:
    """In a module of Dagster's, whose command has no setting for it; it must be there."""
    getattr(module, name)
    setattr(module, name, ours)


def main() -> None:
    replace(client, "CLIENT_HEARTBEAT_INTERVAL", HEARTBEAT_SECONDS)
    replace(server_watcher, "WATCH_INTERVAL", HEARTBEAT_SECONDS)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
