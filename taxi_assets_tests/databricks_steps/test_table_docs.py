"""The page of tables says what schemas.py says."""

from __future__ import annotations

from databricks_steps import schemas, table_docs


def test_the_page_is_as_schemas_would_write_it() -> None:
    assert table_docs.PAGE.read_text(encoding="utf-8") == table_docs.page(), (
        "docs/tables.md is old: run python -m databricks_steps.table_docs"
    )


def test_every_column_of_every_table_is_on_it() -> None:
    sections = table_docs.page().split("\n## ")[1:]
    assert [s.partition("`\n")[0].strip("`") for s in sections] == list(schemas.TABLES)
    for section, table in zip(sections, schemas.TABLES.values(), strict=True):
        lines = [line for line in section.splitlines() if line.startswith("| `")]
        assert [line.split("`")[1] for line in lines] == list(table.names)


def test_keys_units_defaults_and_nulls_are_told() -> None:
    page = table_docs.page({"pickup_features": schemas.PICKUP_FEATURES})
    assert (
        "Primary key: `location_id`, `known_at`; time key: `known_at`; "
        "one partition a month, by `known_month`; change data feed." in page
    )
    assert "| `pickup_mean_fare_1h` | double | dollars | yes | 15 | Mean fare, last hour |" in page
    assert (
        "| `pickup_trip_count_1h` | long | trips | yes | 0 | Trips from here, last hour |" in page
    )
    assert "| `location_id` | int |  | no |  | TLC taxi zone, or a zip code |" in page
