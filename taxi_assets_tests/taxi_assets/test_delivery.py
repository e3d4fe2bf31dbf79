"""Alerts to people: each address once, late when it was down, and no secret on the way."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from webhook_receiver import Receiver, seen

from databricks_steps.errors import SettingsError
from databricks_steps.settings import Settings
from taxi_assets.resources import dead_letters, delivery
from taxi_assets.resources.alerts import AlertLog, JsonLines, Observation, instant
from taxi_assets.resources.dead_letters import DeadLetters
from taxi_assets.resources.delivery import alert_log, deliver, notify, redacted
from taxi_assets.resources.targets import Address, Target, watch
from taxi_assets.sensors import sensors
from taxi_assets.status import UNWATCHED
from taxi_assets_tests.waiting import until

SECRETS = ("s3cret-pass", "T0KEN-9f8e7d6c")


@pytest.fixture
def hook() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def everywhere(receiver: Receiver, variable: str = "TAXI_ALERT_URLS") -> tuple[Address, ...]:
    return watch({variable: receiver.url}).addresses


def now(passed: bool = False, **other: object) -> Observation:
    return seen(0, passed=passed, at=instant(), **other)


def test_an_address_hears_of_each_once(settings: Settings, hook: Receiver) -> None:
    log, addresses = AlertLog(settings), everywhere(hook)
    log.record([now()])
    for _ in range(3):
        deliver(addresses, AlertLog(settings))
    log.record([now(passed=True, what="all is well")])
    for _ in range(3):
        deliver(addresses, AlertLog(settings))
    key = "check trips: volume 2022-03"
    assert hook.titles == [f"[error] {key}", f"[resolved] {key}"]
    said = hook.received[0]
    assert said["type"] == "failure"
    for part in (
        "What: 30% of the trips",
        "Where: trips, 2022-03",
        "Since: 20",
        "What to do: Bring the file again",
        "Link: http://127.0.0.1:3000/runs/1",
    ):
        assert part in said["message"]
    assert (hook.received[1]["type"], "all is well" in hook.received[1]["message"]) == (
        "success",
        True,
    )


def test_two_who_deliver_at_once_tell_an_address_once(settings: Settings) -> None:
    slow = Receiver(seconds=1)
    AlertLog(settings).record([now()])
    with ThreadPoolExecutor(1) as other:
        first = other.submit(deliver, everywhere(slow), AlertLog(settings))
        until(lambda: slow.received, 5)
        done = deliver(everywhere(slow), AlertLog(settings))
        assert (done.sent, done.failures) == (0, (delivery.TAKEN,))
        assert first.result().sent == 1
    assert deliver(everywhere(slow), AlertLog(settings)).sent == 0
    slow.close()
    assert len(slow.received) == 1


def test_an_address_that_is_down_hears_it_when_it_is_up_and_another_only_once(
    settings: Settings, hook: Receiver
) -> None:
    gone = Receiver()
    gone.close()
    log = AlertLog(settings)
    addresses = watch({"TAXI_ALERT_URLS": f"{gone.url} {hook.url}"}).addresses
    log.record([now(), now(subject="trips: quarantine_rate")])
    for _ in range(2):
        done = deliver(addresses, log)
        (failure,) = done.failures
        assert failure.startswith("TAXI_ALERT_URLS #1 (json): ")
        assert not any(secret in failure for secret in SECRETS)
    log.record([now(passed=True)])
    deliver(addresses, log)
    back = Receiver(gone.port)
    assert deliver(addresses, log).failures == ()
    assert deliver(addresses, log).sent == 0
    back.close()
    assert back.titles == hook.titles
    assert [title.partition("]")[0] for title in back.titles] == ["[error", "[error", "[resolved"]


def test_an_address_that_drips_its_answer_keeps_none_from_hearing(
    settings: Settings, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "ADDRESS_SECONDS", 3.0)
    slow = Receiver(seconds=30)
    addresses = watch({"TAXI_ALERT_URLS": f"{slow.url} {hook.url}"}).addresses
    AlertLog(settings).record([now()])
    with ThreadPoolExecutor(1) as other:
        telling = other.submit(deliver, addresses, AlertLog(settings))
        until(lambda: hook.titles, 10)
        time.sleep(0.5)
        assert not telling.done()  # the first is waited for, after the second has heard
        done = telling.result()
    assert done.sent == 1
    assert done.failures == ("TAXI_ALERT_URLS #1 (json): it did not answer within 3 seconds",)
    assert hook.titles == ["[error] check trips: volume 2022-03"]


def test_a_refused_message_is_not_heard(settings: Settings) -> None:
    angry = Receiver(status=500)
    AlertLog(settings).record([now()])
    for _ in range(2):
        done = deliver(everywhere(angry), AlertLog(settings))
        assert (done.sent, len(done.failures)) == (0, 1)
    angry.close()
    assert len(angry.received) == 2


def test_severities_go_where_they_belong_and_a_resolved_one_where_its_problem_went(
    settings: Settings, hook: Receiver
) -> None:
    pager = Receiver()
    addresses = watch(
        {"TAXI_ALERT_URLS_WARN": hook.url, "TAXI_ALERT_URLS_ERROR": pager.url}
    ).addresses
    log = AlertLog(settings)
    for passed in (False, True):
        log.record([now(passed, severity="warn"), now(passed, subject="b", severity="error")])
        deliver(addresses, log)
    pager.close()
    assert hook.titles == [
        "[warn] check trips: volume 2022-03",
        "[resolved] check trips: volume 2022-03",
    ]
    assert pager.titles == ["[error] check b 2022-03", "[resolved] check b 2022-03"]


def test_an_address_that_two_variables_name_hears_once(settings: Settings, hook: Receiver) -> None:
    both = {"TAXI_ALERT_URLS": hook.url, "TAXI_ALERT_URLS_ERROR": hook.url}
    AlertLog(settings).record([now()])
    deliver(watch(both).addresses, AlertLog(settings))
    assert len(hook.received) == 1


def test_many_at_once_are_one_message(settings: Settings, hook: Receiver) -> None:
    log = AlertLog(settings)
    log.record([now(subject=f"trips: c{n}", severity="warn") for n in range(1_000)])
    assert deliver(everywhere(hook), log).sent == 1_000
    assert deliver(everywhere(hook), log).sent == 0
    (message,) = hook.received
    assert message["title"] == "[warn] 1000 alerts"
    assert "[warn] check trips: c19 2022-03\nand 980 more: taxi-assets alerts" in message["message"]


def test_a_new_address_hears_what_is_open_and_no_old_history(
    settings: Settings, hook: Receiver
) -> None:
    log = AlertLog(settings)
    log.record([seen(1), seen(2, passed=True), seen(3, "trips: quarantine_rate")])
    deliver(everywhere(hook), log)
    assert hook.titles == ["[error] check trips: quarantine_rate 2022-03"]


def test_no_secret_of_an_address_is_ever_written(settings: Settings, hook: Receiver) -> None:
    addresses = everywhere(hook)
    log = alert_log(settings, addresses)
    token = "dapi0123456789abcdef0123456789abcdef"
    log.record([now(what=f"cannot reach {hook.url} with {token}, http://bob:hunter2@host/x")])
    deliver(addresses, log)
    files = [f for f in settings.home.rglob("*") if f.is_file()]
    names = {"alerts.jsonl", "alerts_told.jsonl", "alerts.lock", "alerts_told.lock"}
    assert {f.name for f in files} == names
    text = "".join(f.read_text() for f in files) + repr(addresses) + json.dumps(hook.received)
    for secret in (*SECRETS, token, "hunter2"):
        assert secret not in text
    assert "cannot reach *** with ***, http://***@host/x" in text


@pytest.mark.parametrize(
    ("url", "text", "expected"),
    [
        ("slack://TokenAAAA/TokenBBBB/TokenCCCC", "no TokenAAAA, no TokenCCCC", "no ***, no ***"),
        (
            "mailto://me:p%40ss-word@mail.example",
            "p@ss-word at mail.example",
            "*** at mail.example",
        ),
        (
            "jsons://host.example/a/b?+X-Key=abcdef123",
            "key abcdef123 of host.example",
            "key *** of host.example",
        ),
    ],
)
def test_parts_of_an_address_are_hidden_and_its_host_is_not(
    url: str, text: str, expected: str
) -> None:
    assert redacted(text, watch({"TAXI_ALERT_URLS": url}).addresses) == expected


def test_what_apprise_does_not_know_is_said_without_the_url() -> None:
    (address,) = watch({"TAXI_ALERT_URLS": "nonsense://s3cret-pass/T0KEN-9f8e7d6c"}).addresses
    assert notify(address, "t", "b") == "it is no URL that apprise knows"
    assert address.name == "TAXI_ALERT_URLS #1 (nonsense)"


def test_a_test_needs_an_address() -> None:
    with pytest.raises(SettingsError, match="Alerts need an address to be sent to: none of TAXI_"):
        list(delivery.tested(()))


def call(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taxi_assets.cli", "alerts", *arguments],
        env={"PATH": "/usr/bin:/bin", "TAXI_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_sends_a_test_to_each_address_and_says_who_was_reached(
    settings: Settings, hook: Receiver
) -> None:
    gone = Receiver()
    gone.close()
    done = call(settings.home, "test", TAXI_ALERT_URLS=hook.url)
    assert (done.returncode, done.stdout) == (0, "TAXI_ALERT_URLS #1 (json): reached\n")
    both = {"TAXI_ALERT_URLS": hook.url, "TAXI_ALERT_URLS_ERROR": gone.url}
    done = call(settings.home, "test", **both)
    reached, failed = done.stdout.splitlines()
    assert (done.returncode, reached) == (1, "TAXI_ALERT_URLS #1 (json): reached")
    assert failed.startswith("TAXI_ALERT_URLS_ERROR #1 (json): ")
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS)
    assert hook.titles == ["[test] taxi-assets"] * 2
    assert call(settings.home, "test").returncode == 1


def test_the_command_line_lists_what_is_open(settings: Settings) -> None:
    assert call(settings.home).stdout == f"0 open{UNWATCHED}\n"
    AlertLog(settings).record([seen(1), seen(2, "b"), seen(3, "b", passed=True)])
    assert call(settings.home).stdout == (
        "[error] check trips: volume 2022-03\n"
        "  What: 30% of the trips\n"
        "  Where: trips, 2022-03\n"
        "  Since: 2023-11-14 22:13:21 UTC\n"
        "  What to do: Bring the file again\n"
        "  Link: http://127.0.0.1:3000/runs/1\n"
        f"  Alert: {AlertLog(settings).problems()[0].id}\n"
        "1 open\n"
    )


def test_what_an_address_has_not_taken_for_a_day_is_listed_and_tried_on_demand_alone(
    settings: Settings, hook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "GIVEN_UP_AFTER", timedelta(seconds=-1))
    angry = Receiver(status=500)
    both = f"{angry.url} {hook.url}"
    addresses = watch({"TAXI_ALERT_URLS": both}).addresses
    log = AlertLog(settings)
    log.record([now(), now(subject="b")])  # the second waits behind the first
    for attempt in range(dead_letters.LEAST_ATTEMPTS):
        assert DeadLetters(settings.home).waiting() == []
        done = deliver(addresses, log)
        assert (len(done.failures), done.given_up) == (1, 2 if attempt == 2 else 0)
    assert len(hook.titles) == 2
    letters = DeadLetters(settings.home).waiting()
    assert [(w.address, w.attempts) for w in letters] == [("TAXI_ALERT_URLS #1 (json)", 3)] * 2
    assert not (settings.home / "alert_attempts.json").exists()
    tried = len(angry.received)
    log.record([now(passed=True)])  # nor is it told that what it has not heard of is over
    assert deliver(addresses, log).failures == ()
    assert (len(angry.received), len(hook.titles)) == (tried, 3)

    listed = call(settings.home).stdout
    assert "not taken by TAXI_ALERT_URLS #1 (json): [error] check b 2022-03; 3 att" in listed
    assert "2 given up: taxi-assets alerts deliver tries them again" in listed
    assert not any(secret in listed for secret in SECRETS)
    again = call(settings.home, "deliver", TAXI_ALERT_URLS=both)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (1, "0 told, 2 given up")
    angry.close()
    back = Receiver(angry.port)
    again = call(settings.home, "deliver", TAXI_ALERT_URLS=both)
    assert (again.returncode, again.stdout) == (0, "3 told, 0 given up\n")
    back.close()
    assert [t.partition("]")[0] for t in back.titles] == ["[error", "[error", "[resolved"]
    assert call(settings.home).stdout.endswith("1 open\n")


def test_an_address_that_answers_within_the_day_loses_nothing(
    settings: Settings, hook: Receiver
) -> None:
    gone = Receiver()
    gone.close()
    AlertLog(settings).record([now()])
    for _ in range(5):
        assert deliver(everywhere(gone), AlertLog(settings)).given_up == 0
    back = Receiver(gone.port)
    assert deliver(everywhere(back), AlertLog(settings)).sent == 1
    back.close()
    assert not (settings.home / "alert_attempts.json").exists()


def test_dead_letters_of_an_address_that_is_no_more_are_dropped(settings: Settings) -> None:
    letters = DeadLetters(settings.home)
    file = settings.home / "alerts_dead_letters.jsonl"
    JsonLines(file).append([{"to": "x"}, {"to": "x", "address": "a", "alert": "b", "since": 5}])
    assert letters.waiting() == []
    JsonLines(file).append(
        [{"to": "x", "address": "a", "alert": "b", "since": instant(), "attempts": 3, "reason": ""}]
    )
    assert len(letters.waiting()) == 1
    done = call(settings.home, "deliver", "--drop")
    assert (done.returncode, done.stdout) == (0, "1 dropped\n0 told, 0 given up\n")
    assert letters.waiting() == []


def test_attempts_of_another_shape_are_counted_anew(settings: Settings) -> None:
    settings.home.mkdir(parents=True)
    gone = Receiver()
    gone.close()
    AlertLog(settings).record([now()])
    for text in ("", "[]", "no JSON", '{"a": 1}', '{"a": {"b": "c"}}', "\xff"):
        (settings.home / "alert_attempts.json").write_text(text, encoding="latin-1")
        assert len(deliver(everywhere(gone), AlertLog(settings)).failures) == 1


def test_what_is_acknowledged_is_quiet_until_it_is_worse_over_or_the_time_is(
    settings: Settings, hook: Receiver
) -> None:
    log, addresses = AlertLog(settings), everywhere(hook)
    (problem,) = log.record([now(severity="warn")])
    said = call(settings.home, "ack", problem.id[:6])
    assert said.stdout == "check trips: volume 2022-03: quiet until it is over\n"
    deliver(addresses, log)
    assert hook.titles == []
    assert "  Acknowledged: " in call(settings.home).stdout
    log.record([now(severity="error")])
    deliver(addresses, log)
    assert hook.titles == ["[error] check trips: volume 2022-03"]
    worse = log.problems()[0]
    log.acknowledge(worse.id, "ann", 1.5)
    deliver(addresses, log)
    assert len(hook.titles) == 1
    time.sleep(1.6)
    for _ in range(3):  # a reminder, once
        deliver(addresses, log)
    assert hook.titles == ["[error] check trips: volume 2022-03"] * 2
    log.acknowledge(worse.id, "ann")
    log.record([now(passed=True)])
    log.record([now()])  # it begins anew: nobody knows of that
    deliver(addresses, log)
    assert [t.partition("]")[0] for t in hook.titles] == ["[error", "[error", "[resolved", "[error"]


def test_an_acknowledgement_names_one_open_problem_and_a_time(settings: Settings) -> None:
    (problem,) = AlertLog(settings).record([now()])
    for arguments, reason in (
        (("ack", "zzz"), "names 0 of 1. taxi-assets alerts lists them"),
        (("ack", ""), "names 0 of 1"),
        (("ack", problem.id, "--for", "soon"), "--for must be minutes, hours or days: 'soon'"),
        (("ack", problem.id, "--for", "٣h"), "--for must be"),
    ):
        refused = call(settings.home, *arguments)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert reason in refused.stderr
    quiet = call(settings.home, "ack", problem.id, "--for", "8h", TZ="America/New_York")
    assert re.search(r"quiet until 20.* UTC \(20.* E[SD]T\)", quiet.stdout)
    assert "quiet until 20" in call(settings.home).stdout


def test_times_are_told_in_utc_and_in_the_time_of_the_machine(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = "2023-11-14T22:13:21.000000+00:00"
    for zone, expected in (
        ("UTC", "2023-11-14 22:13:21 UTC"),
        ("America/New_York", "2023-11-14 22:13:21 UTC (2023-11-14 17:13 EST)"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert delivery.shown(at) == expected
    monkeypatch.delenv("TZ")
    time.tzset()


def test_how_often_sensors_look_and_where_links_lead_are_the_environments_to_say() -> None:
    assert (watch({}).addresses, watch({}).seconds, watch({}).ui) == (
        (),
        None,
        "http://127.0.0.1:3000",
    )
    found = watch({"TAXI_SENSOR_SECONDS": "5", "TAXI_UI": "http://dagster.example/"})
    assert (found.seconds, found.ui) == (5, "http://dagster.example")
    # Nothing is run unasked on the throw-away instance of plain `dagster dev`.
    for home, status in (("", "STOPPED"), ("/home/dagster", "RUNNING")):
        looking = sensors(Target("local", Settings()), watch({"DAGSTER_HOME": home}))
        assert {each.default_status.value for each in looking} == {status}
    for wrong in ("0", "1.5", "86401", "soon", "²"):
        with pytest.raises(SettingsError, match="TAXI_SENSOR_SECONDS must be a whole number"):
            watch({"TAXI_SENSOR_SECONDS": wrong})
