"""Months of trips from TLC's public trip-data address, kept in TAXI_HOME/downloads.

A month that is kept is asked for again by its date and tag: one published anew replaces it.
"""

from __future__ import annotations

import http.client
import logging
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from email.message import Message
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

from databricks_steps.errors import SourceError
from databricks_steps.settings import Settings
from databricks_steps.trips import recognition

TLC_URL = "https://d37ci6vzurychx.cloudfront.net/trip-data"
SERVICES = ("green", "yellow")
_TIMEOUT_SECONDS = 60
_NOT_PUBLISHED = (403, 404)
_NOT_MODIFIED = 304
_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20


def tlc_files(
    service: str, months: Sequence[str] | None, settings: Settings, url: str = TLC_URL
) -> list[Path]:
    """The months' files, downloaded unless those there are what is published.

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
    """Downloaded to a name of its own and renamed when whole; the one at hand if it is the same."""
    address = f"{url.rstrip('/')}/{path.name}"
    part = path.with_name(f".{path.name}.{os.getpid()}")
    tag = path.with_name(f".{path.name}.etag")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        headers = _fetch(address, part, _validators(path, tag))
        _require_parquet(address, part)
        part.replace(path)
        tag.unlink(missing_ok=True)
        if headers.get("ETag"):
            tag.write_text(str(headers["ETag"]), encoding="utf-8")
        published = headers.get("Last-Modified")
        if published:
            seconds = parsedate_to_datetime(published).timestamp()
            os.utime(path, (seconds, seconds))
    except urllib.error.HTTPError as error:
        if error.code == _NOT_MODIFIED:
            return path
        if error.code in _NOT_PUBLISHED:
            raise SourceError(
                "A month must be published to be downloaded",
                f"{path.name} is not at {address}",
                "TLC publishes about two months late: choose earlier months",
            ) from error
        return _at_hand(path, _fault(address, f"HTTP {error.code} {error.reason}"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return _at_hand(path, _fault(address, str(error)))
    finally:
        part.unlink(missing_ok=True)
    return path


def _at_hand(path: Path, fault: SourceError) -> Path:
    """The month as it was downloaded before, where the network fails."""
    if not path.exists():
        raise fault
    _LOG.warning("%s is taken as it was downloaded before: %s", path.name, fault)
    return path


def _validators(path: Path, tag: Path) -> dict[str, str]:
    """What the server tells by whether the month is still the one at hand."""
    if not path.exists():
        return {}
    found = tag.read_text(encoding="utf-8") if tag.exists() else ""
    at = {"If-Modified-Since": formatdate(path.stat().st_mtime, usegmt=True)}
    return at | ({"If-None-Match": found} if found else {})


def _fetch(address: str, part: Path, validators: Mapping[str, str]) -> Message:
    """Download to `part`; the headers of the answer."""
    request = urllib.request.Request(address, headers=dict(validators))  # noqa: S310 our own
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
        with part.open("wb") as stream:
            shutil.copyfileobj(answer, stream, _CHUNK)
        headers: Message = answer.headers
    expected, size = headers.get("Content-Length"), part.stat().st_size
    if expected is not None and int(expected) != size:
        raise http.client.HTTPException(f"{size} of {expected} bytes came")
    return headers


def _require_parquet(address: str, part: Path) -> None:
    """Refuse what a proxy or a portal answers in place of the month."""
    try:
        content = recognition.recognized(part)
    except recognition.NotTripsError as error:
        raise _fault(address, error.problem.replace("it is", "what came is", 1)) from error
    if content.format != "parquet":
        raise _fault(address, f"what came is text: {content.start[:60]!r}")


def _fault(address: str, reason: str) -> SourceError:
    return SourceError(
        "A download must come through",
        f"{address}: {reason}",
        "Check the network and run again; or pass a folder of files already there as the source",
    )
