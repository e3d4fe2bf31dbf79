"""The bearer token of the emulator, and the guard that asks every request for it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from databricks_steps.errors import SettingsError
from taxi_assets.emulator import errors

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = frozenset({"/", "/health", "/openapi.json"})
PASS_SECONDS = 12 * 3600
# What a page pass reads; all else asks for the token.
READABLE = frozenset({"/api/2.0/taxi/overview", "/api/2.0/taxi/pages"})
SESSION, PAGES = "/api/2.0/taxi/session", "/pages/"
MAX_BODY = 1024 * 1024
FILES, MAX_FILE = "/api/2.0/fs/files/", 64 * 1024 * 1024
DRAINED = 16 * MAX_BODY
BODY_SECONDS = 30.0
WHOLE = "taxi.body_has_come"  # the server's mark on a request that needs no waiting for
IN_FLIGHT = 128  # management requests at once


def token(file: Path) -> str:
    """The token in a file of mode 0600; made when missing.

    Raises:
        SettingsError: the file cannot be read or written, or is empty.
    """
    try:
        if not file.exists():
            _make(file)
        text = file.read_text(encoding="ascii").strip()
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            "The token file must be readable", f"{file}: {error}", "Correct its permissions"
        ) from error
    if not text:
        raise SettingsError("The token file must hold a token", file, "Delete it to get a new one")
    return text


def _make(file: Path) -> None:
    """Write a new token under another name and link it in place: two starters agree on one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".token-")  # mode 0600
    new = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as out:
            out.write(secrets.token_urlsafe(32) + "\n")
        try:
            os.link(new, file)
        except FileExistsError:
            return
    finally:
        new.unlink()


def proof(secret: str, port: int, nonce: str) -> str:
    """Shows that the server of a port knows the token without saying it.

    The port is in it: else who listens on another one could have the server itself answer.
    """
    return hmac.new(secret.encode(), f"{port} {nonce}".encode(), hashlib.sha256).hexdigest()


def cookie(port: int) -> str:
    """The name of the cookie with a page pass: browsers keep one jar for all ports of a host."""
    return f"taxi_pages_{port}"


def page_pass(secret: str) -> str:
    """What reads the pages for `PASS_SECONDS`, and does nothing else: it may be shown to people."""
    until = str(int(time.time()) + PASS_SECONDS)
    return f"{until}.{_signed(secret, until)}"


def _signed(secret: str, until: str) -> str:
    return hmac.new(secret.encode(), f"pages {until}".encode(), hashlib.sha256).hexdigest()


def may_read(scope: Scope, secret: str, port: int) -> bool:
    """Whether a request asks for nothing but a page, and brings a pass that is still good."""
    method, path = scope["method"], scope["path"]
    reads = method in ("GET", "HEAD") and (path in READABLE or path.startswith(PAGES))
    if not (reads or (method, path) == ("POST", SESSION)):
        return False
    given: list[str] = []
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        if name == b"authorization" and text[:7].lower() == "bearer ":
            given.append(text[7:].strip())
        elif name == b"cookie" and reads:
            pairs = (each.strip().partition("=") for each in text.split(";"))
            given += [found for key, _, found in pairs if key == cookie(port)]
    return any(_is_good(secret, each) for each in given)


def _is_good(secret: str, given: str) -> bool:
    until, _, signed = given.partition(".")
    fresh = until.isascii() and until.isdigit() and len(until) < 12 and int(until) > time.time()
    return fresh and hmac.compare_digest(signed.encode(), _signed(secret, until).encode())


def refusal(headers: Iterable[tuple[bytes, bytes]], expected: bytes) -> tuple[str, str] | None:
    """Error code and message for a request's headers; None when they carry the token."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() != b"bearer" or not token.strip():
                break
            if hmac.compare_digest(b"Bearer " + token.strip(), expected):
                return None
            return "PERMISSION_DENIED", "The bearer token is not the token of this workspace"
    return "UNAUTHENTICATED", "The request needs the header Authorization: Bearer <token>"


def limit(path: str) -> int:
    """How many bytes a body may have."""
    return MAX_FILE if path.startswith(FILES) else MAX_BODY


async def read_body(scope: Scope, receive: Receive, most: int = MAX_BODY) -> bytes:
    """The whole body.

    Raises:
        ApiError: it is larger than `most` bytes, or does not arrive in time.
        ConnectionError: the client went away.
    """
    chunks: list[bytes] = []
    if WHOLE in scope:  # most bodies: a timer for each would cost more than to read it
        return await _read(receive, most, chunks)
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - an ASGI application always runs in a task
    deadline = _Deadline(task)
    timer = asyncio.get_running_loop().call_later(BODY_SECONDS, deadline.expire)
    try:
        return await _read(receive, most, chunks)
    except asyncio.CancelledError:
        if not deadline.expired:
            raise
        raise errors.ApiError(
            "REQUEST_TIMEOUT",
            f"The body must arrive within {BODY_SECONDS:g} seconds",
            f"{sum(map(len, chunks)):,} bytes came",
            "Send it again",
        ) from None
    finally:
        timer.cancel()


async def _read(receive: Receive, most: int, chunks: list[bytes]) -> bytes:
    """The body; `chunks` gets its parts as they come.

    One over the limit is read on for a while without being kept: a client that is still sending
    would otherwise see a broken connection, not the answer.
    """
    size, more = 0, True
    while more and size <= max(DRAINED, most):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client went away")
        size += len(message.get("body", b""))
        if size <= most:
            chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    if size > most:
        raise _too_large(most, f"{size:,} bytes" if not more else f"over {size:,} bytes")
    return b"".join(chunks)


class _Deadline:
    """Cancels a task once, and remembers that it did: a server that stops cancels tasks too."""

    def __init__(self, task: asyncio.Task[object]) -> None:
        self._task = task
        self.expired = False

    def expire(self) -> None:
        self.expired = True
        self._task.cancel()


def _too_large(most: int, size: str) -> errors.ApiError:
    return errors.ApiError(
        "REQUEST_TOO_LARGE", f"A body holds at most {most:,} bytes", size, "Send less at a time"
    )


class Guard:
    """ASGI middleware of the management routes: token first, then the limit on the body."""

    def __init__(self, app: ASGIApp, secret: str, port: int) -> None:
        self._app, self._port = app, port
        self._secret, self._expected = secret, f"Bearer {secret}".encode()
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        allowed = may_read(scope, self._secret, self._port)
        refused = None if allowed else refusal(scope["headers"], self._expected)
        if refused is None and self._in_flight >= IN_FLIGHT:
            refused = "REQUEST_LIMIT_EXCEEDED", "Too many requests wait. Try again soon"
        if refused is not None:
            await errors.response(*refused)(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._guarded(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            whole = await read_body(scope, receive, limit(scope["path"]))
        except errors.ApiError as error:
            await errors.response(error.code, str(error))(scope, receive, send)
            return
        except ConnectionError:
            return
        messages: list[Message] = [{"type": "http.request", "body": whole, "more_body": False}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replay, send)
