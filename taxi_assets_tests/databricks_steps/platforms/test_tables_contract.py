"""The contract of the Tables port, held by the tables of every platform."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from databricks_steps import schemas
from databricks_steps.errors import TableError
from databricks_steps.interfaces import Commit, Tables
from taxi_assets_tests.databricks_steps.platforms import delta_spark
from taxi_assets_tests.databricks_steps.platforms.feature_tables import (
    BOTH,
    FEBRUARY,
    JANUARY,
    LATER,
    MARCH,
    NAME,
    NOW,
    TABLE,
    feed,
    row,
    rows,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ON_DATABRICKS = delta_spark.RUNNING


def test_a_table_that_is_not_there_reads_as_empty(tables: Tables) -> None:
    assert rows(tables) == []
    assert tables.read(NAME).columns == list(TABLE.names)
    assert (tables.exists(NAME), tables.version(NAME), tables.rows(NAME)) == (False, None, 0)
    assert (tables.months(NAME), tables.contents(NAME), tables.made_from(NAME)) == ([], "", None)
    assert (tables.sources(NAME), tables.records(NAME)) == ({}, [])
    with pytest.raises(TableError, match="described in schemas.py: 'tripz'"):
        tables.read("tripz")


def test_months_are_replaced_in_one_commit_and_others_stay(tables: Tables, frame: Any) -> None:
    old = [row(1, JANUARY), row(2, JANUARY), row(1, FEBRUARY)]
    first = tables.replace(NAME, frame(old), BOTH)
    assert (first.table, first.action, first.rows) == (NAME, "created", 3)
    done = tables.replace(NAME, frame([row(3, JANUARY)]), ["2022-01"])
    assert (done.action, done.version, done.rows) == ("replaced", first.version + 1, 1)
    assert (tables.exists(NAME), tables.version(NAME)) == (True, done.version)
    assert rows(tables) == [row(1, FEBRUARY), row(3, JANUARY)]
    assert rows(tables, ["2022-01"]) == [row(3, JANUARY)]
    assert rows(tables, version=first.version) == sorted(old)
    assert rows(tables, ["2022-02"], version=first.version) == [row(1, FEBRUARY)]
    assert (tables.months(NAME), tables.rows(NAME, ["2022-02"])) == (BOTH, 1)
    assert (tables.rows(NAME), rows(tables, []), tables.rows(NAME, [])) == (2, [], 0)


def test_a_table_of_others_is_read_with_its_own_columns(tables: Any, frame: Any) -> None:
    assert tables.foreign("nobodys_table") is None
    full = tables._settings.table(NAME)
    assert tables.foreign(full) is None
    tables.replace(NAME, frame([row(1, JANUARY)]))
    for name in (NAME, full):
        found = tables.foreign(name)
        assert found.columns == list(TABLE.names)
        assert [tuple(one) for one in found.collect()] == [
            tuple(one) for one in tables.read(NAME).collect()
        ]


def test_a_whole_table_is_replaced(tables: Tables, frame: Any) -> None:
    tables.replace(NAME, frame([row(1, JANUARY), row(1, FEBRUARY)]))
    done = tables.replace(NAME, frame([row(2, MARCH)]))
    assert (done.action, done.rows, rows(tables)) == ("replaced", 1, [row(2, MARCH)])
    assert (tables.months(NAME), tables.rows(NAME)) == (["2022-03"], 1)


def test_an_empty_frame_empties_its_months(tables: Tables, frame: Any) -> None:
    first = tables.replace(NAME, frame([row(1, JANUARY), row(1, FEBRUARY)]), BOTH)
    done = tables.replace(NAME, frame([]), ["2022-02"], {"2022-02": 3})
    assert (done.action, done.rows, done.version) == ("replaced", 0, first.version + 1)
    assert (tables.months(NAME), rows(tables)) == (["2022-01"], [row(1, JANUARY)])
    assert tables.made_from(NAME, "2022-02") == 3
    assert tables.replace(NAME, frame([])).rows == 0
    assert (rows(tables), tables.months(NAME)) == ([], [])


def test_a_first_write_may_be_empty(tables: Tables, frame: Any) -> None:
    done = tables.replace(NAME, frame([]), ["2022-01"], {"2022-01": 3})
    assert (done.action, done.rows, rows(tables)) == ("created", 0, [])
    assert (tables.exists(NAME), tables.made_from(NAME, "2022-01")) == (True, 3)


def test_a_stray_month_is_refused_and_nothing_is_written(tables: Tables, frame: Any) -> None:
    done = tables.replace(NAME, frame([row(1, JANUARY)]), ["2022-01"])
    stray = frame([row(2, JANUARY), row(1, FEBRUARY), row(1, MARCH)])
    expected = (
        f"A write to {NAME} must hold only the months it names: 2022-02, 2022-03. "
        "Filter the frame to its months first"
    )
    with pytest.raises(TableError, match=f"^{re.escape(expected)}$"):
        tables.replace(NAME, stray, ["2022-01"])
    assert (rows(tables), tables.version(NAME)) == ([row(1, JANUARY)], done.version)
    with pytest.raises(TableError, match="must hold only the months it names: 2022-01, 2022-02"):
        tables.merge(NAME, stray, ["2022-03"])
    assert (rows(tables), tables.version(NAME)) == ([row(1, JANUARY)], done.version)


def test_merge_writes_only_what_differs(tables: Tables, frame: Any, running: Any) -> None:
    first = tables.merge(NAME, frame([row(n, JANUARY) for n in (1, 2, 3)]), ["2022-01"])
    assert (first.action, first.rows) == ("created", 3)
    changed = [
        row(1, JANUARY, computed=LATER),  # the same but for the time it was computed
        row(2, JANUARY, count=7, computed=LATER),
        row(4, JANUARY, computed=LATER),
    ]
    done = tables.merge(NAME, frame(changed), ["2022-01"])
    assert (done.action, done.version, done.rows) == ("merged", first.version + 1, 3)
    assert rows(tables) == [row(1, JANUARY), *changed[1:]]
    assert feed(tables, running, first.version) == [
        (2, "update_postimage"),
        (2, "update_preimage"),
        (3, "delete"),
        (4, "insert"),
    ]


def test_a_null_differs_from_a_value_and_not_from_a_null(
    tables: Tables, frame: Any, running: Any
) -> None:
    before = [row(1, JANUARY, fare=None), row(2, JANUARY), row(3, JANUARY, fare=None)]
    first = tables.merge(NAME, frame(before), ["2022-01"])
    after = [row(1, JANUARY), row(2, JANUARY, fare=None), row(3, JANUARY, fare=None)]
    done = tables.merge(NAME, frame(after), ["2022-01"])
    assert (done.action, done.rows) == ("merged", 2)
    assert [r[5] for r in rows(tables)] == [4.5, None, None]
    assert {location for location, _ in feed(tables, running, first.version)} == {1, 2}


def test_a_second_merge_commits_nothing(tables: Tables, frame: Any) -> None:
    same, made_from = [row(1, JANUARY), row(2, FEBRUARY)], {"2022-01": 5, "2022-02": 6}
    first = tables.merge(NAME, frame(same), BOTH, made_from)
    contents = tables.contents(NAME, BOTH)
    again = tables.merge(NAME, frame(same), BOTH, made_from)
    assert (again.action, again.version, again.rows) == ("unchanged", first.version, 0)
    assert (rows(tables), tables.contents(NAME, BOTH)) == (same, contents)


def test_merge_deletes_rows_of_its_months_alone(tables: Tables, frame: Any, running: Any) -> None:
    tables.merge(NAME, frame([row(1, JANUARY), row(2, JANUARY)]), ["2022-01"])
    first = tables.merge(NAME, frame([row(1, FEBRUARY), row(2, FEBRUARY)]), ["2022-02"])
    done = tables.merge(NAME, frame([row(2, FEBRUARY)]), ["2022-02"])
    assert (done.action, done.rows) == ("merged", 1)
    assert feed(tables, running, first.version) == [(1, "delete")]
    emptied = tables.merge(NAME, frame([]), ["2022-02"])
    assert (emptied.action, emptied.rows) == ("merged", 1)
    assert rows(tables) == [row(1, JANUARY), row(2, JANUARY)]


def test_months_without_rows_are_added_and_the_others_merged(
    tables: Tables, frame: Any, running: Any
) -> None:
    first = tables.merge(NAME, frame([row(1, JANUARY), row(2, JANUARY)]), BOTH[:1], {"2022-01": 7})
    both = [row(1, JANUARY), row(2, JANUARY, 5), row(1, FEBRUARY), row(2, FEBRUARY)]
    done = tables.merge(NAME, frame(both), BOTH, {"2022-01": 8, "2022-02": 9})
    assert (done.action, done.rows, done.version) == ("merged", 3, first.version + 2)
    assert rows(tables) == sorted(both)
    assert [tables.made_from(NAME, month) for month in BOTH] == [8, 9]
    assert feed(tables, running, first.version) == [
        (1, "insert"),
        (2, "insert"),
        (2, "update_postimage"),
        (2, "update_preimage"),
    ]
    same = tables.merge(NAME, frame(both), BOTH, {"2022-01": 8, "2022-02": 9})
    assert (same.action, same.rows, same.version) == ("unchanged", 0, done.version)
    march = tables.merge(NAME, frame([*both, row(1, MARCH)]), [*BOTH, "2022-03"])
    assert (march.action, march.rows) == ("appended", 1)


def test_merge_without_months_keeps_rows_that_are_not_in_the_frame(
    tables: Tables, frame: Any
) -> None:
    tables.merge(NAME, frame([row(1, JANUARY)]), made_from={"2022-01": 1})
    first = tables.merge(NAME, frame([row(2, JANUARY), row(1, FEBRUARY)]))
    assert (first.action, first.rows) == ("merged", 2)
    done = tables.merge(NAME, frame([row(2, JANUARY, 9)]), made_from={"2022-01": 2})
    assert (done.action, done.rows, done.version) == ("merged", 1, first.version + 1)
    assert rows(tables) == [row(1, JANUARY), row(1, FEBRUARY), row(2, JANUARY, 9)]
    assert tables.made_from(NAME, "2022-01") == 2
    assert tables.merge(NAME, frame([])).action == "unchanged"


def test_a_month_that_stays_empty_is_remembered_once(tables: Tables, frame: Any) -> None:
    tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-01"], {"2022-01": 7})
    done = tables.merge(NAME, frame([]), ["2022-02"], {"2022-02": 3})
    assert (done.action, done.rows, tables.made_from(NAME, "2022-02")) == ("appended", 0, 3)
    again = tables.merge(NAME, frame([]), ["2022-02"], {"2022-02": 3})
    assert (again.version, tables.made_from(NAME, "2022-01")) == (done.version, 7)
    with pytest.raises(TableError, match="must hold only the months it names: 2022-01"):
        tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-02"])


def test_digests_are_kept_with_the_rows_and_by_month(
    tables: Tables, frame: Any, running: Any
) -> None:
    tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-01"], {"2022-01": 11})
    first = tables.merge(NAME, frame([row(1, FEBRUARY)]), ["2022-02"], {"2022-02": 2**62})
    assert [tables.made_from(NAME, m) for m in (*BOTH, "2022-03")] == [11, 2**62, None]
    # Other inputs, the same rows: remembered, and nothing else changes.
    contents = tables.contents(NAME, BOTH)
    done = tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-01"], {"2022-01": 12})
    assert (done.action, done.rows) == ("unchanged", 0)
    assert [tables.made_from(NAME, m) for m in BOTH] == [12, 2**62]
    assert (tables.contents(NAME, BOTH), rows(tables)) == (
        contents,
        [row(1, JANUARY), row(1, FEBRUARY)],
    )
    assert feed(tables, running, first.version) == []


def test_contents_change_with_every_write_and_only_then(tables: Tables, frame: Any) -> None:
    tables.replace(NAME, frame([row(1, JANUARY), row(1, FEBRUARY)]), BOTH)
    january, february = (tables.contents(NAME, [m]) for m in BOTH)
    everything = tables.contents(NAME)
    tables.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    assert tables.contents(NAME, ["2022-01"]) == january
    assert tables.contents(NAME, ["2022-02"]) != february
    assert tables.contents(NAME) != everything
    assert tables.contents(NAME, []) == ""


def test_an_uncut_table_keeps_its_digest_and_its_sources(tables: Tables, running: Any) -> None:
    name, table = "training_set", schemas.TRAINING_SET
    values = {"string": "x", "int": 1, "long": 2, "double": 0.5, "timestamp": NOW}
    chosen = tuple(values[c.type] for c in table.columns)
    written = running.createDataFrame([chosen], table.spark())
    versions = {"trips": 4, "pickup_features": 2**40}
    tables.replace(name, written, made_from={"": 42}, sources=versions)
    assert (tables.made_from(name), tables.sources(name)) == (42, versions)
    assert (tables.rows(name), tables.rows(name, ["2022-01"]), tables.months(name)) == (1, 0, [""])
    contents = tables.contents(name)
    tables.replace(name, written, made_from={"": 43})
    assert (tables.made_from(name), tables.sources(name)) == (43, versions)
    assert tables.contents(name) != contents
    assert [tuple(r) for r in tables.read(name, ["2022-01"]).collect()] == [chosen]


def test_a_column_that_came_later_is_null_until_its_rows_are_written(
    tables: Tables, frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = TABLE.names[5]
    made_before = [row(1, JANUARY), row(2, JANUARY), row(1, FEBRUARY)]
    with monkeypatch.context() as before:
        columns = tuple(column for column in TABLE.columns if column.name != late)
        before.setitem(schemas.TABLES, NAME, replace(TABLE, columns=columns))
        first = tables.replace(NAME, frame(made_before).drop(late), BOTH, dict.fromkeys(BOTH, 7))
        assert late not in tables.read(NAME).columns
    without = sorted(row(r[0], r[1], fare=None) for r in made_before)
    assert rows(tables) == without
    assert rows(tables, version=first.version) == without
    assert tables.rows(NAME) == 3
    merged = tables.merge(NAME, frame([row(1, JANUARY), row(2, JANUARY, fare=None)]), ["2022-01"])
    assert (merged.action, merged.rows) == ("merged", 1)
    assert rows(tables, ["2022-01"]) == [row(1, JANUARY), row(2, JANUARY, fare=None)]
    assert tables.made_from(NAME, "2022-02") == 7  # no row of it has changed
    assert rows(tables, version=first.version) == without
    replaced = tables.replace(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    assert rows(tables, ["2022-02"]) == [row(1, FEBRUARY)]
    again = tables.merge(NAME, frame([row(1, FEBRUARY)]), ["2022-02"])
    assert (again.action, again.version) == ("unchanged", replaced.version)


def test_rows_are_appended_and_come_back_as_records(tables: Tables) -> None:
    def entry(number: int, before: str | None) -> dict[str, Any]:
        texts = ("action", "moved_by", "model", "to_version", "run_id", "metrics", "why")
        at = datetime(2022, 7, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)
        given = {"number": number, "moved_at": at, "from_version": before}
        return given | dict.fromkeys(texts, "it's ünicode")

    first = tables.append("deployments", [entry(1, None)])
    assert (first.action, first.rows) == ("created", 1)
    second = tables.append("deployments", [entry(2, "1"), entry(3, "2")])
    assert (second.action, second.rows, second.version) == ("appended", 2, first.version + 1)
    found = sorted(tables.records("deployments"), key=lambda record: int(record["number"]))
    assert found == [entry(1, None), entry(2, "1"), entry(3, "2")]
    assert list(found[0]) == list(schemas.DEPLOYMENTS.names)


def test_a_small_table_is_amended_in_one_commit_or_in_none(tables: Tables) -> None:
    def entry(name: str, rows: int | None) -> dict[str, Any]:
        at = datetime(2022, 7, 1, 12, 0, 0, 123456, tzinfo=timezone.utc)
        texts = ("source", "hash", "status", "cause", "reason", "remedy")
        given = {"name": name, "bytes": 3, "rows": rows, "months": ["2022-01"], "seen_at": at}
        order = dict.fromkeys(schemas.ARRIVALS.names)
        return order | given | dict.fromkeys(texts, "x")

    def amended(*rows: dict[str, Any]) -> Commit | None:
        return tables.amend("arrivals", lambda _: list(rows))

    first = amended(entry("a", 1), entry("b", None))
    assert first is not None
    assert (first.action, first.rows) == ("created", 2)
    assert amended(entry("a", 1), entry("b", None)) is None
    second = amended(entry("b", 2))
    assert second is not None
    assert (second.action, second.rows, second.version) == ("replaced", 1, first.version + 1)
    assert tables.records("arrivals") == [entry("b", 2)]
    assert amended() is not None
    assert tables.records("arrivals") == []


if not delta_spark.RUNNING:
    CASES = [name for name in globals() if name.startswith("test_")]

    @pytest.mark.long  # a JVM of its own, with Delta's jars
    @pytest.mark.parametrize("case", CASES)
    def test_on_databricks(verdicts: dict[str, Element], case: str) -> None:
        delta_spark.repeat(verdicts[case])
