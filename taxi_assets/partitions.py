"""How assets are cut: by month, back to TLC's first, a range of months in one run."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from databricks_steps.months import FIRST

MONTHS = dg.MonthlyPartitionsDefinition(start_date=FIRST, fmt="%Y-%m")
ONE_RUN = dg.BackfillPolicy.single_run()
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
PARTITION_TAG = "dagster/partition"


def month_range(tags: Mapping[str, str]) -> str:
    """The months of a run's tags as `2022-01` or `2022-01:2022-03`; empty without any."""
    return ":".join(sorted({tags[tag] for tag in RANGE_TAGS if tag in tags}))


def run_months(tags: dict[str, str]) -> tuple[str, ...] | None:
    """The months a run is for, from its tags; None for a run without partitions.

    Unpartitioned assets in such a run (the training set, the model) need them too.
    """
    first, last = (tags.get(tag) for tag in RANGE_TAGS)
    if first and last:
        return tuple(MONTHS.get_partition_keys_in_range(dg.PartitionKeyRange(first, last)))
    return (tags[PARTITION_TAG],) if PARTITION_TAG in tags else None
