"""Alerts that an address has not taken for a day: they are listed, and not tried any more.

Attempts until then are counted in TAXI_HOME/alert_attempts.json, what was given up is a line of
alerts_dead_letters.jsonl. An address is its digest there: no part of it is written.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from databricks_steps import atomic_write
from taxi_assets.resources.alerts import JsonLines, instant

GIVEN_UP_AFTER = timedelta(days=1)
LEAST_ATTEMPTS = 3  # of a machine that slept for a day


@dataclass(frozen=True)
class DeadLetter:
    """An alert that an address has not taken: how often it was tried, since when, and why not."""

    to: str
    address: str
    alert: str
    since: str
    attempts: int
    reason: str


class DeadLetters:
    """The list of a home, and the attempts that may lead to it."""

    def __init__(self, home: Path) -> None:
        self._list = JsonLines(home / "alerts_dead_letters.jsonl")
        self._told = JsonLines(home / "alerts_told.jsonl")
        self._attempts = home / "alert_attempts.json"
        self._lock = FileLock(home / "alerts.lock")

    def waiting(self) -> list[DeadLetter]:
        """What was given up, and neither delivered since nor dropped; the oldest first."""
        settled = {(row.get("to"), row.get("alert")) for row in self._told.rows()}
        found: dict[tuple[str, str], DeadLetter] = {}
        for row in self._list.rows():
            named = {name: row.get(name) for name in DeadLetter.__dataclass_fields__}
            if all(isinstance(named[n], str) for n in ("to", "address", "alert", "since")):
                key = str(named["to"]), str(named["alert"])
                if key not in settled:
                    found[key] = DeadLetter(**named)  # type: ignore[arg-type]
        return list(found.values())

    def failed(self, to: str, address: str, alerts: Collection[str], reason: str) -> int:
        """Count an attempt for all that waits for an address; answers how many are given up."""
        now = datetime.now(timezone.utc)
        limit = instant((now - GIVEN_UP_AFTER).timestamp())
        with self._lock:
            tried = self._read()
            before = tried.get(to, {})
            mine, given_up = {}, []
            for alert in alerts:
                since, attempts = before.get(alert, (instant(), 0))
                if since < limit and attempts + 1 >= LEAST_ATTEMPTS:
                    letter = DeadLetter(to, address, alert, since, attempts + 1, reason)
                    given_up.append({**asdict(letter), "at": instant()})
                else:
                    mine[alert] = (since, attempts + 1)
            if given_up:
                self._list.append(given_up)
            self._write({**tried, to: mine})
        return len(given_up)

    def taken(self, to: str, alerts: Iterable[str]) -> None:
        """Forget the attempts of what an address has taken at last."""
        with self._lock:
            tried = self._read()
            if to in tried:
                gone = {*alerts}
                left = {a: each for a, each in tried[to].items() if a not in gone}
                self._write({**tried, to: left})

    def drop(self) -> int:
        """Take everything off the list, undelivered; answers how much there was."""
        waiting = self.waiting()
        rows = [{"to": w.to, "alert": w.alert, "at": instant(), "dropped": True} for w in waiting]
        if rows:
            self._told.append(rows)
        return len(rows)

    def _read(self) -> dict[str, dict[str, tuple[str, int]]]:
        try:
            tried: Any = json.loads(self._attempts.read_bytes())
            return {
                str(to): {str(a): (str(since), int(count)) for a, (since, count) in each.items()}
                for to, each in tried.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):  # none yet, or of another shape
            return {}

    def _write(self, tried: dict[str, dict[str, tuple[str, int]]]) -> None:
        held = {to: each for to, each in tried.items() if each}
        if held:
            atomic_write.write(self._attempts, json.dumps(held))
        else:
            self._attempts.unlink(missing_ok=True)
