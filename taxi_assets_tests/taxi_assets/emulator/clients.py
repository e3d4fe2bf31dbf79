"""Many keep-alive connections that send without a pause, and remember what they were answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import requests

from databricks_steps.settings import Settings
from taxi_assets_tests.waiting import PATIENCE


@dataclass
class Clients:
    """Load from threads of its own while the block runs.

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
        self._stop, self._numbers = threading.Event(), count()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.connections)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def await_answers(self, number: int, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds * PATIENCE
        while len(self.answers) < number:
            assert not self.failures, self.failures[0]
            assert time.monotonic() < deadline, f"only {len(self.answers)} answers"
            time.sleep(0.02)

    def _ask(self) -> None:
        url = f"{self.settings.host}/serving-endpoints/{self.settings.endpoint}/invocations"
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {self.settings.token_file.read_text()[:-1]}"
            while not self._stop.is_set():
                number = next(self._numbers)
                try:
                    answer = session.post(url, json=self.body(number), timeout=60)
                except requests.RequestException as error:
                    if not self.until_gone:
                        self.failures.append(repr(error))
                    return
                if answer.ok:
                    fares = tuple(answer.json()["predictions"])
                    self.answers.append((number, time.time(), fares))
                else:
                    self.failures.append(answer.text)
