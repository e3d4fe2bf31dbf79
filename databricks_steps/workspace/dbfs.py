"""Routes of `/api/2.0/dbfs`: the DBFS root as the folder `TAXI_HOME/dbfs`, written in blocks."""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict

from databricks_steps.settings import Settings
from databricks_steps.workspace import errors

_PATH = re.compile(r"(dbfs:)?(/[A-Za-z0-9_.=@ -]{1,255})+/?|(dbfs:)?/")
MOUNT = "/dbfs"  # where code on a cluster finds the root
PREFIXES = ("dbfs:/", f"{MOUNT}/")
LONGEST = 2_000  # letters of a path
BLOCK = 1024 * 1024  # bytes that one call writes or reads at most
STREAMS, IDLE_SECONDS = 100, 600.0  # open at once, and how long without a block


class Create(BaseModel):
    model_config = ConfigDict(extra="ignore")

    path: str
    overwrite: bool = False


class Block(BaseModel):
    model_config = ConfigDict(extra="ignore")

    handle: int
    data: str


class Close(BaseModel):
    model_config = ConfigDict(extra="ignore")

    handle: int


class Delete(BaseModel):
    model_config = ConfigDict(extra="ignore")

    path: str
    recursive: bool = False


@dataclass
class Stream:
    """A file that is being written beside its place."""

    file: Path
    place: Path
    used: float


class Streams:
    """Files under way; a file is in its place when its stream is closed, whole."""

    def __init__(self) -> None:
        self._open: dict[int, Stream] = {}
        self._lock = threading.Lock()
        self._last = 0

    def create(self, place: Path) -> int:
        """Begin a file; the stream's handle. The streams longest unused give way."""
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise errors.invalid("A file lies in folders", place.name, "Choose another") from error
        with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".new-", delete=False) as made:
            file = Path(made.name)
        with self._lock:
            by_age = sorted(self._open, key=lambda handle: self._open[handle].used)
            for handle in by_age:
                idle = time.monotonic() - self._open[handle].used > IDLE_SECONDS
                if idle or len(self._open) >= STREAMS:
                    self._open.pop(handle).file.unlink(missing_ok=True)
            self._last += 1
            self._open[self._last] = Stream(file, place, time.monotonic())
            return self._last

    def add(self, handle: int, block: bytes) -> None:
        with self._lock:
            stream = self._stream(handle)
            with stream.file.open("ab") as out:
                out.write(block)
            stream.used = time.monotonic()

    def close(self, handle: int) -> None:
        with self._lock:
            stream = self._stream(handle)
            del self._open[handle]
            if stream.place.is_dir():
                stream.file.unlink()
                raise errors.invalid(
                    "A file's name is no folder's", stream.place.name, "Begin anew"
                )
            stream.file.replace(stream.place)

    def _stream(self, handle: int) -> Stream:
        stream = self._open.get(handle)
        if stream is None or not stream.file.exists():
            raise errors.missing("Stream", str(handle)[:40], "Create it first")
        return stream


def local(settings: Settings, path: str) -> Path:
    """The file or folder behind a path of DBFS.

    Raises:
        ApiError: it is no absolute path, or leads elsewhere.
    """
    parts = path.removeprefix("dbfs:").strip("/").split("/")
    dots = any(part and set(part) <= {"."} for part in parts)
    if len(path) > LONGEST or dots or not _PATH.fullmatch(path):
        raise errors.invalid("A path of DBFS is /folder/file", repr(path[:200]), "Correct the path")
    return settings.home.joinpath("dbfs", *parts)


def routes(settings: Settings) -> APIRouter:
    """The DBFS API, as far as the step launcher calls it."""
    router = APIRouter(prefix="/api/2.0/dbfs", tags=["dbfs"])
    _add_writing(router, settings, Streams())
    _add_reading(router, settings)
    _add_removing(router, settings)
    return router


def _add_writing(router: APIRouter, settings: Settings, streams: Streams) -> None:
    @router.post("/create")
    def create(wanted: Create) -> dict[str, int]:
        place = local(settings, wanted.path)
        if place.is_dir() or (place.exists() and not wanted.overwrite):
            raise errors.ApiError(
                "RESOURCE_ALREADY_EXISTS", "A new file has a new name", wanted.path, "Overwrite it"
            )
        return {"handle": streams.create(place)}

    @router.post("/add-block")
    def add_block(block: Block) -> dict[str, Any]:
        streams.add(block.handle, _decoded(block.data))
        return {}

    @router.post("/close")
    def close(wanted: Close) -> dict[str, Any]:
        streams.close(wanted.handle)
        return {}


def _add_reading(router: APIRouter, settings: Settings) -> None:
    @router.get("/read")
    def read(
        path: str, offset: int = Query(0, ge=0, le=1 << 53), length: int = Query(BLOCK // 2, ge=0)
    ) -> dict[str, Any]:
        if length > BLOCK:
            raise errors.ApiError(
                "MAX_READ_SIZE_EXCEEDED", f"A read is at most {BLOCK:,} bytes", length, "Read less"
            )
        file = _found(settings, path)
        if file.is_dir():
            raise errors.invalid("What is read is a file", path[:200], "List it instead")
        with file.open("rb") as content:
            content.seek(offset)
            read = content.read(length)
        return {"bytes_read": len(read), "data": base64.b64encode(read).decode()}

    @router.get("/get-status")
    def status(path: str) -> dict[str, Any]:
        return _shown(settings, _found(settings, path))

    @router.get("/list")
    def listed(path: str) -> dict[str, Any]:
        found = _found(settings, path)
        inside = sorted(found.iterdir()) if found.is_dir() else [found]
        return {"files": [_shown(settings, each) for each in inside]}


def _add_removing(router: APIRouter, settings: Settings) -> None:
    @router.post("/delete")
    def delete(wanted: Delete) -> dict[str, Any]:
        found = _found(settings, wanted.path)
        if not found.is_dir():
            found.unlink()
        elif wanted.recursive or not any(found.iterdir()):
            shutil.rmtree(found)
        else:
            raise errors.ApiError(
                "IO_ERROR", "A folder that is removed is empty", wanted.path, "Say recursive"
            )
        return {}


def _decoded(data: str) -> bytes:
    try:
        block = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.invalid("A block is base64", error, "Encode it") from error
    if len(block) > BLOCK:
        raise errors.ApiError(
            "MAX_BLOCK_SIZE_EXCEEDED", f"A block is at most {BLOCK:,} bytes", len(block), "Split it"
        )
    return block


def _found(settings: Settings, path: str) -> Path:
    found = local(settings, path)
    if not found.exists():
        raise errors.missing("File", path[:200], "Write it first")
    return found


def _shown(settings: Settings, each: Path) -> dict[str, Any]:
    """A file or folder as the SDK's `FileInfo`; as on Databricks, folders have no time."""
    path = f"/{each.relative_to(settings.home / 'dbfs').as_posix()}".removesuffix("/.")
    if each.is_dir():
        return {"path": path or "/", "is_dir": True, "file_size": 0, "modification_time": 0}
    stat = each.stat()
    return {
        "path": path,
        "is_dir": False,
        "file_size": stat.st_size,
        "modification_time": int(stat.st_mtime * 1000),
    }
