"""The page `docs/tables.md`, written from schemas.py: `python -m databricks_steps.table_docs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from databricks_steps import schemas
from databricks_steps.settings import REPOSITORY

PAGE = REPOSITORY / "docs" / "tables.md"
INTRODUCTION = """\
# Tables

Written from `databricks_steps/schemas.py` by `python -m databricks_steps.table_docs`; a test
holds the two together. Times are New York wall clock as published, unless a comment says UTC.
A *default* is what a lookup answers when a feature is unknown or too old.
"""


def page(tables: Mapping[str, schemas.Table] = schemas.TABLES) -> str:
    """The whole page as Markdown."""
    return "\n".join([INTRODUCTION, *("\n".join(_section(t)) for t in tables.values())])


def _section(table: schemas.Table) -> Iterator[str]:
    yield f"## `{table.name}`\n"
    yield f"{table.comment}\n"
    facts = [f"Primary key: {_names(table.primary_key)}"]
    if table.time_key:
        facts.append(f"time key: {_names([table.time_key])}")
    if table.month:
        facts.append(f"one partition a month, by {_names([table.month])}")
    if table.change_data_feed:
        facts.append("change data feed")
    yield "; ".join(facts) + ".\n"
    yield "| column | type | unit | null | default | what |"
    yield "|---|---|---|---|---|---|"
    for c in table.columns:
        default = "" if c.default is None else f"{c.default:g}"
        null = "yes" if c.nullable else "no"
        yield f"| `{c.name}` | {c.type} | {c.unit} | {null} | {default} | {c.comment} |"
    yield ""


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
