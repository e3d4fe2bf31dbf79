"""Alerts: one for each problem, kept in TAXI_HOME/alerts.jsonl, from which all state derives.

Who was told is delivery's (delivery.py); what is looked at is the sensors'.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings

WARN, ERROR, RESOLVED = "warn", "error", "resolved"
_LOG = logging.getLogger(__name__)
_RANK = {WARN: 1, ERROR: 2}


def instant(seconds: float | None = None) -> str:
    """A time (default: now) as text that sorts as the times do."""
    utc = timezone.utc
    at = datetime.now(utc) if seconds is None else datetime.fromtimestamp(seconds, utc)
    return at.isoformat(timespec="microseconds")


@dataclass(frozen=True)
class Where:
    """Which asset and month (or months, `2022-01:2022-03`), and a link to look at them."""

    asset: str = ""
    month: str = ""
    link: str = ""


@dataclass(frozen=True)
class Observation:
    """Something that was looked at, at a time, and whether it was well.

    `kind` and `subject` name it: `check` of `trips: volume`, `run` of `retrain`. `by_month`: its
    problem in one month is another than in the next. `anew`: what is said of the problem changes
    with it, and is told anew.
    """

    kind: str
    subject: str
    passed: bool
    what: str
    at: str
    where: Where = field(default_factory=Where)
    severity: str = ERROR
    remedy: str = ""
    by_month: bool = True
    anew: bool = False

    @property
    def key(self) -> str:
        """The problem's name."""
        month = f" {self.where.month}" if self.by_month and self.where.month else ""
        return f"{self.kind} {self.subject}{month}"


@dataclass(frozen=True)
class Alert:
    """One notice: a problem that began (`warn`, `error`) or one that is over (`resolved`).

    `of` is the severity of the problem, `since` when it began, `at` when this was seen.
    """

    id: str
    at: str
    key: str
    kind: str
    subject: str
    severity: str
    of: str
    what: str
    where: Where
    since: str
    remedy: str

    @property
    def by_month(self) -> bool:
        return self.key != f"{self.kind} {self.subject}"

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Alert | None:
        """The alert of a line; None of a line of another shape. Other keys are left out."""
        where = row.get("where")
        if not isinstance(where, dict):
            return None
        place = {name: where.get(name, "") for name in Where.__dataclass_fields__}
        named = {name: row.get(name) for name in cls.__dataclass_fields__ if name != "where"}
        if not all(isinstance(text, str) for text in (*named.values(), *place.values())):
            return None
        if named["severity"] not in (*_RANK, RESOLVED) or named["of"] not in _RANK:
            return None
        return cls(**named, where=Where(**place))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Acknowledgement:
    """A person knows of a problem: until an instant, or (empty) until it is over.

    `severity` and `since` are the problem's: another one, or a worse one, is told.
    """

    key: str
    since: str
    severity: str
    at: str
    until: str
    by: str

    def active(self, now: str) -> bool:
        """Whether its time is not over."""
        return not self.until or now < self.until

    def covers(self, alert: Alert, now: str) -> bool:
        """Whether the alert need not be told: what was there before is known even afterwards."""
        return (
            (self.key, self.since) == (alert.key, alert.since)
            and _RANK.get(alert.severity, 9) <= _RANK[self.severity]
            and (self.active(now) or alert.at <= self.at)
        )


