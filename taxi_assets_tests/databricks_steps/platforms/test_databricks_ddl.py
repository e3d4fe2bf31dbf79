"""The SQL of Unity Catalog tables, as text."""

from __future__ import annotations

import pytest

from databricks_steps import schemas
from databricks_steps.errors import TableError
from databricks_steps.platforms.databricks import ddl
from databricks_steps.schemas import Column, Table
from databricks_steps.settings import Settings

FULL = "p03.e2e_demo_simon.zones"
ZONES = Table(
    "zones",
    "What it's like; a zone\\month.",
    (
        Column("location_id", "int", "TLC zone", nullable=False),
        Column("known_at", "timestamp", "Known then", nullable=False),
        Column("trips", "long", "Trips from here", "trips"),
        Column("fare", "double", "The rider's fare", "dollars"),
        Column("notes", "array<string>", "Notes"),
        Column("computed_at", "timestamp", "When", nullable=False),
        Column("known_month", "string", "Month of known_at", nullable=False),
    ),
    primary_key=("location_id", "known_at"),
    time_key="known_at",
    month="known_month",
    computed=("computed_at",),
    change_data_feed=True,
)

CREATE = r"""
CREATE TABLE IF NOT EXISTS `p03`.`e2e_demo_simon`.`zones` (
  location_id INT NOT NULL COMMENT 'TLC zone',
  known_at TIMESTAMP NOT NULL COMMENT 'Known then',
  trips BIGINT COMMENT 'Trips from here [trips]',
  fare DOUBLE COMMENT 'The rider\'s fare [dollars]',
  notes ARRAY<STRING> COMMENT 'Notes',
  computed_at TIMESTAMP NOT NULL COMMENT 'When',
  known_month STRING NOT NULL COMMENT 'Month of known_at',
  CONSTRAINT zones_pk PRIMARY KEY (location_id, known_at TIMESERIES)
)
USING DELTA
PARTITIONED BY (known_month)
COMMENT 'What it\'s like; a zone\\month.'
TBLPROPERTIES ('delta.enableChangeDataFeed' = 'true', \
'delta.logRetentionDuration' = 'interval 365 days', \
'delta.deletedFileRetentionDuration' = 'interval 365 days')
""".replace("\\\n", "").strip()

MERGE = """
MERGE INTO `p03`.`e2e_demo_simon`.`zones` AS t
USING `changes` AS s
ON t.location_id = s.location_id AND t.known_at = s.known_at AND t.known_month = s.known_month \
AND t.known_month IN ('2022-01', '2022-02')
WHEN MATCHED AND s.is_gone THEN DELETE
WHEN MATCHED THEN UPDATE SET trips = s.trips, fare = s.fare, notes = s.notes, \
computed_at = s.computed_at
WHEN NOT MATCHED AND NOT s.is_gone THEN INSERT \
(location_id, known_at, trips, fare, notes, computed_at, known_month) VALUES \
(s.location_id, s.known_at, s.trips, s.fare, s.notes, s.computed_at, s.known_month)
""".strip()


def test_a_feature_table_of_unity_catalog() -> None:
    assert ddl.create(ZONES, FULL) == CREATE
    assert ddl.tags(ZONES, FULL) == (
        "ALTER TABLE `p03`.`e2e_demo_simon`.`zones` "
        "SET TAGS ('project' = 'taxi-assets', 'kind' = 'features')"
    )


def test_a_catalog_without_keys_and_tags() -> None:
    lines = [line for line in CREATE.split("\n") if "CONSTRAINT" not in line]
    expected = "\n".join(lines).replace("known_at',\n)", "known_at'\n)")
    assert ddl.create(ZONES, FULL, ddl.SESSION_CATALOG) == expected
    assert ddl.tags(ZONES, FULL, ddl.SESSION_CATALOG) is None


def test_an_uncut_table_without_time_key() -> None:
    text = ddl.create(schemas.DEPLOYMENTS, Settings().table("deployments"))
    assert "  CONSTRAINT deployments_pk PRIMARY KEY (number)\n)" in text
    assert "PARTITIONED BY" not in text
    assert "enableChangeDataFeed" not in text
    assert str(ddl.tags(schemas.DEPLOYMENTS, "a.b.c")).endswith("('project' = 'taxi-assets')")


@pytest.mark.parametrize("table", schemas.TABLES.values(), ids=lambda table: table.name)
def test_every_table_has_all_its_columns_and_a_key_without_nulls(table: Table) -> None:
    lines = [line.split() for line in ddl.create(table, "a.b.c").split("\n  ")[1:]]
    assert [words[0] for words in lines] == [*table.names, "CONSTRAINT"]
    required = {words[0] for words in lines if words[2:4] == ["NOT", "NULL"]}
    assert required == {column.name for column in table.columns if not column.nullable}
    assert required >= {*table.primary_key, *([table.month] if table.month else [])}


def test_a_merge_of_months() -> None:
    assert ddl.merge(ZONES, FULL, "changes", ["2022-01", "2022-02"]) == MERGE


def test_an_uncut_table_is_merged_by_its_key_alone() -> None:
    assert "\nON t.trip_id = s.trip_id AND true\n" in ddl.merge(schemas.TRAINING_SET, FULL, "x")


def test_values_differ_by_all_but_keys_and_times_of_computing() -> None:
    assert ddl.same_values(ZONES) == (
        "t.trips <=> s.trips AND t.fare <=> s.fare AND t.notes <=> s.notes"
    )


def test_conditions_of_months() -> None:
    assert ddl.of_months(ZONES, None) == "true"
    assert ddl.of_months(schemas.TRAINING_SET, ["2022-01"]) == "true"
    assert (ddl.of_months(ZONES, []), ddl.of_months(schemas.TRAINING_SET, [])) == ("false", "false")
    assert ddl.of_months(ZONES, ["2022-01"]) == "known_month IN ('2022-01')"


@pytest.mark.parametrize("month", ["2022-13", "2022-1", "2022-01'", "2022-01') OR (true", ""])
def test_only_months_go_into_sql(month: str) -> None:
    with pytest.raises(TableError, match="must be written YYYY-MM: .*For example 2022-01"):
        ddl.of_months(ZONES, ["2022-01", month])


def test_names_are_quoted() -> None:
    assert ddl.quoted("my-catalog.a`b.trips") == "`my-catalog`.`a``b`.`trips`"
