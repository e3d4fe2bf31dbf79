"""Unity Catalog's tables alone: changes by hand, notes, what a table is made as; on real Delta."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from databricks_steps import schemas
from databricks_steps.errors import TableError
from databricks_steps.interfaces import Tables
from databricks_steps.platforms.databricks import ddl, history
from databricks_steps.platforms.databricks.tables import UnityTables
from taxi_assets_tests.databricks_steps.platforms import delta_spark
from taxi_assets_tests.databricks_steps.platforms.feature_tables import (
    BOTH,
    FEBRUARY,
    JANUARY,
    NAME,
    row,
    rows,
)

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

ON_DATABRICKS = delta_spark.RUNNING


def on_databricks_a_change_by_hand_forgets_digests_and_upkeep_does_not(
    tables: Tables, frame: Any, running: Any
) -> None:
    full = ddl.quoted(tables.uri(NAME))
    for at in (JANUARY, FEBRUARY):
        tables.merge(NAME, frame([row(1, at)]), [f"{at:%Y-%m}"], {f"{at:%Y-%m}": at.month})
    tables.merge(NAME, frame([row(1, JANUARY), row(2, JANUARY)]), ["2022-01"], {"2022-01": 5})

    def state() -> tuple[Any, ...]:
        return tables.contents(NAME, BOTH), *(tables.made_from(NAME, m) for m in BOTH)

    kept, version = state(), tables.version(NAME)
    assert kept[1:] == (5, 2)
    running.sql(f"OPTIMIZE {full}").collect()
    running.sql(f"ALTER TABLE {full} SET TBLPROPERTIES ('team' = 'fares')")
    running.sql(f"COMMENT ON TABLE {full} IS 'mine'")
    running.sql(f"VACUUM {full}").collect()
    assert tables.version(NAME) != version
    assert state() == kept
    running.sql(f"UPDATE {full} SET dropoff_trip_count_30m = 9 WHERE location_id = 2")
    contents, *digests = state()
    assert (contents != kept[0], digests) == (True, [None, None])
    # Computed again: what was changed by hand is put right, and digests are known again.
    done = tables.merge(
        NAME,
        frame([row(1, JANUARY), row(2, JANUARY), row(1, FEBRUARY)]),
        BOTH,
        {"2022-01": 5, "2022-02": 2},
    )
    assert (done.action, done.rows, state()[1:]) == ("merged", 1, (5, 2))


def on_databricks_a_table_made_anew_by_hand_is_not_the_old_one(
    tables: Tables, frame: Any, running: Any
) -> None:
    full = ddl.quoted(tables.uri(NAME))
    tables.replace(NAME, frame([row(1, JANUARY)]), ["2022-01"], {"2022-01": 5})
    contents = tables.contents(NAME, ["2022-01"])
    running.sql(f"DROP TABLE {full}")
    assert (tables.contents(NAME, ["2022-01"]), tables.rows(NAME)) == ("", 0)
    tables.replace(NAME, frame([row(1, JANUARY), row(2, JANUARY)]), ["2022-01"])
    assert tables.contents(NAME, ["2022-01"]) != contents
    assert (tables.made_from(NAME, "2022-01"), tables.rows(NAME)) == (None, 2)


def on_databricks_a_session_that_may_not_be_told_still_keeps_notes(
    tables: Tables, frame: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Serverless compute refuses settings; the conf is one that Spark lets nobody change."""
    tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-01"], {"2022-01": 1})
    monkeypatch.setattr(history, "CONF", "spark.sql.warehouse.dir")
    done = tables.merge(NAME, frame([row(1, JANUARY, 7)]), ["2022-01"], {"2022-01": 2})
    assert (done.action, done.rows, rows(tables)) == ("merged", 1, [row(1, JANUARY, 7)])
    assert tables.made_from(NAME, "2022-01") == 2
    assert "spark.sql.warehouse.dir cannot be set here" in caplog.text


def on_databricks_the_session_is_left_as_it_was(tables: Tables, frame: Any, running: Any) -> None:
    tables.merge(NAME, frame([row(1, JANUARY)]), ["2022-01"])
    for before in (None, "mine"):
        if before:
            running.conf.set(history.CONF, before)
        tables.merge(NAME, frame([row(1, JANUARY, 7 + len(before or ""))]), ["2022-01"])
        assert running.conf.get(history.CONF, None) == before
    running.conf.unset(history.CONF)
    assert running.catalog.listTables() == []
    assert running._jsparkSession.sharedState().cacheManager().isEmpty()


def on_databricks_every_table_is_made_as_described(tables: UnityTables, running: Any) -> None:
    for name, table in schemas.TABLES.items():
        tables.replace(name, running.createDataFrame([], table.spark()))
        described = {c.name: c for c in running.catalog.listColumns(tables.uri(name))}
        for column in table.columns:
            comment = f"{column.comment} [{column.unit}]" if column.unit else column.comment
            found = described[column.name]
            assert (found.description, found.nullable) == (comment, column.nullable)
            assert found.isPartition == (column.name == table.month)
        detail = running.sql(f"DESCRIBE DETAIL {ddl.quoted(tables.uri(name))}").collect()[0]
        assert (detail["format"], detail["description"]) == ("delta", table.comment)
        assert detail["properties"] == ddl.properties(table)
        assert [f.dataType for f in tables.read(name).schema] == [f.dataType for f in table.spark()]


def on_databricks_a_null_is_refused_where_none_may_be(tables: Tables, frame: Any) -> None:
    done = tables.replace(NAME, frame([row(1, JANUARY)]), ["2022-01"])
    null = (None, *row(2, JANUARY)[1:])
    with pytest.raises(TableError, match="must fill every column that is NOT NULL: .*location_id"):
        tables.replace(NAME, frame([null]), ["2022-01"])
    with pytest.raises(TableError, match="must name a month, or none for the whole table"):
        tables.replace(NAME, frame([]), [])
    assert (rows(tables), tables.version(NAME)) == ([row(1, JANUARY)], done.version)


if not delta_spark.RUNNING:
    CASES = [name for name in globals() if name.startswith("on_databricks_")]

    @pytest.mark.long  # a JVM of its own, with Delta's jars
    @pytest.mark.parametrize("case", CASES)
    def test_on_databricks(verdicts: dict[str, Element], case: str) -> None:
        delta_spark.repeat(verdicts[case])
