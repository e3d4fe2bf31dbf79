"""What serves: loaded model versions with their lookups, as one value that answers a request whole.

Nothing is fetched and nothing is kept here.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from databricks_steps import schemas
from databricks_steps.errors import ModelError
from databricks_steps.inference.feature_spec import FeatureSpec
from databricks_steps.inference.scorer import Scorer
from taxi_assets.emulator import errors
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


@dataclass(frozen=True)
class Serving:
    """What answers requests: the models with traffic and the first percentage above their share.

    `all` holds those without traffic too.
    """

    models: tuple[ServedModel, ...]
    bounds: tuple[int, ...]
    all: tuple[ServedModel, ...]

    def route(self, request_id: str) -> ServedModel:
        """The model for a request; the same id gets the same one."""
        if len(self.models) == 1:
            return self.models[0]
        place = zlib.crc32(request_id.encode()) % 100
        return next(m for m, bound in zip(self.models, self.bounds, strict=True) if place < bound)

    def named(self, name: str) -> ServedModel:
        """One of the served models, whatever its share of the traffic.

        Raises:
            ApiError: there is none of that name.
        """
        for model in self.all:
            if model.name == name:
                return model
        raise errors.missing("Served model", name[:80], f"One of {[m.name for m in self.all]}")


def load(config: Document, folder: Callable[[str, str], Path], tables: OnlineTables) -> Serving:
    """The served entities of a configuration; `folder` finds the files of a name and version.

    Raises:
        ModelError: a version is missing or cannot be served.
    """
    loaded: dict[str, ServedModel] = {}
    for entity in config["served_entities"]:
        name, version = entity["entity_name"], entity["entity_version"]
        scorer = Scorer.load(folder(name, version))
        loaded[entity["name"]] = ServedModel(
            entity["name"],
            entity["id"],
            name,
            version,
            scorer,
            tables,
            tuple(Lookup(wanted) for wanted in scorer.spec.lookups),
            _order(scorer.spec),
        )
    routes = [r for r in config["traffic_config"]["routes"] if r["traffic_percentage"]]
    bounds = [0]
    for route in routes:
        bounds.append(bounds[-1] + route["traffic_percentage"])
    return Serving(
        tuple(loaded[route["served_model_name"]] for route in routes),
        tuple(bounds[1:]),
        tuple(loaded.values()),
    )


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
