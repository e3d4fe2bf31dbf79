"""Every command against hostile homes, sources, months and files: one line, and nothing left."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from databricks_steps.errors import SettingsError
from databricks_steps.months import parse, ranges, shift, this_month
from databricks_steps.settings import REPOSITORY, Settings
from taxi_assets import dev_lock
from taxi_assets.cli import main
from taxi_assets.commands.common import one_line_errors

COMMANDS: dict[str, tuple[str, ...]] = {
    "run": ("run",),
    "dev": ("dev",),
    "mlflow": ("mlflow",),
    "status": ("status",),
    "configure": ("configure",),
    "report": ("report",),
    "serve": ("serve",),
    "stop": ("stop",),
    "query": ("query", "REQUEST"),
    "deploy": ("deploy",),
    "rollback": ("rollback",),
    "approve": ("approve", "1"),
    "reproduce": ("reproduce", "1"),
    "replay": ("replay", "--version", "1"),
    "doctor": ("doctor",),
    "certify": ("certify",),
    "backup": ("backup", "FILE"),
    "restore": ("restore", "FILE"),
    "vacuum": ("vacuum",),
    "scenario": ("scenario", "calm"),
    "alerts": ("alerts",),
    "backtest": ("backtest", "--months", "2022-01:2022-02"),
}
# As a script's shell starts what it puts in the background: with SIGINT ignored.
IGNORING = ("bash", "-c", "trap '' INT; exec \"$@\"", "bash")
HOMES = {
    "a file": "FILE",
    "below a file": "FILE/home",
    "a pattern": "TMP/a*b",
    "encoded": "TMP/feature%2Fx",
    "a query": "TMP/a?b=c",
    "a bucket": "s3://bucket/home",
    "another user": "~nobody-of-that-name/home",
    "too long": "TMP/" + "x" * 300,
    "two lines": "TMP/a\nb",
    "not UTF-8": "TMP/" + os.fsdecode(b"\xff"),
}


def called(home: str, *arguments: str, **environment: str) -> Result:
    """The command in this process, on a port where nothing is."""
    variables = {"TAXI_HOME": home, "TAXI_PORT": "8459", "TAXI_TARGET": "", **environment}
    return CliRunner().invoke(main, list(arguments), env=variables)


def lines(done: Result) -> list[str]:
    return (done.stderr + done.stdout).strip().splitlines()


def refused(done: Result) -> str:
    """The one line of a command that was refused."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code not in (0, None), done.output
    (line,) = lines(done)
    assert line.startswith("error: ")
    return line


def test_every_command_is_tried_here() -> None:
    assert set(main.commands) == set(COMMANDS) | {"completion"}


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_that_cannot_be_one(tmp_path: Path, home: str, command: str) -> None:
    file, request = tmp_path / "file", tmp_path / "request.json"
    file.write_text("x")
    request.write_text("{}")
    place = HOMES[home].replace("TMP", str(tmp_path)).replace("FILE", str(file))
    given = {"REQUEST": str(request), "FILE": str(tmp_path / "backup.tar.gz")}
    arguments = [given.get(part, part) for part in COMMANDS[command]]
    line = refused(called(place, *arguments))
    assert "TAXI_HOME" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "request.json"]


WRITING = ("run", "dev", "configure", "report", "serve", "deploy", "rollback", "scenario", "replay")


@pytest.mark.parametrize("command", WRITING)
def test_a_home_where_nothing_can_be_written(tmp_path: Path, command: str) -> None:
    line = refused(called("/proc/nowhere", *COMMANDS[command]))
    assert line.startswith("error: TAXI_HOME must be a folder that can be written: /proc/nowhere")


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("configured") / "home"
    assert called(str(home), "configure").exit_code == 0
    return home


@pytest.mark.parametrize(
    "database", ["history/runs.db", "history/runs/index.db", "schedules/schedules.db"]
)
def test_a_damaged_database_of_dagster_is_one_line(
    configured: Path, tmp_path: Path, database: str
) -> None:
    home = tmp_path / "home"
    shutil.copytree(configured, home)
    (home / "dagster" / database).write_bytes(b"no database" * 1_000)
    line = refused(called(str(home), "configure"))
    assert line.startswith(f"error: The databases of TAXI_HOME must be whole: {home}: ")
    assert "file is not a database" in line


