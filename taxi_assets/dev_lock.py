"""The lock of `taxi-assets dev`: one watches a home, and others can tell which and where."""

from __future__ import annotations

import fcntl
import os

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings

FILE = "dev.lock"  # a line: the process, and the address of its pages


def hold(settings: Settings, address: str) -> None:
    """Hold the home's lock as long as this process or what it hands its files to lives.

    Whatever program it becomes; a daemon may outlive a supervisor that was killed.

    Two daemons would tick the same sensors, and each tell of the other's runs.

    Raises:
        SettingsError: another one holds it.
    """
    lock = os.open(settings.home / FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SettingsError(
            "Only one taxi-assets dev at a time may use a TAXI_HOME",
            f"process {_read(lock)[0]} holds {settings.home}",
            "Use its pages, or end it",
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()} {address}".encode(), 0)
    os.set_inheritable(lock, True)


def holder(settings: Settings) -> tuple[str, str] | None:
    """The process that watches the home and the address of its pages; None when none does."""
    try:
        lock = os.open(settings.home / FILE, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read(lock)
    finally:
        os.close(lock)
    return None


def _read(lock: int) -> tuple[str, str]:
    process, _, address = os.pread(lock, 200, 0).decode(errors="replace").partition(" ")
    return process or "unknown", address
