"""Runs the emulator in the foreground: `python -m taxi_assets.emulator`."""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from databricks_steps.errors import ServingError, TaxiError
from databricks_steps.settings import Settings
from taxi_assets.emulator import process

SWITCH_SECONDS = 0.0002  # a thread's turn
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def main(arguments: list[str]) -> int:
    """Serve until told to stop; 0 after a clean stop."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    try:
        settings, access_log = _settings(arguments)
        settings.home.mkdir(parents=True, exist_ok=True)
        with process.lock_file(settings).open("a") as lock:  # held until this process ends
            _hold(lock, settings)
            _serve(settings, access_log)
    except (TaxiError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _settings(arguments: list[str]) -> tuple[Settings, bool]:
    parser = argparse.ArgumentParser(prog="python -m taxi_assets.emulator")
    parser.add_argument("--home", type=Path, help="instead of TAXI_HOME")
    parser.add_argument("--port", type=int, help="instead of TAXI_PORT")
    parser.add_argument("--access-log", action="store_true", help="write a line for each request")
    options = parser.parse_args(arguments)
    settings = Settings.from_environment()
    changed = {
        name: value for name in ("home", "port") if (value := getattr(options, name)) is not None
    }
    return replace(settings, **changed), options.access_log


def _hold(lock: IO[str], settings: Settings) -> None:
    deadline = time.monotonic() + 2  # a look at the status holds it for a moment
    while not _locked(lock):
        if time.monotonic() > deadline:
            raise ServingError(
                "A home has one workspace", f"{settings.home} has one running", "Stop it first"
            )
        time.sleep(0.01)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _serve(settings: Settings, access_log: bool) -> None:
    # Not at the top: the process of the Delta tables imports this module, too.
    from taxi_assets.emulator import server
    from taxi_assets.emulator.api.app import create_app

    _require_databases(settings)
    state = {
        "pid": os.getpid(),
        "port": settings.port,
        "started_at": datetime.now(timezone.utc).isoformat(),
    }
    # What captures answers must not hold up who answers: each time that one comes back from a
    # socket it would wait Python's usual 5 milliseconds for its turn: p99 was 25 ms, not 16.
    sys.setswitchinterval(SWITCH_SECONDS)
    file = settings.workspace_file
    listener = server.listen(settings.port)
    file.write_text(json.dumps(state), encoding="utf-8")
    try:
        server.server(create_app(settings), access_log).run([listener])
    finally:
        file.unlink(missing_ok=True)


def _require_databases(settings: Settings) -> None:
    """Refuse a database that is none, before anybody is told that the workspace is there."""
    from taxi_assets.emulator.runtime import online_tables, state

    remedies = {
        state.database(settings): "Restore a backup, or remove it and call taxi-assets deploy",
        online_tables.database(settings): "Remove it and call taxi-assets run, which publishes",
    }
    for file in filter(Path.exists, remedies):
        _require_database(file, remedies[file])


def _require_database(file: Path, remedy: str) -> None:
    try:
        with closing(sqlite3.connect(file)) as database:
            database.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        raise ServingError(
            "The workspace's databases must be readable", f"{file}: {error}", remedy
        ) from error


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
