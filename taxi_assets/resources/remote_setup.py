"""What a launched step finds on its cluster: environment and secrets. Travels in the wheel.

It is unpickled there before anything of Dagster's integrations could be imported: they are not on
the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RemoteSetup:
    """Variables to set, and (variable, scope, key) of secrets that the cluster reads itself."""

    variables: Mapping[str, str]
    secrets: Sequence[tuple[str, str, str]] = ()

    def setup(self, dbutils: Any, sc: Any) -> None:
        """Called by the launcher's main file with the cluster's own `dbutils` and `sc`."""
        from taxi_assets.resources.targets import export

        export(self.variables)
        for name, scope, key in self.secrets:
            export({name: dbutils.secrets.get(scope=scope, key=key)})
