"""`taxi-assets doctor`: what must be right before a run; it looks, and changes nothing.

This machine's checks always, then its home's or its workspace's.
"""

from __future__ import annotations

from collections.abc import Mapping

from databricks_steps.settings import DATABRICKS
from taxi_assets.doctor import databricks, machine
from taxi_assets.doctor.findings import Check, Finding, look
from taxi_assets.resources.targets import Target

__all__ = ["Finding", "checks", "examined"]


def checks(target: Target, deep: bool = False) -> Mapping[str, Check]:
    """The checks of a target, in the order in which they are told; `deep` reads a home's files."""
    own = machine.checks(target.settings)
    if target.settings.platform == DATABRICKS:
        return {**own, **databricks.checks(target, deep)}
    from taxi_assets.doctor import contents, home  # the emulator is no part of the wheel

    read = contents.checks(target.settings) if deep else {}
    return {**own, **home.checks(target.settings), **read}


def examined(target: Target, deep: bool = False) -> list[Finding]:
    """What every check of the target found."""
    return look(checks(target, deep))
