"""What a session leaves in a home: its log, and nothing temporary once its process is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from databricks_steps.platforms.embedded import session
from databricks_steps.settings import Settings

PREPARED = """
import os, signal, sys, tempfile
from pathlib import Path
from databricks_steps.platforms.embedded import session
from databricks_steps.settings import Settings
session.prepare(Settings(home=Path(sys.argv[1])))
print(tempfile.mkdtemp(prefix="model-"), os.getpid(), sep="\\n", flush=True)
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


def prepared(home: Path, end: str) -> tuple[int, Path, int]:
    """Exit code, temporary folder and process of a Python that prepared a session."""
    words = [sys.executable, "-c", PREPARED, str(home), end]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False, timeout=120)
    folder, process = done.stdout.splitlines()
    return done.returncode, Path(folder), int(process)


def test_what_a_killed_process_kept_for_a_while_is_gone_with_the_next(tmp_path: Path) -> None:
    home = tmp_path / "my hömé"
    parent = session.scratch(Settings(home=home)).parent
    code, kept, killed = prepared(home, "killed")
    assert code == -signal.SIGKILL
    assert kept.parent == parent / str(killed)
    assert kept.is_dir()
    code, later, next_one = prepared(home, "ended")
    assert code == 0
    assert later.parent == parent / str(next_one)
    assert not kept.parent.exists()
    assert (home / "logs" / "spark.log").is_file()
