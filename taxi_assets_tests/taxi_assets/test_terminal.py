"""The line of a run that moves, on a real terminal, while Dagster captures what a step prints."""

from __future__ import annotations

import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest_run import Home

from taxi_assets.terminal import SHOW_CURSOR
from taxi_assets_tests.waiting import Process

PAINT = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
RUN = """
import time
import dagster as dg
from databricks_steps.settings import Settings
from taxi_assets import dagster_instance, progress, terminal

@dg.op
def first():
    import logging
    logging.getLogger("databricks_steps.trips").warning("a clock is odd")
    logging.getLogger("databricks_steps.training").info("fits the model")
    time.sleep(1.2)

@dg.op(ins={"after": dg.In(dg.Nothing)})
def second():
    time.sleep(0.6)

@dg.job(logger_defs={"stages": progress.stage_logger})
def both():
    second(first())

told = progress.progress
told.reset(lambda line: None)
told.planned = 2
with dagster_instance.instance(Settings.from_environment()) as found, terminal.shown(told):
    config = {"loggers": {"stages": {}}}
    assert both.execute_in_process(run_config=config, instance=found).success
print("ended")
"""


@contextmanager
def on_a_terminal(
    command: Sequence[str], home: Home, **more: Any
) -> Iterator[tuple[Process[bytes], int]]:
    """The process, and the other end of its terminal."""
    above, below = pty.openpty()
    environment = {**home.environment, "TERM": "xterm", "COLUMNS": "120"}
    with Process(command, stdout=below, stderr=below, env=environment, **more) as process:
        os.close(below)
        yield process, above
    os.close(above)


def rest(above: int, said: bytes = b"") -> str:
    """What a terminal was sent until nobody writes to it any more."""
    try:
        while part := os.read(above, 65_536):
            said += part
    except OSError:  # how Linux tells the end of a terminal
        pass
    return said.decode()


def test_a_terminal_sees_the_step_at_work_which_of_how_many_and_a_clock(homes: Any) -> None:
    with on_a_terminal([sys.executable, "-c", RUN], homes("shown")) as (process, above):
        sent = rest(above)
    text = PAINT.sub("", sent)
    assert process.returncode == 0, text
    assert re.search(r"first +0:0[01] min  1 of 2  fits the model", text)
    assert re.search(r"\r  warning: a clock is odd\r", text)
    assert re.search(r"second +0:00 min  2 of 2", text)
    assert re.search(r"\r  first +\d\.\d s\r", text)
    assert text.rstrip().endswith("ended")
    assert sent.rindex(SHOW_CURSOR) > sent.rindex("\x1b[?25l")


@pytest.mark.slow  # a run
def test_ctrl_c_on_a_terminal_ends_a_run_with_one_line(homes: Any) -> None:
    """A terminal tells every process of its foreground, those of Dagster among them."""
    command = [sys.executable, "-m", "taxi_assets.cli", "run", "--months", "2022-01"]
    with on_a_terminal(command, homes("stopped"), start_new_session=True) as (process, above):
        said = b""
        while b"raw_trips" not in said:
            said += os.read(above, 65_536)
        os.killpg(process.pid, signal.SIGINT)
        sent = rest(above, said)
    text = PAINT.sub("", sent)
    assert process.returncode == 128 + signal.SIGINT, text
    assert "Traceback" not in text
    (line,) = re.findall(r"error: .*", text)
    assert line.startswith("error: stopped by SIGINT")
    assert sent.rindex(SHOW_CURSOR) > sent.rindex("\x1b[?25l")


class Pane:
    """A shell in tmux, as a user has it: what was typed, and what can be read."""

    def __init__(self, folder: Path, home: Home) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._environment = {**home.environment, "TERM": "xterm"}
        self._call("new-session", "-d", "-x", "120", "-y", "60", "sh")

    def _call(self, *words: str) -> str:
        command = [*self._tmux, *words]
        done = subprocess.run(command, check=True, capture_output=True, env=self._environment)
        return done.stdout.decode()

    def type(self, line: str) -> None:
        self._call("send-keys", "-l", line)
        self._call("send-keys", "Enter")

    def read(self) -> str:
        """The lines on the screen, those that were wrapped made whole."""
        return self._call("capture-pane", "-p", "-J")

    def read_until(self, form: str, seconds: float) -> list[str]:
        """What stood there, look by look, until a line has the form."""
        seen, end = [self.read()], time.monotonic() + seconds
        while not re.search(form, seen[-1], re.MULTILINE):
            assert time.monotonic() < end, seen[-1]
            time.sleep(0.2)
            seen.append(self.read())
        return seen

    def close(self) -> None:
        self._call("kill-server")


@pytest.fixture
def pane(tmp_path: Path, homes: Any) -> Iterator[Pane]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not there")
    opened = Pane(tmp_path, homes("pane"))
    yield opened
    opened.close()


@pytest.mark.long  # a run
def test_in_tmux_a_run_shows_its_step_and_its_last_line_works_when_pasted(
    pane: Pane, small_source: Path
) -> None:
    command = [str(Path(sys.executable).with_name("taxi-assets")), "run"]
    command += ["--source", str(small_source), "--months", "2022-01"]
    pane.type(f"{shlex.join(command)}; echo ended $?")
    seen = pane.read_until(r"^ended \d+$", 600)
    moving = r"^  (\w+) +\d:\d\d min +(\d+) of (\d+)"
    found = {step for screen in seen for step in re.findall(moving, screen, re.MULTILINE)}
    steps = {name for name, *_ in found}
    assert {"raw_trips", "fare_model"} <= steps, steps
    assert len({planned for *_, planned in found}) == 1  # how many there are is known at once
    assert re.search(r"^status: success in", seen[-1], re.MULTILINE), seen[-1]
    (pasted,) = re.findall(r"^next +(\S.*query --now.*)$", seen[-1], re.MULTILINE)
    pane.type(f"clear; {pasted}")
    pane.read_until(r'"fare": \d+\.\d+, "low": ', 60)
