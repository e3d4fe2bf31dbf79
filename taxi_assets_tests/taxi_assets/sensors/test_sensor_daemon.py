"""The real daemon: a quiet month and one that drifted, while it is killed five times."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
from world import World

from databricks_steps.settings import REPOSITORY
from taxi_assets_tests.taxi_assets.webhook_receiver import Receiver

LOCATION = """
from databricks_steps.settings import Settings
from taxi_assets.resources.targets import watch
from world import definitions

defs = definitions(Settings.from_environment(), watch())
"""
SECONDS = 900.0


class Daemon:
    """`dagster-daemon run` on a home."""

    def __init__(self, world: World, receiver: Receiver) -> None:
        self.home = world.settings.home
        (self.home / "location.py").write_text(LOCATION)
        paths = [str(REPOSITORY), str(Path(__file__).parent)]
        self.environment = {
            **os.environ,
            "TAXI_HOME": str(self.home),
            "DAGSTER_HOME": str(self.home / "dagster"),
            "PYTHONPATH": os.pathsep.join(paths),
            "TAXI_SENSOR_SECONDS": "1",
            "TAXI_ALERT_URLS": receiver.url,
        }

    def start(self) -> None:
        arguments = ["-m", "dagster._daemon", "run", "-f", str(self.home / "location.py")]
        with (self.home / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.home,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(60)


def ended(world: World) -> Counter[tuple[str, str]]:
    """Runs that are over, by job and status."""
    runs = world.instance.get_runs()
    return Counter((run.job_name, run.status.value) for run in runs if run.is_finished)


def wait(world: World, daemon: Daemon, done: object) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():  # type: ignore[operator]
        log = (daemon.home / "daemon.log").read_text()
        assert time.monotonic() < deadline, (ended(world), world.alerts(), log[-3000:])
        time.sleep(0.3)


@pytest.mark.long
def test_five_deaths_of_the_daemon_double_nothing_and_lose_nothing(served: World) -> None:
    served.tell(triage={"2023-01": drift()}, drifted=["2023-01"])
    receiver = Receiver()
    daemon = Daemon(served, receiver)
    daemon.start()
    served.land("2022-03")
    wanted = [
        lambda: served.instance.get_runs_count() >= 1,
        lambda: ended(served)[("new_month", "SUCCESS")] == 1,
        lambda: ended(served)[("retrain", "SUCCESS")] == 1,
        lambda: ended(served)[("new_month", "SUCCESS")] == 2,
        lambda: served.alerts() != [],
    ]
    for number, reached in enumerate(wanted):
        wait(served, daemon, reached)
        daemon.stop(signal.SIGKILL)
        if number == 2:
            served.land("2023-01")
        daemon.start()
    wait(served, daemon, lambda: len(receiver.received) == 2)
    time.sleep(5)  # for whatever would come twice
    daemon.stop(signal.SIGTERM)
    receiver.close()

    key = "check drift_report: triage 2023-01"
    assert ended(served) == {("new_month", "SUCCESS"): 2, ("retrain", "SUCCESS"): 2}
    assert served.instance.get_runs_count() == 4
    assert served.alerts() == [("error", key), ("resolved", key)]
    assert receiver.titles == [f"[error] {key}", f"[resolved] {key}"]
    keys = {run.tags["dagster/run_key"].partition(":")[0] for run in served.instance.get_runs()}
    assert keys == {"2022-03", "2023-01", "retrain", "drift"}


def drift() -> dict[str, object]:
    return {"kind": "concept drift"}


def test_the_instance_runs_one_at_a_time(world: World) -> None:
    limits = world.instance.get_concurrency_config().run_queue_config
    assert limits is not None
    assert limits.max_concurrent_runs == 1
    assert isinstance(world.instance, dg.DagsterInstance)
