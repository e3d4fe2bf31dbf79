"""Kinds of trips, by what is published of them: how their fare came about."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import Column

METERED, NEGOTIATED, FLAT, BLOCK = "metered", "negotiated", "flat", "block"
_AGREED, _FLAT_RATES = 5, (2, 3, 6)  # rate codes: negotiated; JFK, Newark, group


def kind() -> Column:
    """`passenger_count` and `rate_code_id` of a trip → its kind.

    `block` is the rows that lack passengers, rate code and trip type together; their fares are
    a mixture.
    """
    from pyspark.sql import functions as F

    code = F.col("rate_code_id")
    return (
        F.when(F.col("passenger_count").isNull(), BLOCK)
        .when(code == _AGREED, NEGOTIATED)
        .when(code.isin(*_FLAT_RATES), FLAT)
        .otherwise(METERED)
    )
