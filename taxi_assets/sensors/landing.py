"""Where months land: the entries of a folder or a volume, and whether each can be read."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from databricks_steps.errors import SourceError, reason
from databricks_steps.settings import DATABRICKS, LANDING
from databricks_steps.trips import arrivals, sources
from databricks_steps.trips.files import (
    PERMISSIONS,
    UNREADABLE,
    TripFile,
    month_in,
    printable,
)
from databricks_steps.trips.sources import Source
from taxi_assets.resources.alerts import Observation, Where, instant
from taxi_assets.resources.targets import Target
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

STABLE = 2  # looks at which size and time were the same: the file is not being written
TOLD = 4  # looks after which a file that cannot be read is a problem to tell
SECONDS = 3.0  # for reading files, of a tick
KIND = "file"
SHOWN = 5  # files that are named in one message
_MOST = 9  # looks are not counted further
_REMEMBERED = (
    *("format", "hash", "months", "named", "problem", "cause", "remedy", "passed"),
    *("size", "changed", "rows", "pickups"),
)


@dataclass(frozen=True)
class Sight:
    """An entry as it was seen: `looks` counts how often in a row it was the same.

    Once it is stable, `file` says what it is.
    """

    name: str
    size: int
    changed: int
    looks: int = 1
    file: TripFile | None = None

    @property
    def waits(self) -> str:
        """What is not known yet of this file, in words; empty when it is judged."""
        if self.looks < STABLE or self.file is None:
            return f"{printable(self.name)} is still arriving ({self.size:,} bytes)"
        if self.file.problem and not self.file.passed and self.looks < TOLD:
            return f"{self.file.name} is not readable yet: {self.file.problem}"
        return ""


class Folder(Protocol):
    """A place that files land in."""

    source: str  # as ingestion is told

    def entries(self) -> Iterable[Sight]: ...

    def inspect(self, sight: Sight) -> TripFile: ...


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
            except OSError:
                try:
                    stat = file.lstat()  # a link that leads nowhere is an entry, too
                except OSError:  # it left meanwhile
                    continue
            # By the time of the last change of any kind: permissions that are mended count.
            yield Sight(file.name, stat.st_size, stat.st_ctime_ns)

    def inspect(self, sight: Sight) -> TripFile:
        return sources.judged(self.path / sight.name)


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

    def inspect(self, sight: Sight) -> TripFile:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, sight.name)
            content = self.client.files.download(f"{self.source}/{sight.name}").contents
            assert content is not None  # noqa: S101 - a download has contents
            with content, copy.open("wb") as out:
                while chunk := content.read(1 << 20):
                    out.write(chunk)
            return replace(sources.judged(copy), changed=sight.changed)


def landing(target: Target) -> Folder:
    """Where this target's months land."""
    settings = target.settings
    if settings.platform == DATABRICKS:
        path = f"/Volumes/{settings.catalog}/{settings.schema}/{LANDING}"
        return Volume(Workspace(settings).client, path)
    return LocalFolder(settings.home / LANDING)


def look(folder: Folder, before: Mapping[str, Mapping[str, Any]]) -> list[Sight]:
    """The entries as they are now, given what was seen at the last look."""
    deadline = time.monotonic() + SECONDS
    found: list[Sight] = []
    for now in folder.entries():
        then = _remembered(now.name, before.get(now.name, {}))
        sight = now
        if (then.size, then.changed) == (now.size, now.changed):
            sight = replace(then, looks=min(then.looks + 1, _MOST))
        found.append(sight)
    # What could not be opened comes last: it may take all the time there is, tick after tick.
    unknown = [sight for sight in found if sight.file is None]
    unknown += [sight for sight in found if sight.file and sight.file.cause == UNREADABLE]
    for sight in unknown:
        if sight.looks >= STABLE and time.monotonic() < deadline:
            found[found.index(sight)] = replace(sight, file=_judged(folder, sight))
    return found


def _judged(folder: Folder, sight: Sight) -> TripFile:
    """What an entry is; one that cannot be fetched ends no tick."""
    try:
        return folder.inspect(sight)
    except Exception as error:
        file = TripFile(sight.name, printable(sight.name), "csv")
        return file.refused(UNREADABLE, f"it cannot be opened: {reason(error)}", PERMISSIONS)


def memory(seen: Sequence[Sight]) -> dict[str, dict[str, Any]]:
    """What the next look needs to know of this one."""
    return {
        sight.name: {"size": sight.size, "changed": sight.changed, "looks": sight.looks}
        | ({"file": _kept(sight.file)} if sight.file else {})
        for sight in seen
    }


def _kept(file: TripFile) -> dict[str, Any]:
    return {name: value for name, value in asdict(file).items() if name in _REMEMBERED and value}


def _remembered(name: str, kept: Mapping[str, Any]) -> Sight:
    """A sight from what was kept of it; one that is like no other from nothing."""
    known = kept.get("file")
    file = None
    if known is not None:
        pickups = tuple((month, rows) for month, rows in known.get("pickups", ()))
        given = {**known, "months": tuple(known.get("months", ())), "pickups": pickups}
        file = TripFile(**{"path": name, "name": printable(name), "format": "csv", **given})
    changed, looks = kept.get("changed", 0), kept.get("looks", 1)
    return Sight(name, kept.get("size", -1), changed, looks, file)


def arrived(seen: Sequence[Sight], source: str) -> Source:
    """What lies there, as ingestion will find it; what still arrives is left out."""
    known = [sight.file for sight in seen if sight.file and not sight.waits]
    return sources.gathered(source, known, None, whole=True)


def whole_months(seen: Sequence[Sight]) -> dict[str, str]:
    """Month → key of its content, for the months none of whose files is still arriving."""
    here = arrived(seen, "")
    arriving = {month_in(sight.name) for sight in seen if sight.waits}
    keys = {}
    for month in here.months:
        good = sorted((file.name, file.hash) for file in here.of(month))
        if month not in arriving:
            keys[month] = f"{month}:{hashlib.sha256(repr(good).encode()).hexdigest()[:16]}"
    return keys


def observations(seen: Sequence[Sight], known: Collection[str], source: str) -> list[Observation]:
    """What there is to tell: one problem a cause, and causes of which there is no file any more.

    `known` are the causes that were told.
    """
    at = instant()
    rows = arrivals.by_cause(arrivals.rows_of(arrived(seen, source), ()))
    told = [_refused(cause, files, at, source) for cause, files in rows.items()]
    told += [
        Observation(KIND, cause, True, f"no file is refused for it: {cause}", at, by_month=False)
        for cause in sorted(set(known) - set(rows))
    ]
    return told


def _refused(cause: str, files: Sequence[Mapping[str, Any]], at: str, source: str) -> Observation:
    """All files that are refused for one cause."""
    told = "; ".join(f"{file['name']}: {file['reason']}" for file in files[:SHOWN])
    more = f"; and {len(files) - SHOWN:,} more" if len(files) > SHOWN else ""
    what = f"{len(files):,} {'file is' if len(files) == 1 else 'files are'} refused: {told}{more}"
    link = f"{source}/{files[0]['name']}" if len(files) == 1 else source
    months = files[0]["months"] if len(files) == 1 else []
    where = Where("raw_trips", months[0] if months else "", link)
    return Observation(
        *(KIND, cause, False, what, at, where),
        remedy=str(files[0]["remedy"]),
        by_month=False,
        anew=True,
    )
