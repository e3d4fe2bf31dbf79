"""Months of trips from TLC's public trip-data address, kept in TAXI_HOME/downloads."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from databricks_steps.errors import SourceError
from databricks_steps.settings import Settings

TLC_URL = "https://d37ci6vzurychx.cloudfront.net/trip-data"
SERVICES = ("green", "yellow")
_TIMEOUT_SECONDS = 60
_NOT_PUBLISHED = (403, 404)
_CHUNK = 1 << 20


def tlc_files(
    service: str, months: Sequence[str] | None, settings: Settings, url: str = TLC_URL
) -> list[Path]:
    """The months' files, downloaded unless they are there.

    Raises:
        SourceError: no such service, no months named, a month not published, or a network fault.
    """
    if service not in SERVICES:
        raise SourceError(
            "Trips can be downloaded of green and yellow taxis",
            repr(service),
            "Use tlc:green or tlc:yellow",
        )
    if not months:
        raise SourceError(
            "A download needs months",
            f"none given for tlc:{service}",
            "Name them, for example --months 2022-01:2022-03",
        )
    folder = settings.home / "downloads"
    return [_file(folder / f"{service}_tripdata_{month}.parquet", url) for month in months]


def _file(path: Path, url: str) -> Path:
    """Downloaded to a name of its own and renamed when whole."""
    if path.exists():
        return path
    address = f"{url.rstrip('/')}/{path.name}"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(address, part)
        part.replace(path)
    except urllib.error.HTTPError as error:
        if error.code in _NOT_PUBLISHED:
            raise SourceError(
                "A month must be published to be downloaded",
                f"{path.name} is not at {address}",
                "TLC publishes about two months late: choose earlier months",
            ) from error
        raise _fault(address, f"HTTP {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _fault(address, str(error)) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _fetch(address: str, part: Path) -> None:
    with urllib.request.urlopen(address, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 our own
        with part.open("wb") as stream:
            shutil.copyfileobj(answer, stream, _CHUNK)
        expected = answer.headers.get("Content-Length")
    size = part.stat().st_size
    if expected is not None and int(expected) != size:
        raise http.client.HTTPException(f"{size} of {expected} bytes came")


def _fault(address: str, reason: str) -> SourceError:
    return SourceError(
        "A download must come through",
        f"{address}: {reason}",
        "Check the network and run again; or pass a folder of files already there as the source",
    )
