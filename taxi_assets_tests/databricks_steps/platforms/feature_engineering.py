"""A stand-in for `databricks.feature_engineering`, whose licence keeps it from this machine.

Written from its documented signatures: every argument is keyword-only, and one that the client
does not know is refused. What it logs has the client's layout: the model inside its lookups. What
serves it is as strict on types as an endpoint: `answered`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NAME = "databricks.feature_engineering"


@dataclass(frozen=True, kw_only=True)
class FeatureLookup:
    table_name: str
    lookup_key: str | Sequence[str]
    feature_names: Sequence[str] | None = None
    rename_outputs: Mapping[str, str] = field(default_factory=dict)
    timestamp_lookup_key: str | None = None
    lookback_window: timedelta | None = None
    default_values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    df: DataFrame
    feature_lookups: Sequence[FeatureLookup]
    label: str
    exclude_columns: Sequence[str]


@dataclass
class FeatureEngineeringClient:
    """Keeps the training sets it was asked for, newest last."""

    training_sets: list[TrainingSet] = field(default_factory=list)

    def create_training_set(
        self,
        *,
        df: DataFrame,
        feature_lookups: Sequence[FeatureLookup],
        label: str,
        exclude_columns: Sequence[str] = (),
    ) -> TrainingSet:
        made = {name for lookup in feature_lookups for name in lookup.feature_names or ()}
        needed = {lookup.timestamp_lookup_key for lookup in feature_lookups} | {label}
        needed |= {str(lookup.lookup_key) for lookup in feature_lookups}
        if missing := {str(name) for name in needed} - set(df.columns):
            raise ValueError(f"the frame lacks {sorted(missing)}")
        if both := made & set(df.columns):
            raise ValueError(f"the frame holds looked-up features: {sorted(both)}")
        found = TrainingSet(
            df=df, feature_lookups=feature_lookups, label=label, exclude_columns=exclude_columns
        )
        self.training_sets.append(found)
        return found

    def log_model(
        self,
        *,
        model: Any,
        artifact_path: str,
        flavor: ModuleType,
        training_set: TrainingSet,
        registered_model_name: str | None = None,
        await_registration_for: int = 300,
        infer_input_example: bool = False,
        **arguments: Any,
    ) -> None:
        """Save the model by its flavor, which takes the other arguments, and log it wrapped."""
        import mlflow

        assert training_set in self.training_sets
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "feature_store"
            flavor.save_model(model, str(data / "raw_model"), **arguments)
            mlflow.pyfunc.log_model(
                name=artifact_path,
                loader_module="databricks.feature_store.mlflow_model",
                data_path=str(data),
                registered_model_name=registered_model_name,
                await_registration_for=await_registration_for,
                pip_requirements=["mlflow"],
            )


def answered(raw_model: Path, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """What an endpoint of Databricks answers to rows of requests with their looked-up features.

    Its server hands rows on as dicts and makes a frame of them: every integer is of 64 bits then,
    and of a column that held a null a float. The raw model takes it as MLflow loads it.
    """
    import mlflow
    import pandas as pd

    fares = mlflow.pyfunc.load_model(str(raw_model)).predict(pd.DataFrame(list(rows)))
    return [float(fare) for fare in fares]


@contextmanager
def installed() -> Iterator[FeatureEngineeringClient]:
    """The stand-in in place of the module, with the one client that everybody gets."""
    client = FeatureEngineeringClient()
    module = ModuleType(NAME)
    module.FeatureLookup = FeatureLookup  # type: ignore[attr-defined]
    module.FeatureEngineeringClient = lambda: client  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, NAME, module)
        yield client