class JsonLines:
    """A file of one JSON object a line, only ever appended to; a torn last line is no line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # a process died as it wrote, or it is empty
                continue
            if isinstance(row, dict):
                found.append(row)
        return found

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append in one write that is on the disk when this ends."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            if stream.seek(0, os.SEEK_END):
                stream.seek(-1, os.SEEK_END)
                text = text if stream.read(1) == b"\n" else b"\n" + text
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())


class AlertLog:
    """The alerts of a home. Several processes may record at once; `hide` takes secrets out."""

    def __init__(self, settings: Settings, hide: Callable[[str], str] = str) -> None:
        self.home, self.hide = settings.home, hide
        self.lines = JsonLines(settings.home / "alerts.jsonl")
        self._acknowledged = JsonLines(settings.home / "alerts_acknowledged.jsonl")
        self._told_of = 0  # lines of another shape that were told

    def alerts(self) -> list[Alert]:
        """All alerts, oldest first; lines of another shape are left out, and told."""
        rows = self.lines.rows()
        found = [alert for row in rows if (alert := Alert.from_json(row)) is not None]
        if (bad := len(rows) - len(found)) > self._told_of:
            self._told_of = bad
            _LOG.warning("%s: %d lines are no alerts and are left out", self.lines.path, bad)
        return found

    def acknowledgements(self) -> dict[str, Acknowledgement]:
        """Key of a problem → the newest that was said of it."""
        found = {}
        for row in self._acknowledged.rows():
            named = {name: row.get(name) for name in Acknowledgement.__dataclass_fields__}
            if all(isinstance(t, str) for t in named.values()) and named["severity"] in _RANK:
                found[str(named["key"])] = Acknowledgement(**named)  # type: ignore[arg-type]
        return found

    def acknowledge(self, beginning: str, by: str, seconds: float | None = None) -> Acknowledgement:
        """Keep an open problem quiet, by its alert's id or the beginning of one.

        For so many seconds, or until it is over.

        Raises:
            SettingsError: no open problem has this id, or several have.
        """
        problems = self.problems()
        found = [p for p in problems if beginning and p.id.startswith(beginning)]
        if len(found) != 1:
            raise SettingsError(
                "An open problem is named by its id or the beginning of it",
                f"{beginning!r} names {len(found)} of {len(problems)}",
                "taxi-assets alerts lists them",
            )
        (problem,) = found
        until = "" if seconds is None else instant(time.time() + seconds)
        said = Acknowledgement(
            problem.key, problem.since, problem.severity, instant(), until, self.hide(by)
        )
        with self.locked():
            self._acknowledged.append([asdict(said)])
        return said

    def problems(self) -> list[Alert]:
        """What is not resolved, oldest first."""
        return sorted(_State(self.alerts()).open.values(), key=lambda alert: alert.since)

    def record(self, seen: Iterable[Observation]) -> list[Alert]:
        """Write down what is new in these, in their order; gives the alerts written.

        A problem that is known is not written again, unless it went from a warning to an error.
        What was looked at before is skipped, so that it is safe to record things twice.
        """
        observed = [replace(each, what=self.hide(each.what)) for each in seen]
        if not observed:
            return []
        with self.locked():
            state = _State(self.alerts())
            new = [alert for each in observed for alert in state.after(each)]
            if new:
                self.lines.append(asdict(alert) for alert in new)
        return new

    def locked(self) -> FileLock:
        """Alone with the file: what is read is still so when it is written."""
        self.home.mkdir(parents=True, exist_ok=True)
        return FileLock(self.home / "alerts.lock")


class _State:
    """Which problems are open, and how far each was told, from the alerts so far."""

    def __init__(self, alerts: Iterable[Alert]) -> None:
        self.open: dict[str, Alert] = {}
        self.told: dict[str, str] = {}  # key → time of its newest alert, if that is no future one
        self._now = instant()
        for alert in alerts:
            self._take(alert)

    def after(self, seen: Observation) -> list[Alert]:
        """The alerts that an observation makes, taken into the state."""
        new = self._over(seen) if seen.passed else self._begun(seen)
        for alert in new:
            self._take(alert)
        return new

    def _take(self, alert: Alert) -> None:
        if alert.at <= self._now:  # else a clock was ahead, and nothing would be news until then
            self.told[alert.key] = max(alert.at, self.told.get(alert.key, ""))
        if alert.severity == RESOLVED:
            self.open.pop(alert.key, None)
        else:
            self.open[alert.key] = alert

    def _begun(self, seen: Observation) -> list[Alert]:
        known = self.open.get(seen.key)
        if seen.at <= self.told.get(seen.key, ""):
            return []
        told = known is not None and not (seen.anew and known.what != seen.what)
        if known is not None and told and _RANK[known.severity] >= _RANK[seen.severity]:
            return []
        return [
            Alert(
                id=_id(seen.key, seen.at),
                at=seen.at,
                key=seen.key,
                kind=seen.kind,
                subject=seen.subject,
                severity=seen.severity,
                of=seen.severity,
                what=seen.what,
                where=seen.where,
                since=known.since if known else seen.at,
                remedy=seen.remedy,
            )
        ]

    def _over(self, seen: Observation) -> list[Alert]:
        return [
            replace(
                alert,
                id=_id(alert.key, seen.at),
                at=seen.at,
                severity=RESOLVED,
                of=alert.severity,
                what=seen.what,
                where=replace(alert.where, link=seen.where.link or alert.where.link),
                remedy="",
            )
            for alert in list(self.open.values())
            if (alert.kind, alert.subject) == (seen.kind, seen.subject)
            and seen.at > self.told.get(alert.key, "")
            and _covers(seen, alert)
        ]


def _covers(seen: Observation, alert: Alert) -> bool:
    """Whether what passed holds all months of the problem."""
    if not alert.by_month:
        return True
    (first, last), (begin, end) = _span(seen.where.month), _span(alert.where.month)
    return bool(first) and first <= begin and end <= last


def _span(months: str) -> tuple[str, str]:
    """The first and the last of `2022-01` or `2022-01:2022-03`."""
    first, _, last = months.partition(":")
    return first, last or first


def _id(key: str, at: str) -> str:
    return hashlib.sha256(f"{key}\n{at}".encode()).hexdigest()[:12]
