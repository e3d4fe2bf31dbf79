"""What to do about a check: a line for every check there is, and for no other."""

from __future__ import annotations

from taxi_assets.definitions import defs
from taxi_assets.partitions import MONTHS
from taxi_assets.runbook import OTHER, REMEDIES, remedy


def checks() -> set[tuple[str, str]]:
    keys = defs.resolve_asset_graph().asset_check_keys
    return {(key.asset_key.to_user_string(), key.name) for key in keys}


def test_every_check_has_a_remedy_and_every_remedy_a_check() -> None:
    assert checks() == set(REMEDIES)


def test_a_check_is_by_month_where_its_asset_is() -> None:
    monthly = {
        spec.key.to_user_string()
        for spec in defs.resolve_all_asset_specs()
        if spec.partitions_def == MONTHS
    }
    by_month = {(asset, check) for asset, check in checks() if asset in monthly}
    found = {key for key, each in REMEDIES.items() if each.by_month}
    # Whether the month that is due is in is a question of today, in whichever month's run; what
    # cannot be read lies in the folder, whichever month is run.
    assert found == by_month - {("trips", "month_complete"), ("raw_trips", "arrivals.readable")}


def test_a_check_that_is_new_gets_a_general_answer() -> None:
    assert remedy("trips", "tomorrow") is OTHER
    assert all(len(each.text) < 100 for each in REMEDIES.values())
