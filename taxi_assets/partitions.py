"""How assets are cut: by month, of the months that a home holds, a range of months in one run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import dagster as dg

from databricks_steps.months import between, is_month

NAME = "months"  # of the dynamic partitions in a Dagster instance
MONTHS = dg.DynamicPartitionsDefinition(name=NAME)
ONE_RUN = dg.BackfillPolicy.single_run()
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
PARTITION_TAG = "dagster/partition"
MONTHS_TAG = "taxi_assets/months"  # of a run that travels to a cluster: exactly these


def hold(instance: dg.DagsterInstance, months: Iterable[str], gone: Collection[str] = ()) -> None:
    """Let the instance's partitions be those it has and these, without those gone.

    They are put in calendar order: Dagster keeps dynamic partitions as they were added, and takes
    ranges by that order. Killed in between, months are missing until they are held once more.
    """
    known = list(instance.get_dynamic_partitions(NAME))
    wanted = sorted({*known, *months} - {*gone})
    same = 0
    while same < min(len(known), len(wanted)) and known[same] == wanted[same]:
        same += 1
    for month in known[same:]:
        instance.delete_dynamic_partition(NAME, month)
    if wanted[same:]:
        instance.add_dynamic_partitions(NAME, wanted[same:])


def is_in_order(instance: dg.DagsterInstance) -> bool:
    """Whether the partitions are in calendar order; the UI adds a new one behind the others."""
    known = list(instance.get_dynamic_partitions(NAME))
    return known == sorted(known)


def month_range(tags: Mapping[str, str]) -> str:
    """The months of a run's tags as `2022-01` or `2022-01:2022-03`; empty without any."""
    return ":".join(sorted({tags[tag] for tag in RANGE_TAGS if tag in tags}))


def run_months(
    tags: Mapping[str, str], instance: dg.DagsterInstance | None = None
) -> tuple[str, ...] | None:
    """The months a run is for, from its tags; None for a run without partitions.

    A range is that of the calendar; given the instance, without months that are no partitions
    there: who takes all partitions in the UI means no month between them that is not held.
    Unpartitioned assets in such a run (the training set, the model) need them, too.
    """
    if MONTHS_TAG in tags:
        return tuple(tags[MONTHS_TAG].split(","))
    if PARTITION_TAG in tags:
        return (tags[PARTITION_TAG],)
    ends = sorted(tags[tag] for tag in RANGE_TAGS if tag in tags)
    if len(ends) < len(RANGE_TAGS):
        return None
    if not all(map(is_month, ends)):
        return tuple(ends)  # refused as they are, by the step
    known = instance.get_dynamic_partitions(NAME) if instance is not None else ()
    months = between(*ends)
    return tuple(month for month in months if month in known) or months


def without(
    instance: dg.DagsterInstance, assets: Sequence[str], months: Collection[str], why: str
) -> None:
    """Record that assets have no rows for months, where nothing was ever recorded of these."""
    for asset in assets:
        key = dg.AssetKey(asset)
        for month in sorted({*months} - instance.get_materialized_partitions(key)):
            event = dg.AssetMaterialization(
                key, partition=month, metadata={"dagster/row_count": 0, "why": why}
            )
            instance.report_runless_asset_event(event)
