"""The schema of `schemas.py` as Delta's own, with comments and units as field metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from databricks_steps import schemas

if TYPE_CHECKING:
    from deltalake import Schema


def delta_schema(table: schemas.Table) -> Schema:
    """Columns with type, nullability and comment, as any Delta reader sees them."""
    from deltalake import Field, Schema
    from deltalake.schema import ArrayType, PrimitiveType

    kinds: dict[str, PrimitiveType | ArrayType] = {
        "int": PrimitiveType("integer"),
        "array<string>": ArrayType(PrimitiveType("string"), contains_null=True),
    }
    fields = []
    for column in table.columns:
        kind = kinds.get(column.type) or PrimitiveType(column.type)
        comment = f"{column.comment} [{column.unit}]" if column.unit else column.comment
        fields.append(
            Field(column.name, kind, nullable=column.nullable, metadata={"comment": comment})
        )
    return Schema(fields)
