"""The helper that reads and writes Delta tables: it publishes, and moves captured payloads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from databricks_steps.settings import Settings
from taxi_assets.emulator.runtime import capture, publish, worker_process

SECONDS = 180.0


class Warehouse:
    """The Delta tables as the server sees them; see the functions of the same names."""

    def __init__(self, settings: Settings) -> None:
        self._helper = worker_process.Helper(__name__, settings.home, SECONDS)

    def publish(self, source: str, online_name: str, store: str) -> None:
        """Bring an online table up to date."""
        self._helper.ask(["publish", source, online_name, store])

    def flush(self) -> int:
        """Move the buffered payloads into their tables; answers how many."""
        return int(self._helper.ask(["flush"]))

    def close(self) -> None:
        self._helper.close()


def handle(settings: Settings, request: worker_process.Request) -> Any:
    """One request of `Warehouse`."""
    what, *given = request
    if what == "flush":
        return capture.flush(settings)
    return publish.publish(settings, *given).name


def main(home: Path) -> int:
    """Answer requests until standard input closes or stays silent."""
    answers, sys.stdout = sys.stdout, sys.stderr
    settings = Settings(home=home)
    return worker_process.answer(lambda request: handle(settings, request), answers)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
