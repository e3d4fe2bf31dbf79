"""Locks of folders: writers take turns; what a process alone uses is swept once it was killed."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

SUFFIX = ".lock"


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """The only one of all threads and processes that is alone with the folder; it is made."""
    path.mkdir(parents=True, exist_ok=True)
    held = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A path for a folder that is gone afterwards, locked as long as this process lives."""
    lock = path.with_name(path.name + SUFFIX)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            lock.unlink(missing_ok=True)


def kept(path: Path) -> IO[str]:
    """Make a folder for as long as this process lives; keep what is answered, it is the lock."""
    path.mkdir(parents=True, exist_ok=True)
    held = path.with_name(path.name + SUFFIX).open("w")
    with suppress(OSError):  # of another machine's process with the same number: it sweeps for both
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return held


def sweep(parent: Path, beginning: str = "") -> None:
    """Remove the folders whose process is gone: nobody holds their locks any more.

    Only those whose names begin so.
    """
    for lock in parent.glob(f"{glob.escape(beginning)}*{SUFFIX}"):
        with suppress(OSError), lock.open("r+") as held:  # still held, or just removed
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_name(lock.name.removesuffix(SUFFIX)), ignore_errors=True)
            lock.unlink()
