"""Temporary files of a process with Spark: swept by the next once it was killed, never before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAM = """
import sys, tempfile
from pathlib import Path
from databricks_steps.platforms.embedded import session
from databricks_steps.settings import Settings
session.prepare(Settings(home=Path(sys.argv[1]), driver_memory="512m"))
print(tempfile.mkdtemp(), flush=True)
sys.stdin.read()
"""
Started = tuple[subprocess.Popen[str], Path]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[], Started]]:
    """Starts a process that prepares for Spark; gives it and a temporary folder that it made."""
    made: list[subprocess.Popen[str]] = []

    def start() -> Started:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "home")]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        made.append(process)
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in made:
        process.kill()
        process.communicate()


def test_what_a_killed_process_left_goes_with_the_next_start(
    begin: Callable[[], Started], tmp_path: Path
) -> None:
    killed, left = begin()
    assert left.is_dir()
    assert left.is_relative_to(tmp_path / "home" / "scratch" / str(killed.pid))
    killed.kill()
    killed.wait()
    assert left.is_dir()  # nobody was there to remove it

    living, kept = begin()
    assert not left.exists()
    assert not left.parent.exists()
    assert kept.is_dir()

    begin()
    assert living.poll() is None
    assert kept.is_dir()  # of a process that lives
