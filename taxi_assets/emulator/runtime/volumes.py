"""Unity Catalog volumes as folders of `TAXI_HOME/volumes`."""

from __future__ import annotations

import re
from pathlib import Path

from databricks_steps.settings import Settings
from taxi_assets.emulator import errors

_PATH = re.compile(r"/?Volumes(/[A-Za-z0-9_.=@+ -]{1,255}){4,}/?")
PREFIX = "/Volumes/"


def local(settings: Settings, path: str) -> Path:
    """The file or folder behind `/Volumes/catalog/schema/volume/…`.

    Raises:
        ApiError: it is no path of a volume.
    """
    parts = path.strip("/").split("/")
    if not _PATH.fullmatch(path) or any(set(part) <= {"."} for part in parts):
        raise errors.invalid(
            "A path of a volume is /Volumes/catalog/schema/volume/…",
            repr(path[:200]),
            "Correct the path",
        )
    return settings.home.joinpath("volumes", *parts[1:])


def on_this_machine(settings: Settings, word: str) -> str:
    """A path of a volume as the folder behind it; every other word as it is."""
    path = word.removeprefix("dbfs:")
    return str(local(settings, path)) if path.startswith(PREFIX) else word
