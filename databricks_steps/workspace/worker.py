"""One worker: answers queries itself and passes all else on; ends when its manager does."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

from databricks_steps.settings import Settings
from databricks_steps.workspace import auth, online_tables, state
from databricks_steps.workspace.capture import Capture
from databricks_steps.workspace.followed import Followed
from databricks_steps.workspace.forward import Forward
from databricks_steps.workspace.invocations import Invocations
from databricks_steps.workspace.online_tables import OnlineTables
from databricks_steps.workspace.server import LOG_FORMAT, server
from databricks_steps.workspace.state import State


def main(arguments: list[str]) -> int:
    """Serve on a socket that the manager opened, until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m databricks_steps.workspace.worker")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--manager", type=int, required=True)
    parser.add_argument("--access-log", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT)
    settings = replace(Settings.from_environment(), home=options.home, port=options.port)
    secret = auth.token(settings.token_file)
    memory = State(state.database(settings))
    tables = OnlineTables(online_tables.database(settings))
    followed = Followed(settings, memory, tables)
    capture = Capture(memory, flush=None)
    tables.start()
    followed.start()
    capture.start()
    threading.Thread(target=_end_with_the_manager, name="manager", daemon=True).start()
    app = Invocations(auth.Guard(Forward(options.manager), secret), secret, followed, capture)
    try:
        server(app, options.access_log, lifespan=False).run([socket.socket(fileno=options.fd)])
    finally:
        followed.stop()
        tables.stop()
        capture.stop()
        memory.close()
    return 0


def _end_with_the_manager() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing is ever sent: the manager closes it or dies
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
