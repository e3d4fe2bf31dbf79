"""What serves: a loaded model version with its lookups, as one value that answers a request whole.

Nothing is fetched and nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databricks_steps import schemas
from databricks_steps.errors import ModelError
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.inference.scorer import Scorer
from taxi_assets.emulator.runtime.lookups import Lookup
from taxi_assets.emulator.runtime.online_tables import OnlineTables

Document = dict[str, Any]


@dataclass(frozen=True)
class ServedModel:
    """One loaded model version behind one name of the endpoint."""

    name: str
    entity_id: str
    entity_name: str
    entity_version: str
    scorer: Scorer
    tables: OnlineTables
    lookups: tuple[Lookup, ...]
    order: tuple[int, ...]  # the model's inputs among the request's and the lookups' features


def load(config: Document, folder: Callable[[str, str], Path], tables: OnlineTables) -> ServedModel:
    """The served entity of a configuration; `folder` finds the files of a name and version.

    Raises:
        ModelError: the version is missing or cannot be served.
    """
    (entity,) = config["served_entities"]
    name, version = entity["entity_name"], entity["entity_version"]
    scorer = Scorer.load(folder(name, version))
    lookups = tuple(Lookup(wanted) for wanted in scorer.spec.lookups)
    order = _order(scorer.spec)
    return ServedModel(entity["name"], entity["id"], name, version, scorer, tables, lookups, order)


def _order(spec: FeatureSpec) -> tuple[int, ...]:
    names = [column.name for column in schemas.REQUEST_FEATURES]
    for lookup in spec.lookups:
        names += lookup.features
    unknown = set(spec.inputs) - set(names)
    if unknown:
        raise ModelError(
            "Every input of a served model is looked up or requested",
            sorted(unknown),
            "Train and log it again",
        )
    return tuple(names.index(name) for name in spec.inputs)
