"""Routes of `/api/2.0/fs`: Unity Catalog volumes as folders of `TAXI_HOME/volumes`."""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from databricks_steps import atomic_write
from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime import volumes


def routes(settings: Settings) -> APIRouter:
    """The Files API."""
    router = APIRouter(prefix="/api/2.0/fs", tags=["files"])

    @router.put("/files/{path:path}", status_code=204, response_class=Response)
    async def upload(path: str, request: Request, overwrite: bool = False) -> Response:
        """Write a file, all or nothing."""
        _upload(settings, f"/{path}", await request.body(), overwrite)
        return Response(status_code=204)

    @router.get("/files/{path:path}", response_class=FileResponse)
    def download(path: str) -> FileResponse:
        return FileResponse(_found(settings, path), media_type="application/octet-stream")

    @router.head("/files/{path:path}", response_class=Response)
    def metadata(path: str) -> Response:
        stat = _found(settings, path).stat()
        changed = datetime.fromtimestamp(stat.st_mtime, timezone.utc)
        return Response(
            headers={
                "content-length": str(stat.st_size),
                "last-modified": format_datetime(changed, usegmt=True),
            }
        )

    @router.delete("/files/{path:path}", status_code=204, response_class=Response)
    def delete(path: str) -> Response:
        _found(settings, path).unlink()
        return Response(status_code=204)

    @router.put("/directories/{path:path}", status_code=204, response_class=Response)
    def make(path: str) -> Response:
        volumes.local(settings, f"/{path}").mkdir(parents=True, exist_ok=True)
        return Response(status_code=204)

    @router.get("/directories/{path:path}")
    def listed(path: str) -> dict[str, Any]:
        folder = _folder(settings, path)
        return {
            "contents": [_entry(f"/{path.strip('/')}", each) for each in sorted(folder.iterdir())]
        }

    @router.delete("/directories/{path:path}", status_code=204, response_class=Response)
    def remove(path: str) -> Response:
        """Remove an empty folder, as Databricks does."""
        try:
            _folder(settings, path).rmdir()
        except OSError as error:
            raise errors.invalid(
                "A folder that is removed is empty", f"/{path}", "Empty it first"
            ) from error
        return Response(status_code=204)

    return router


def _upload(settings: Settings, path: str, content: bytes, overwrite: bool) -> None:
    file = volumes.local(settings, path)
    if file.is_dir():
        raise errors.invalid("A file's name is no folder's", path, "Choose another")
    if file.exists() and not overwrite:
        raise errors.ApiError("ALREADY_EXISTS", "A new file has a new name", path, "Overwrite it")
    atomic_write.write(file, content)


def _found(settings: Settings, path: str) -> Path:
    file = volumes.local(settings, f"/{path}")
    if not file.is_file():
        raise errors.ApiError("NOT_FOUND", "The file does not exist", f"/{path}", "Write it first")
    return file


def _folder(settings: Settings, path: str) -> Path:
    folder = volumes.local(settings, f"/{path}")
    if not folder.is_dir():
        raise errors.ApiError("NOT_FOUND", "The folder does not exist", f"/{path}", "Make it first")
    return folder


def _entry(parent: str, each: Path) -> dict[str, Any]:
    stat = each.stat()
    return {
        "path": f"{parent}/{each.name}",
        "name": each.name,
        "is_directory": each.is_dir(),
        "file_size": stat.st_size if each.is_file() else None,
        "last_modified": int(stat.st_mtime * 1000),
    }
