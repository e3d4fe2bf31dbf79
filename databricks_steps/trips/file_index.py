"""What was found in files of trips, kept by path, so that an unchanged file is not opened again.

A file is unchanged where its size and times are. What could not be opened is tried each time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from databricks_steps import fingerprint
from databricks_steps.settings import Settings
from databricks_steps.trips import column_mapping, files, normalize, parsing, reading, recognition
from databricks_steps.trips.files import Layout, SourceColumn, TripFile

NAME = "source_files.json"
# What is found in a file, and its rows, are made by.
READERS = (column_mapping, files, normalize, parsing, reading, recognition)
_TRIED_AGAIN = (files.UNREADABLE, "not_a_file")  # causes that may go without a change of the file


class FileIndex:
    """The index of a home; a cache: without it files are read again."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.home / NAME
        self._code = fingerprint.code(*READERS)
        self._known = self._read()
        self._changed = False

    def found(self, path: Path, inspect: Callable[[Path], TripFile]) -> TripFile:
        """The file as it was found before, or as `inspect` finds it now."""
        key, stamp = str(path.absolute()), _stamp(path)
        known = self._known.get(key)
        if stamp is not None and known is not None and known["stamp"] == stamp:
            return _from_json(known["file"])
        file = inspect(path)
        self._changed |= self._known.pop(key, None) is not None
        if stamp is not None and file.cause not in _TRIED_AGAIN:
            self._known[key] = {"stamp": stamp, "file": asdict(file)}
            self._changed = True
        return file

    def save(self) -> None:
        """Keep what was found in one step, without files that are gone."""
        if not self._changed:
            return
        kept = {path: each for path, each in self._known.items() if os.path.lexists(path)}
        part = self._file.with_suffix(f".{os.getpid()}.part")
        with suppress(OSError):  # a home that cannot be written is told by the step
            self._file.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps({"code": self._code, "files": kept}), encoding="utf-8")
            part.replace(self._file)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        same = isinstance(found, dict) and found.get("code") == self._code
        return dict(found["files"]) if same else {}


def _stamp(path: Path) -> list[int] | None:
    """Size and times of a file: a copy that keeps the time of its original shows by its own."""
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _from_json(raw: dict[str, Any]) -> TripFile:
    layout = raw["layout"]
    columns = tuple(SourceColumn(**column) for column in layout["columns"])
    read = Layout(**{**layout, "columns": columns, "unknown": tuple(layout["unknown"])})
    pickups = tuple((month, rows) for month, rows in raw["pickups"])
    return TripFile(**{**raw, "layout": read, "months": tuple(raw["months"]), "pickups": pickups})
