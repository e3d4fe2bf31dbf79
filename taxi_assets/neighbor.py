"""A process of Dagster's that asks the others every few seconds whether they are there.

`python -m taxi_assets.neighbor MODULE ARGUMENT…` is `python -m MODULE ARGUMENT…`. Dagster asks
every second, from three sides, which was a third of what an idle `taxi-assets dev` took.
"""

from __future__ import annotations

import runpy
import sys
from types import ModuleType
from typing import Any

from dagster._grpc import client, server_watcher

SECONDS = 5  # of the 30 after which a server of code ends that nobody has asked for


def replace(module: ModuleType, name: str, ours: Any) -> None:
    """In a module of Dagster's, whose command has no setting for it; it must be there."""
    getattr(module, name)
    setattr(module, name, ours)


def main() -> None:
    replace(client, "CLIENT_HEARTBEAT_INTERVAL", SECONDS)
    replace(server_watcher, "WATCH_INTERVAL", SECONDS)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
