"""Fixtures that many tests share: a session of each engine, a home of one's own, the real data."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadFileScheduling

from databricks_steps.errors import SettingsError
from databricks_steps.platforms.embedded import session
from databricks_steps.settings import JVM, REPOSITORY, Settings
from taxi_assets_tests.engines import classic

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# A JVM is started by a fork. With the clients of Sail at work in threads, gRPC's own handling of
# forks ends the new process every other time.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Threads of OpenMP wait for each other: beside other tests boosting took ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A JVM of a test lives for a minute or two: half of its work was to optimize what it runs once.
os.environ.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m")


# Worth making once: all files whose text has it go to one worker.
SHARED = {
    "the first run": re.compile(r"\bfirst_run\b"),
    "a JVM": re.compile(r"\b(jvm|engine|running): "),
}


def pytest_configure(config: pytest.Config) -> None:
    """Tests send SIGINT, which a shell ignores for what it starts in the background."""
    config.pluginmanager.register(Failures(config))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Failures:
    """Names each failure at once: a run that is cut off never comes to its summary."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = crash.message.partition("\n")[0] if crash else ""
            terminal.write_line(f"\n{report.nodeid} ({report.when}): {said}"[:500])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What is long is not begun when its time is over; what is not long always runs."""
    until = float(os.environ.get("TAXI_LONG_TESTS_UNTIL", "inf"))
    if item.get_closest_marker("long") and time.time() > until:
        pytest.skip("long: no time is left for it (TAXI_LONG_TESTS_UNTIL)")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Tests of a file stay together, and files that share what is dear.

    xdist's own `loadgroup` puts nothing together on pytest 9.2.
    """

    class Sharing(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(config.rootpath / super()._split_scope(nodeid))

    return Sharing(config, log)


@cache
def group(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    return next((name for name, form in SHARED.items() if form.search(text)), str(file))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with what is long first, then those with what is slow: none is left for the end."""
    marked = [
        {item.path for item in items if item.get_closest_marker(name)} for name in ("long", "slow")
    ]
    items.sort(key=lambda item: [item.path not in files for files in marked])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The seconds, fixtures included, of each folder of tests and of the dearest files."""
    folders, files = Counter[str](), Counter[str]()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration"):
                file = Path(report.nodeid.partition("::")[0])
                folders["/".join(file.parent.parts[1:]) or "."] += report.duration
                files[file.stem] += report.duration
    for title, seconds in (("seconds", folders), ("of the dearest files", files)):
        shares = (f"{name} {taken:.0f}" for name, taken in seconds.most_common(20))
        terminalreporter.write_line(f"{title}: {', '.join(shares)}")


@pytest.fixture(autouse=True)
def own_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that a test starts has temporary files go below its home, and the home goes."""
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """One session for the whole run, of the default engine: Sail."""
    # PySpark turns naive datetimes of tests into instants by the timezone of the process.
    os.environ["TZ"] = "UTC"
    time.tzset()
    running = session.start(Settings(home=tmp_path_factory.mktemp("sail"), driver_memory="2g"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def jvm_session(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SparkSession]:
    """Spark in a JVM of this process, beside Sail, and after it: PySpark wants this order."""
    try:
        session.require_java()
    except SettingsError as error:
        pytest.skip(f"Spark in a JVM: {error}")
    home = tmp_path_factory.mktemp("spark")
    with classic():
        running = session.start(Settings(home=home, spark=JVM, driver_memory="2g"))
        running.conf.set("spark.sql.shuffle.partitions", "2")  # small frames: fewer, larger tasks
    yield running
    running.stop()


@pytest.fixture
def jvm(jvm_session: SparkSession) -> Iterator[SparkSession]:
    """The session of Spark in a JVM, in a test of its own: functions are of one kind at a time."""
    with classic():
        yield jvm_session


@pytest.fixture(params=["sail", pytest.param("jvm", marks=pytest.mark.long)])
def engine(request: pytest.FixtureRequest) -> SparkSession:
    """The session of either engine, one after the other."""
    found: SparkSession = request.getfixturevalue("spark" if request.param == "sail" else "jvm")
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with an empty home of the test's own."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real TLC files; tests that need it skip by name where it is absent."""
    folder = Path(os.environ.get("TAXI_REAL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real trip data: no folder {folder}; set TAXI_REAL_DATA")
    return folder
