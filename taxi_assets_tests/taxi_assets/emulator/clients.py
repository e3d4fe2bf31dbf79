"""Many keep-alive connections that send without a pause, and remember what they were answered."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from databricks_steps.settings import LOOPBACK, Settings


@dataclass
class Clients:
    """Load from a thread of its own while the block runs.

    `body` makes the payload of the n-th request; `answers` holds (n, when, predictions) of every
    good answer, `failures` the text of every other one. With `until_gone` a broken connection
    ends its client quietly: the server is about to be killed.
    """

    settings: Settings
    connections: int
    body: Callable[[int], dict[str, Any]]
    until_gone: bool = False
    answers: list[tuple[int, float, tuple[float, ...]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Clients:
        self._stop, self._next = threading.Event(), 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def await_answers(self, count: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while len(self.answers) < count:
            assert not self.failures, self.failures[0]
            assert time.monotonic() < deadline, f"only {len(self.answers)} answers"
            time.sleep(0.02)

    async def _all(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self.connections)))

    async def _client(self) -> None:
        try:
            reader, writer = await asyncio.open_connection(LOOPBACK, self.settings.port)
            while not self._stop.is_set():
                await self._ask(reader, writer)
            writer.close()
        except (OSError, asyncio.IncompleteReadError) as error:
            if not self.until_gone:
                self.failures.append(repr(error))

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self._next
        self._next += 1
        body = json.dumps(self.body(number)).encode()
        token = self.settings.token_file.read_text().strip() if number == 0 else self._token
        self._token = token
        head = (
            f"POST /serving-endpoints/{self.settings.endpoint}/invocations HTTP/1.1\r\n"
            f"Host: {LOOPBACK}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        answer = await reader.readuntil(b"\r\n\r\n")
        lines = answer.decode().lower().split("\r\n")
        length = next(int(x.split(":")[1]) for x in lines if x.startswith("content-length"))
        text = await reader.readexactly(length)
        if lines[0].split()[1] == "200":
            found = tuple(json.loads(text)["predictions"])
            self.answers.append((number, time.time(), found))
        else:
            self.failures.append(text.decode())
