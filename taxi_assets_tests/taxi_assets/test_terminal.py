"""The line of a run that moves, on a real terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

RUN = """
import time
import dagster as dg
from taxi_assets import progress, terminal

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
with terminal.shown(told):
    assert both.execute_in_process(run_config={"loggers": {"stages": {}}}).success
print("ended")
"""


def test_a_terminal_sees_the_step_at_work_which_of_how_many_and_a_clock(tmp_path: Path) -> None:
    above, below = pty.openpty()
    environment = {**os.environ, "TAXI_HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, stdout=below, stderr=below, env=environment) as process:
        os.close(below)
        said = b""
        try:
            while part := os.read(above, 65_536):
                said += part
        except OSError:  # how Linux tells the end of a terminal
            pass
    os.close(above)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode())
    assert process.returncode == 0, text
    assert re.search(r"first +0:0[01] min  1 of 2  fits the model", text)
    assert re.search(r"\r  warning: a clock is odd\r", text)
    assert re.search(r"second +0:00 min  2 of 2", text)
    assert re.search(r"\r  first +\d\.\d s\r", text)
    assert text.rstrip().endswith("ended")
    assert said.decode().rindex("\x1b[?25h") > said.decode().rindex("\x1b[?25l")
