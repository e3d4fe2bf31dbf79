"""A run that is told to stop: one line, its records closed, and the process ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TextIO

import click

from databricks_steps.errors import TaxiError
from databricks_steps.settings import Settings

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS = 10.0  # for closing the records of a run
_LOOK_SECONDS = 0.2


def stoppable(
    settings: Settings, work: Callable[[], None], afterwards: Callable[[], None] = lambda: None
) -> None:
    """Do the work in a thread of its own, while this one listens for signals.

    Dagster and py4j answer signals in the main thread, each in its own way: with tracebacks, and
    as failures that alert people. Here the process ends, as it would by SIGKILL, from which the
    next run recovers; but before, its runs are marked as canceled, and what is to be done
    `afterwards` is done, as far as it goes in `_SECONDS`.
    """
    failed: list[BaseException] = []

    def guarded() -> None:
        # Children inherit the mask: on Ctrl-C Dagster's helpers would print tracebacks.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            work()
        except BaseException as error:  # raised again where the command waits
            failed.append(error)

    thread = threading.Thread(target=guarded, daemon=True, name="run")
    with (
        _standard_error() as told,
        _heard(lambda number, _: _stop(settings, number, afterwards, told)),
    ):
        thread.start()
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
    if failed:
        raise failed[0]


def _standard_error() -> TextIO:
    """A copy of its file descriptor: Dagster redirects the original while a step runs."""
    if sys.__stderr__ is None:  # closed before the start: its number may be another file's by now
        return Path(os.devnull).open("w")
    return os.fdopen(os.dup(sys.__stderr__.fileno()), "w")


@contextmanager
def _heard(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals go to this handler meanwhile; a Ctrl-C that a shell has made ignored stays so."""
    wanted = (n for n in SIGNALS if n == signal.SIGTERM or signal.getsignal(n) != signal.SIG_IGN)
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _stop(settings: Settings, number: int, afterwards: Callable[[], None], told: TextIO) -> None:
    from taxi_assets import dagster_instance

    def close() -> None:
        dagster_instance.cancel_own_runs(settings)
        with suppress(TaxiError):  # the next run does it
            afterwards()

    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(_SECONDS)
    if terminal := sys.modules.get("taxi_assets.terminal"):
        terminal.restored()
    name = signal.Signals(number).name
    line = f"error: stopped by {name}; the same command goes on from here"
    click.secho(line, file=told, fg="red")
    os._exit(128 + number)
