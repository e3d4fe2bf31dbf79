"""What a shell completes: the months held, the registered versions, the scenarios.

Read from what this machine holds. A home that cannot be read, or a Databricks target, which would
have to be asked over the network at each press of a key, completes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click

from databricks_steps.errors import TaxiError
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.resources.targets import target

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _of_home(found: Callable[[Settings], Iterable[str]]) -> Completer:
    def completer(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
        try:
            settings = target(context.params.get("target_name")).settings
            if settings.platform == DATABRICKS or not settings.home.is_dir():
                return []
            return [each for each in found(settings) if each.startswith(begun)]
        except (TaxiError, OSError):
            return []

    return completer


def _months(settings: Settings) -> Iterable[str]:
    from taxi_assets.status import logs

    return logs(settings).months("raw_trips")


def _versions(settings: Settings) -> Iterable[str]:
    from databricks_steps.training import registry

    return registry.numbers(settings)


months, versions = _of_home(_months), _of_home(_versions)


def scenarios(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The scenarios of the lab."""
    from databricks_steps.trips.scenarios import SCENARIOS

    return [name for name in SCENARIOS if name.startswith(begun)]
