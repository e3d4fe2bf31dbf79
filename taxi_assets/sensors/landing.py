"""Where months land: the files of a folder or a volume, and whether each is whole and readable."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from databricks_steps.errors import SourceError, reason
from databricks_steps.settings import DATABRICKS, LANDING
from databricks_steps.trips.files import TripFile, format_of, inspected, is_hidden, month_in
from taxi_assets.partitions import MONTHS
from taxi_assets.resources.alerts import Observation, Where, instant
from taxi_assets.resources.targets import Target
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

STABLE = 2  # looks at which size and time were the same: the file is not being written
TOLD = 4  # looks after which a file that cannot be read is a problem to tell
SECONDS = 30.0  # for reading files, of the 60 that a tick has
KIND = "file"
COPY_AGAIN = "Copy the whole file again under the same name, or remove it"
NAME_IT = "Name it by its month, such as green_tripdata_2022-03.parquet"
_MOST = 9  # looks are not counted further


@dataclass(frozen=True)
class Sight:
    """A file as it was seen: `looks` counts how often in a row it was the same.

    Once it is stable it has a `hash`, or a `problem` that says why it cannot be read.
    """

    name: str
    size: int
    changed: int
    looks: int = 1
    hash: str = ""
    problem: str = ""

    @property
    def month(self) -> str | None:
        return month_in(self.name)

    @property
    def trouble(self) -> str:
        """Why no run will read this file as it is."""
        if self.problem:
            return self.problem
        if self.month is None:
            return "its name does not say one month"
        known = not self.hash or self.month in MONTHS.get_partition_keys()
        return "" if known else f"its month, {self.month}, is not over, or before the first"

    @property
    def waits(self) -> str:
        """What is not known yet of this file, in words; empty when it is judged."""
        if self.looks < STABLE or not (self.hash or self.problem):
            return f"{self.name} is still arriving ({self.size:,} bytes)"
        if self.trouble and self.looks < TOLD:
            return f"{self.name} is not readable yet: {self.trouble}"
        return ""


class Folder(Protocol):
    """A place that files land in."""

    source: str  # as ingestion is told

    def entries(self) -> Iterable[Sight]: ...

    def inspect(self, name: str) -> TripFile: ...


class LocalFolder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.path, self.source = path, str(path)

    def entries(self) -> Iterator[Sight]:
        if not self.path.is_dir():
            return
        for file in sorted(self.path.iterdir()):
            try:
                stat = file.stat()
            except FileNotFoundError:  # it left meanwhile
                continue
            if file.is_file():
                yield Sight(file.name, stat.st_size, stat.st_mtime_ns)

    def inspect(self, name: str) -> TripFile:
        return inspected(self.path / name)


class Volume:
    """A volume of Unity Catalog, by the Files API: no path of it exists on this machine."""

    def __init__(self, client: WorkspaceClient, path: str) -> None:
        self.client, self.source = client, path

    def entries(self) -> Iterator[Sight]:
        from databricks.sdk.errors import NotFound
        from databricks.sdk.errors.base import DatabricksError

        try:
            for entry in self.client.files.list_directory_contents(self.source):
                if not entry.is_directory and entry.name:
                    yield Sight(entry.name, entry.file_size or 0, entry.last_modified or 0)
        except NotFound:
            return
        except (DatabricksError, OSError, TimeoutError) as error:
            raise SourceError(
                "The landing volume must be readable",
                f"{self.source}: {reason(error)}",
                "Grant READ VOLUME to who runs Dagster: docs/databricks.md",
            ) from error

    def inspect(self, name: str) -> TripFile:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, name)
            content = self.client.files.download(f"{self.source}/{name}").contents
            assert content is not None  # noqa: S101 - a download has contents
            with content, copy.open("wb") as out:
                while chunk := content.read(1 << 20):
                    out.write(chunk)
            return inspected(copy)


def landing(target: Target) -> Folder:
    """Where this target's months land."""
    settings = target.settings
    if settings.platform == DATABRICKS:
        path = f"/Volumes/{settings.catalog}/{settings.schema}/{LANDING}"
        return Volume(Workspace(settings).client, path)
    return LocalFolder(settings.home / LANDING)


def look(folder: Folder, before: Mapping[str, Mapping[str, Any]]) -> list[Sight]:
    """The files of trips as they are now, given what was seen at the last look."""
    deadline = time.monotonic() + SECONDS
    found = []
    for now in folder.entries():
        if format_of(now.name) is None or is_hidden(now.name):
            continue
        then = Sight(**{"name": now.name, **before.get(now.name, {"size": -1, "changed": 0})})
        sight = now
        if (then.size, then.changed) == (now.size, now.changed):
            sight = replace(then, looks=min(then.looks + 1, _MOST))
        judged = sight.hash or sight.problem
        if sight.looks >= STABLE and not judged and time.monotonic() < deadline:
            file = folder.inspect(sight.name)
            sight = replace(sight, hash=file.hash, problem=file.problem)
        found.append(sight)
    return found


def memory(seen: Sequence[Sight]) -> dict[str, dict[str, Any]]:
    """What the next look needs to know of this one."""
    return {s.name: {k: v for k, v in asdict(s).items() if v and k != "name"} for s in seen}


def observations(seen: Sequence[Sight], known: Collection[str], source: str) -> list[Observation]:
    """What there is to tell: files that stay unreadable, and known ones that are so no more."""
    at = instant()
    found = [_unreadable(s, at, source) for s in seen if s.trouble and not s.waits]
    troubled = {sight.name for sight in seen if sight.trouble or sight.waits}
    names = {sight.name for sight in seen}
    for name in sorted(set(known) - troubled):
        told = f"{name} is readable" if name in names else f"{name} is gone"
        found.append(Observation(KIND, name, True, told, at, by_month=False))
    return found


def _unreadable(sight: Sight, at: str, source: str) -> Observation:
    return Observation(
        KIND,
        sight.name,
        False,
        f"{sight.name} cannot be read: {sight.trouble}",
        at,
        Where("raw_trips", sight.month or "", f"{source}/{sight.name}"),
        remedy=COPY_AGAIN if sight.problem else NAME_IT,
        by_month=False,
    )
