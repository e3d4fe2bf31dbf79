"""Alerts to people, by apprise: each address once, again when it did not answer, no secret told."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote

from filelock import FileLock, Timeout

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings
from taxi_assets.resources.alerts import (
    ERROR,
    RESOLVED,
    Acknowledgement,
    Alert,
    AlertLog,
    JsonLines,
    instant,
)
from taxi_assets.resources.dead_letters import DeadLetters
from taxi_assets.resources.targets import ALERT_URLS, Address

YOUNG = timedelta(days=1)  # what is over for longer is told only to who heard that it began
FLOOD = 10  # more at once go in one message
TAKEN = "another process is telling"
SHOWN = 20  # lines of such a message
SECONDS = 20.0  # a tick's time for delivery; Dagster ends a tick after 60
ADDRESS_SECONDS = 8.0  # an address' time to take a message
_PLAIN_HOSTS = ("json", "jsons", "xml", "xmls", "form", "forms", "mailto", "mailtos")
_SECRETS = re.compile(r"(?<=://)[^\s/@]+(?=@)|\bdapi[0-9a-f]{16,}(-\d+)?\b")
_TYPES = {RESOLVED: "success", ERROR: "failure"}


@dataclass(frozen=True)
class Delivered:
    """How many alerts went out, and for each address that did not take one the reason.

    `given_up` is how many went to the list of dead letters.
    """

    sent: int
    failures: tuple[str, ...]
    given_up: int = 0


def redacted(text: str, addresses: Sequence[Address]) -> str:
    """The text without an address, a part of one that may be secret, or any other credential."""
    for part in sorted({p for a in addresses for p in _parts(a.url)}, key=len, reverse=True):
        text = text.replace(part, "***")
    return _SECRETS.sub("***", text)


def _parts(url: str) -> set[str]:
    """What of a URL may be secret: all of it but a plain host's name and short words."""
    schema, _, rest = url.partition("://")
    before, _, after = rest.rpartition("@")
    host, _, path = after.partition("/")
    plain = schema.lower() in _PLAIN_HOSTS
    pieces = re.split(r"[/?&=:]", path if plain else after)
    found = {part for part in before.split(":") if len(part) > 3}
    found |= {piece for piece in pieces if len(piece) > 7}
    if plain:
        found.discard(host.partition(":")[0])
    return {url, rest} | found | {unquote(part) for part in found}


def alert_log(settings: Settings, addresses: Sequence[Address]) -> AlertLog:
    """The alerts of a home, in which no part of these addresses is ever written."""
    return AlertLog(settings, lambda text: redacted(text, addresses))


def notify(address: Address, title: str, body: str, kind: str = "info") -> str:
    """Send one message; the reason when it did not arrive, without a secret, else nothing.

    An address that takes longer than `ADDRESS_SECONDS` is not waited for: others must hear, too. It
    may get a message twice then.
    """
    told: list[str] = []
    thread = threading.Thread(
        target=lambda: told.append(_sent(address, title, body, kind)), daemon=True
    )
    thread.start()
    thread.join(ADDRESS_SECONDS)
    return told[0] if told else f"it did not answer within {ADDRESS_SECONDS:g} seconds"


def _sent(address: Address, title: str, body: str, kind: str) -> str:
    import apprise

    logger = logging.getLogger("apprise")
    logger.propagate = False  # it writes addresses to its log
    messenger = apprise.Apprise(asset=apprise.AppriseAsset(app_id="taxi-assets", async_mode=False))
    said = _Said()
    logger.addHandler(said)
    try:
        if not messenger.add(address.url):
            return "it is no URL that apprise knows"
        if messenger.notify(body=body, title=title, notify_type=apprise.NotifyType(kind)):
            return ""
    finally:
        logger.removeHandler(said)
    return redacted(said.lines[0] if said.lines else "it did not take the message", [address])


