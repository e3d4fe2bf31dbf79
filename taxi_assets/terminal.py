"""A run on a terminal: under the lines so far, the step at work, which of how many, and a clock.

While a step runs, Dagster redirects standard output to a file, so the console writes to a copy of
its file descriptor.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from taxi_assets.progress import Progress

_A_SECOND = 4  # times that the line is drawn
SHOW_CURSOR = "\x1b[?25h"  # rich hides it; a process that is ended at once must show it again
_TERMINALS: list[TextIO] = []  # of runs that are shown now


class _AtWork:
    """The last line, as it is at the moment it is drawn."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.doing = progress, ""

    def __rich__(self) -> Text:
        told = self.progress
        if not told.at_work:
            return Text("")
        step, since = next(iter(told.at_work.items()))
        minutes, seconds = divmod(int(time.monotonic() - since), 60)
        place = f"{len(told.stages) + 1} of {told.planned}"
        line = f"  {step:<42}{minutes:3}:{seconds:02} min  {place}  {self.doing}"
        return Text(line, style="cyan", no_wrap=True, overflow="ellipsis")


class _Doing(logging.Handler):
    """What a step says that it does, for the line; a warning is a line of its own, and stays."""

    def __init__(self, line: _AtWork) -> None:
        super().__init__(logging.INFO)
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.line.progress.say(f"  warning: {record.getMessage()}")
        else:
            self.line.doing = record.getMessage()


@contextmanager
def shown(progress: Progress) -> Iterator[None]:
    """Lines of the run go through the terminal meanwhile, above the one that moves."""
    line = _AtWork(progress)
    said, handler = progress.say, _Doing(line)
    logger = logging.getLogger("databricks_steps")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with (
            _terminal() as terminal,
            Live(line, console=terminal, refresh_per_second=_A_SECOND, transient=True),
        ):

            def say(text: str) -> None:
                line.doing = ""
                terminal.print(text)

            progress.say = say
            yield
    finally:
        progress.say = said
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def _terminal() -> Iterator[Console]:
    """A console on a copy of standard output's file descriptor."""
    own = os.dup(sys.stdout.fileno())
    with os.fdopen(own, "w", encoding=sys.stdout.encoding, errors="replace") as file:
        _TERMINALS.append(file)
        try:
            yield Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
        finally:
            _TERMINALS.remove(file)


def restored() -> None:
    """Show the cursor again, from a process that is about to end in the middle of a run."""
    for terminal in _TERMINALS:
        terminal.write(f"{SHOW_CURSOR}\n")
        terminal.flush()
