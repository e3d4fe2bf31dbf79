"""Alerts: one line for each problem, told once to each address, whatever dies in between."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest
from webhook_receiver import seen

from databricks_steps.settings import Settings
from taxi_assets.resources.alerts import AlertLog, JsonLines, instant


def lines(settings: Settings) -> list[dict[str, object]]:
    return JsonLines(settings.home / "alerts.jsonl").rows()


def told(settings: Settings) -> list[tuple[object, object]]:
    return [(row["severity"], row["key"]) for row in lines(settings)]


def test_a_problem_is_one_line_that_says_what_where_since_when_and_what_to_do(
    settings: Settings,
) -> None:
    log = AlertLog(settings)
    log.record([seen(1), seen(2)])
    log.record([seen(3)])
    (row,) = lines(settings)
    assert len(str(row.pop("id"))) == 12
    assert row == {
        "at": "2023-11-14T22:13:21.000000+00:00",
        "key": "check trips: volume 2022-03",
        "kind": "check",
        "subject": "trips: volume",
        "severity": "error",
        "of": "error",
        "what": "30% of the trips",
        "where": {"asset": "trips", "month": "2022-03", "link": "http://127.0.0.1:3000/runs/1"},
        "since": "2023-11-14T22:13:21.000000+00:00",
        "remedy": "Bring the file again",
    }


def test_a_clock_that_was_ahead_keeps_nothing_from_being_told(settings: Settings) -> None:
    log, now = AlertLog(settings), time.time()
    log.record([replace(seen(0), at=instant(now + 86_400))])
    for second, passed in enumerate((False, True, True, False, False)):
        log.record([replace(seen(0, passed=passed), at=instant(now - 10 + second))])
    assert [severity for severity, _ in told(settings)] == ["error", "resolved", "error"]


def test_it_is_over_when_the_same_passes_for_that_month_and_may_begin_again(
    settings: Settings,
) -> None:
    log = AlertLog(settings)
    log.record([seen(1), seen(2, passed=True, month="2022-02"), seen(3, "other", passed=True)])
    assert [problem.key for problem in log.problems()] == ["check trips: volume 2022-03"]
    log.record([seen(4, passed=True, what="all is well")])
    assert log.problems() == []
    log.record([seen(5, passed=True), seen(6)])
    assert [(r["severity"], r["of"], r["what"], r["since"]) for r in lines(settings)] == [
        ("error", "error", "30% of the trips", instant(1_700_000_001)),
        ("resolved", "error", "all is well", instant(1_700_000_001)),
        ("error", "error", "30% of the trips", instant(1_700_000_006)),
    ]


def test_files_of_one_cause_are_one_problem_and_more_of_them_are_told(settings: Settings) -> None:
    log = AlertLog(settings)
    first = replace(seen(1, "damaged", what="a.csv"), anew=True)
    log.record([first, replace(first, at=instant(1_700_000_002))])
    assert len(lines(settings)) == 1
    log.record([replace(first, at=instant(1_700_000_003), what="a.csv; b.csv")])
    assert [(row["severity"], row["what"]) for row in lines(settings)] == [
        ("error", "a.csv"),
        ("error", "a.csv; b.csv"),
    ]
    (problem,) = log.problems()
    assert (problem.what, problem.since) == ("a.csv; b.csv", first.at)


def test_a_warning_that_becomes_an_error_is_told_and_the_way_back_is_not(
    settings: Settings,
) -> None:
    log = AlertLog(settings)
    log.record([seen(1, severity="warn"), seen(2), seen(3, severity="warn")])
    assert [(r["severity"], r["since"]) for r in lines(settings)] == [
        ("warn", instant(1_700_000_001)),
        ("error", instant(1_700_000_001)),
    ]


@pytest.mark.parametrize(
    ("months", "open_problems"),
    [("2022-02", 1), ("2022-01:2022-02", 1), ("2022-01:2022-03", 0), ("2021-12:2022-04", 0)],
)
def test_a_problem_of_several_months_is_over_when_all_of_them_pass(
    settings: Settings, months: str, open_problems: int
) -> None:
    log = AlertLog(settings)
    log.record([seen(1, month="2022-01:2022-03"), seen(2, month=months, passed=True)])
    assert len(log.problems()) == open_problems


def test_a_problem_that_is_not_of_a_month_is_over_in_whichever_month_it_passes(
    settings: Settings,
) -> None:
    log = AlertLog(settings)
    log.record([seen(1, by_month=False), seen(2, by_month=False, month="2022-05", passed=True)])
    assert told(settings) == [("error", "check trips: volume"), ("resolved", "check trips: volume")]


def test_the_same_told_again_after_a_sudden_end_writes_nothing(settings: Settings) -> None:
    history = [seen(1), seen(2), seen(3, passed=True), seen(4), seen(5, passed=True)]
    AlertLog(settings).record(history)
    before = lines(settings)
    for start in range(len(history)):
        AlertLog(settings).record(history[start:])
    assert lines(settings) == before
    assert len(before) == 4


def test_a_torn_last_line_is_no_line_and_the_next_begins_anew(settings: Settings) -> None:
    log = AlertLog(settings)
    log.record([seen(1), seen(2, "trips: quarantine_rate")])
    file = settings.home / "alerts.jsonl"
    whole = file.read_bytes()
    for cut in (1, 2, 60, len(whole) // 2 - 3):
        file.write_bytes(whole[:-cut])
        AlertLog(settings).record([seen(1), seen(2, "trips: quarantine_rate")])
        assert told(settings) == [
            ("error", "check trips: volume 2022-03"),
            ("error", "check trips: quarantine_rate 2022-03"),
        ], cut


def test_lines_of_another_shape_are_left_out_and_told_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    log = AlertLog(settings)
    log.record([seen(1)])
    (good,) = lines(settings)
    bad: list[object] = [
        *({}, {"id": 5}, {"another": "shape"}, [good], "text", 7, None),
        *({**good, "at": 5}, {**good, "where": 5}, {**good, "where": {"asset": None}}),
        *({**good, "severity": "loud"}, {**good, "of": "resolved"}),
    ]
    with (settings.home / "alerts.jsonl").open("a") as file:
        file.write("".join(json.dumps(each) + "\n" for each in bad))
        file.write("[" * 100_000 + "\n")  # deeper than Python reads
        file.write(json.dumps({**good, "id": "new", "key": "later", "of_a_later_version": 1}))
    for _ in range(2):
        assert [alert.key for alert in log.alerts()] == [good["key"], "later"]
    assert len(log.problems()) == 2
    assert caplog.text.count("alerts.jsonl: 8 lines are no alerts and are left out") == 1
    assert [a.severity for a in log.record([seen(9, passed=True)])] == ["resolved"] * 2


def test_acknowledgements_of_another_shape_are_none(settings: Settings) -> None:
    log = AlertLog(settings)
    (problem,) = log.record([seen(1)])
    JsonLines(settings.home / "alerts_acknowledged.jsonl").append([{"key": problem.key}, {}])
    assert log.acknowledgements() == {}
    log.acknowledge(problem.id, "ann")
    assert log.acknowledgements()[problem.key].covers(problem, instant())


def test_threads_and_processes_that_record_at_once_tell_once(settings: Settings) -> None:
    many = [seen(n, f"trips: c{n}") for n in range(20)]
    threads = [threading.Thread(target=AlertLog(settings).record, args=(many,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [key for _, key in told(settings)] == [f"check trips: c{n} 2022-03" for n in range(20)]