@pytest.mark.parametrize(
    ("lock", "command"), [("care", "backup"), ("care", "vacuum"), ("run", "vacuum"), ("run", "run")]
)
def test_a_lock_that_cannot_be_made_is_the_homes_fault(
    tmp_path: Path, lock: str, command: str
) -> None:
    """As where the home is read-only; root, as which tests may run, writes anywhere."""
    home = tmp_path / "home"
    for folder in ("warehouse", f"{lock}.lock"):
        (home / folder).mkdir(parents=True)
    given = {"FILE": str(tmp_path / "backup.tar.gz")}
    line = refused(called(str(home), *(given.get(part, part) for part in COMMANDS[command])))
    assert line.startswith("error: TAXI_HOME must be a folder that can be written: ")
    assert f"{lock}.lock" in line


@pytest.mark.parametrize(
    "bug",
    [
        lambda home: FileNotFoundError(errno.ENOENT, "No such file", str(home / "x")),
        lambda home: PermissionError(errno.EACCES, "Permission denied", "/elsewhere"),
        lambda _: sqlite3.OperationalError("no such table: x"),
        lambda _: sqlite3.OperationalError("database is locked"),
    ],
)
def test_a_bug_of_ours_shows_its_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bug: Callable[[Path], Exception]
) -> None:
    monkeypatch.setenv("TAXI_HOME", str(tmp_path))

    @one_line_errors
    def command() -> None:
        raise bug(tmp_path)

    with pytest.raises((OSError, sqlite3.Error)):
        command()


