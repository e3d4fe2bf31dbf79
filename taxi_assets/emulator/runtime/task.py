"""One task of a run: a Python file with `spark`, `sc` and `dbutils` defined, as on a cluster.

On Sail there is no `sc`: it is None.

`python -m taxi_assets.emulator.runtime.task HOME FILE PARAMETER…`, by the workspace's runs.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded import session
from databricks_steps.settings import Settings, as_on_a_cluster


class Secrets:
    """`dbutils.secrets`: this machine keeps none."""

    def get(self, scope: str, key: str) -> NoReturn:
        raise SettingsError(
            "The emulator keeps no secrets", f"{scope}/{key}", "Use the environment"
        )


class DbUtils:
    """What a task may expect of `dbutils` here."""

    def __init__(self) -> None:
        self.secrets = Secrets()


def main(arguments: list[str]) -> int:
    """Run the file; what it raises ends the process as it would end the task."""
    threading.Thread(target=_end_with_the_workspace, name="workspace", daemon=True).start()
    home, file, *parameters = arguments
    settings = as_on_a_cluster(Settings.from_environment())
    settings = replace(settings, home=Path(home))
    spark = session.start(settings)
    sys.argv = [file, *parameters]
    context = spark.sparkContext if settings.in_jvm else None
    given = {"spark": spark, "sc": context, "dbutils": DbUtils()}
    try:
        runpy.run_path(file, init_globals=given, run_name="__main__")
    finally:
        spark.stop()
    return 0


def _end_with_the_workspace() -> None:
    """A task whose workspace is gone has no record: nobody would wait for it, or could end it."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever sent: it returns when nobody holds the pipe
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