class _Said(logging.Handler):
    """The warnings of this thread: those of an address that is given up are not another's."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.lines.append(record.getMessage())


def tested(addresses: Sequence[Address]) -> Iterator[tuple[str, str]]:
    """Send a test message to each address; its name, and the reason when it did not arrive.

    Raises:
        SettingsError: there is no address.
    """
    if not addresses:
        raise SettingsError(
            "Alerts need an address to be sent to",
            f"none of {', '.join(ALERT_URLS)} is set",
            "Set it to apprise URLs, such as json://127.0.0.1:9000 or slack://…",
        )
    for address, _ in _merged(addresses):
        told = "This is a test. Alerts of the fare pipeline arrive here."
        yield address.name, notify(address, "[test] taxi-assets", told)


def deliver(addresses: Sequence[Address], log: AlertLog, *, again: bool = False) -> Delivered:
    """Tell each address what it has not heard; one that fails is left for the next time.

    What it has not taken for a day is given up, until somebody asks for it `again`. Two who deliver
    at once would tell everything twice: who comes second leaves it to the first, or waits for it
    when somebody asks.
    """
    if not addresses:
        return Delivered(0, ())
    log.home.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(log.home / "alerts_told.lock", timeout=SECONDS if again else 0):
            return _delivered(addresses, log, again)
    except Timeout:
        return Delivered(0, (TAKEN,))


def _delivered(addresses: Sequence[Address], log: AlertLog, again: bool) -> Delivered:
    told = JsonLines(log.home / "alerts_told.jsonl")
    heard = {(str(row.get("to")), str(row.get("alert"))) for row in told.rows()}
    alerts, problems = log.alerts(), log.problems()
    open_ids = {alert.id for alert in problems}
    letters = DeadLetters(log.home)
    dead = {(letter.to, letter.alert) for letter in letters.waiting()}
    acknowledged, now = log.acknowledgements(), instant()
    writing = threading.Lock()

    def tell(address: Address, pending: Sequence[Alert]) -> Delivered:
        digest, deadline, sent = digest_of(address), time.monotonic() + SECONDS, 0
        groups = [pending] if len(pending) > FLOOD else [[alert] for alert in pending]
        for group in groups:
            if time.monotonic() > deadline:
                late = f"{address.name}: no time left; the rest is told at the next tick"
                return Delivered(sent, (late,))
            reason = notify(address, *_message(group))
            with writing:
                if reason:
                    rest = pending[pending.index(group[0]) :]
                    left = [a.id for a in rest if (digest, a.id) not in dead]
                    given_up = letters.failed(digest, address.name, left, reason)
                    return Delivered(sent, (f"{address.name}: {reason}",), given_up)
                told.append({"to": digest, "alert": a.id, "at": instant()} for a in group)
                letters.taken(digest, [a.id for a in group])
            sent += len(group)
        return Delivered(sent, ())

    waiting: list[tuple[Address, list[Alert]]] = []
    for address, severities in _merged(addresses):
        digest = digest_of(address)
        known = {alert for to, alert in heard if to == digest}
        lost = set() if again else {alert for to, alert in dead if to == digest}
        asked_for = open_ids | {alert for to, alert in dead if to == digest and again}
        pending = [
            a
            for a in (
                *_pending(alerts, known, asked_for, lost),
                *_reminders(problems, acknowledged, known, now),
            )
            if a.of in severities
            and a.id not in lost
            and not (a.key in acknowledged and acknowledged[a.key].covers(a, now))
        ]
        if pending:
            waiting.append((address, pending))
    if not waiting:
        return Delivered(0, ())
    # Side by side: who is slow keeps nobody from hearing.
    with ThreadPoolExecutor(len(waiting)) as pool:
        done = list(pool.map(tell, *zip(*waiting, strict=True)))
    return Delivered(
        sum(each.sent for each in done),
        tuple(failure for each in done for failure in each.failures),
        sum(each.given_up for each in done),
    )


def digest_of(address: Address) -> str:
    """What stands for an address in the home's files."""
    return hashlib.sha256(address.url.encode()).hexdigest()[:12]


def _reminders(
    problems: Iterable[Alert],
    acknowledged: Mapping[str, Acknowledgement],
    known: set[str],
    now: str,
) -> list[Alert]:
    """What is open still after the time for which it was acknowledged, once."""
    found = []
    for problem in problems:
        said = acknowledged.get(problem.key)
        if said is not None and said.since == problem.since and not said.active(now):
            reminder = replace(problem, id=f"{problem.id}@{said.until}", at=now)
            found += [] if reminder.id in known else [reminder]
    return found


def _merged(addresses: Iterable[Address]) -> list[tuple[Address, set[str]]]:
    """Each URL once, with the severities of all variables that name it."""
    found: dict[str, tuple[Address, set[str]]] = {}
    for address in addresses:
        found.setdefault(address.url, (address, set()))[1].update(address.severities)
    return list(found.values())


def _pending(
    alerts: Iterable[Alert], known: set[str], asked_for: set[str], given_up: set[str]
) -> list[Alert]:
    """What an address has yet to hear, in the order in which it happened.

    `asked_for` is told however old it is, `given_up` is not, nor that such a problem is over.
    """
    limit = instant((datetime.now(timezone.utc) - YOUNG).timestamp())
    heard_of = set()  # problems whose beginning it heard, or will
    found = []
    for alert in alerts:
        wanted = (alert.at > limit or alert.id in asked_for) and alert.id not in given_up
        if alert.severity == RESOLVED:
            wanted = alert.key in heard_of and alert.id not in given_up
            heard_of.discard(alert.key)
        elif wanted or alert.id in known:
            heard_of.add(alert.key)
        if wanted and alert.id not in known:
            found.append(alert)
    return found


def _message(alerts: Sequence[Alert]) -> tuple[str, str, str]:
    """Title, body and apprise's type of a message about one alert, or about many."""
    worst = min((a.severity for a in alerts), key=("error", "warn", "resolved").index)
    kind = _TYPES.get(worst, "warning")
    if len(alerts) == 1:
        return title(alerts[0]), body(alerts[0]), kind
    lines = [title(alert) for alert in alerts[:SHOWN]]
    if len(alerts) > SHOWN:
        lines.append(f"and {len(alerts) - SHOWN} more: taxi-assets alerts lists what is open")
    return f"[{worst}] {len(alerts)} alerts", "\n".join(lines), kind


def title(alert: Alert) -> str:
    """`[error] check trips: volume 2022-03`."""
    return f"[{alert.severity}] {alert.key}"


def body(alert: Alert) -> str:
    """What, where, since when, what to do."""
    where = ", ".join(part for part in (alert.where.asset, alert.where.month) if part)
    rows = {
        "What": alert.what,
        "Where": where,
        "Since": shown(alert.since),
        "What to do": alert.remedy,
        "Link": alert.where.link,
        "Alert": alert.id.partition("@")[0],
    }
    return "\n".join(f"{name}: {text}" for name, text in rows.items() if text)


def shown(at: str) -> str:
    """An instant in UTC and, where that is another, in the time of this machine."""
    utc = datetime.fromisoformat(at)
    local = utc.astimezone()
    here = f" ({local:%Y-%m-%d %H:%M %Z})" if local.utcoffset() != utc.utcoffset() else ""
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC{here}"