@pytest.mark.parametrize(("made_for", "kept"), [("HERE", True), ("/elsewhere", False), ("", False)])
def test_a_venv_of_another_folder_is_made_anew(tmp_path: Path, made_for: str, kept: bool) -> None:
    """Its commands would run the checkout that it was copied from."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv").mkdir()
    shutil.copy(REPOSITORY / "scripts" / "set_up.sh", tmp_path / "scripts")
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text("packages")
    script = 'source scripts/set_up.sh; make_venv() { ls -a "$VENV"; exit; }; '
    digest = subprocess.run(
        ["bash", "-c", f"{script} lock_digest"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    stamp = f"{digest} {made_for.replace('HERE', str(tmp_path))}".rstrip()
    (tmp_path / ".venv" / ".made-from").write_text(f"{stamp}\n")
    asked = subprocess.run(
        ["bash", "-c", f"{script} set_up"], cwd=tmp_path, capture_output=True, check=False
    )
    assert (tmp_path / ".venv" / ".made-from").exists() == kept, asked.stderr


SOURCES = {
    "not there": "TMP/nowhere",
    "an empty folder": "TMP/empty",
    "another user": "~nobody-of-that-name/x",
    "too long": "x" * 5_000,
    "a bucket": "s3://bucket/trips",
    "NUL": "a\0b",
    "a device": "/dev/null",
    "another service": "tlc:fhv",
    "a file that is no trips": "TMP/notes.txt",
    "a loop": "TMP/loop",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_cannot_be_one(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("please load")
    (tmp_path / "loop").symlink_to("loop")
    text = SOURCES[source].replace("TMP", str(tmp_path))
    done = called(str(tmp_path / "home"), "run", "--source", text)
    assert len(refused(done)) < 1_000


MONTHS = [
    *("2022-13", "2022-1", "22-01", "2022", "", " ", "2022-01:", ":2022-01", "2022-02:2022-01"),
    *(
        "2008-12",
        "2030-01",
        "9999-12",
        "2022-01:9999-12",
        "２０２２-01",
        "2022-01;2022-02",
        "x" * 9_000,
    ),
]


@pytest.mark.parametrize("months", MONTHS)
def test_months_that_cannot_be_some(tmp_path: Path, months: str) -> None:
    if not months:  # as if the option were not given
        return
    done = called(str(tmp_path / "home"), "run", "--months", months)
    assert len(refused(done)) < 300
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("months", "told"),
    [
        ((), ""),
        (("2022-01",), "2022-01"),
        (("2022-01", "2021-12", "2022-01"), "2021-12 to 2022-01"),
        (("2021-11", "2022-01", "2022-02", "2022-03"), "2021-11, 2022-01 to 2022-03"),
    ],
)
def test_months_are_told_in_ranges(months: tuple[str, ...], told: str) -> None:
    assert ranges(months) == told


def test_months_are_known_up_to_the_one_that_is_over() -> None:
    newest = shift(this_month(), -1)
    assert parse(newest) == (newest,)
    for month in (this_month(), shift(this_month(), 1)):
        with pytest.raises(SettingsError):
            parse(month)


REQUESTS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"trips",
    "NaN": b'{"dataframe_records": [{"trip_distance": NaN}]}',
    "infinity": b'{"dataframe_records": [{"trip_distance": -Infinity}]}',
    "not UTF-8": b'"\xff"',
    "too deep": b"[" * 100_000,
    "a number of 5,000 digits": b"1" * 5_000,
}


@pytest.mark.parametrize("request_of", REQUESTS)
def test_a_request_that_is_no_json(tmp_path: Path, request_of: str) -> None:
    file = tmp_path / "request.json"
    file.write_bytes(REQUESTS[request_of])
    assert "JSON" in refused(called(str(tmp_path / "home"), "query", str(file)))


def test_a_run_that_fails_says_so_in_json(tmp_path: Path) -> None:
    import json

    done = called(str(tmp_path / "home"), "run", "--json", "--source", str(tmp_path / "nowhere"))
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["status"] == "failed"
    assert f"error: {report['error']}" == done.stderr.strip()


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-5"])
def test_a_terminal_that_lacks_letters_gets_every_line(encoding: str) -> None:
    script = "from taxi_assets.commands.common import one_line_errors\nimport click\n"
    script += "one_line_errors(lambda: click.echo('R² é \\udce9'))()"
    variables = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=variables, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"R")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param("SIGTERM", marks=pytest.mark.long), "SIGINT"])
def test_a_run_that_is_told_to_stop_says_one_line(tmp_path: Path, name: str) -> None:
    """Also where a script's shell has started it, with SIGINT ignored, it hears SIGTERM."""
    import signal

    shell = IGNORING if name == "SIGTERM" else ()
    variables: dict[str, Any] = {"TAXI_HOME": str(tmp_path / "home"), "TAXI_PORT": "8458"}
    run = subprocess.Popen(
        [*shell, sys.executable, "-m", "taxi_assets.cli", "run"],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("  raw_trips "):
            break
    number = getattr(signal, name)
    run.send_signal(number)
    _, err = run.communicate(timeout=300)
    try:
        assert run.returncode == 128 + number
        (line,) = err.strip().splitlines()
        assert line.startswith(f"error: stopped by {name}")
        import dagster as dg

        with dg.DagsterInstance.from_config(str(tmp_path / "home" / "dagster")) as found:
            assert [record.status.value for record in found.get_runs()] == ["CANCELED"]
    finally:
        subprocess.run(
            [sys.executable, "-m", "taxi_assets.cli", "stop"],
            env={**os.environ, **variables},
            capture_output=True,
            check=True,
        )


@pytest.mark.parametrize("ignored", [False, True])
def test_a_server_that_a_script_starts_ends_by_sigterm(ignored: bool) -> None:
    """What Dagster does with signals in the process that `dev` becomes."""
    dagster = "from dagster._utils.interrupts import setup_interrupt_handlers as s; s()\n"
    dagster += "import signal; print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)"
    script = "from taxi_assets.commands.common import become; import sys\n"
    script += f"become([sys.executable, '-c', {dagster!r}])"
    done = subprocess.run(
        [*(IGNORING if ignored else ()), sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_dev_on_a_busy_port_or_a_second_one_in_a_home_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"--port must be a free port of this machine: {port}: " in refused(
            called(str(home), "dev", "--port", str(port))
        )
    assert "free port" in refused(called(str(home), "dev", "--port", "70000"))
    # The first is another program by now, which knows of no lock.
    holds = "from taxi_assets import dev_lock; import os, sys\n"
    holds += "from databricks_steps.settings import Settings; from pathlib import Path\n"
    holds += "dev_lock.hold(Settings(home=Path(sys.argv[1])), sys.argv[2])\n"
    holds += "os.execvp('sleep', ['sleep', '60'])"
    pages = "http://127.0.0.1:3000"
    first = subprocess.Popen([sys.executable, "-c", holds, str(home), pages])
    try:
        while not (home / "dev.lock").exists() or not (home / "dev.lock").read_text():
            assert first.poll() is None
            time.sleep(0.05)
        told = refused(called(str(home), "dev", "--port", str(port)))
        assert (
            f"Only one taxi-assets dev at a time may use a TAXI_HOME: process {first.pid}" in told
        )
        assert dev_lock.holder(Settings(home=home)) == (str(first.pid), pages)
        stopped = called(str(home), "stop")
        assert (stopped.exit_code, str(first.pid) in stopped.stdout) == (0, True), stopped
    finally:
        first.kill()
        first.wait()
    assert dev_lock.holder(Settings(home=home)) is None
    assert called(str(home), "stop").stdout == "was not running\n"
