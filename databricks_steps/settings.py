"""Settings of the steps: names, limits and parameters; the one reader of the environment here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from databricks_steps.errors import SettingsError

LOOPBACK = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Forest:
    """Parameters of the scikit-learn random forest: its own names, but for `rows_per_tree`."""

    n_estimators: int = 40
    min_samples_leaf: int = 8
    max_features: float = 0.8
    rows_per_tree: int = 40_000  # bounds the cost of a tree however many months there are
    random_state: int = 20220131
    n_jobs: int = -1

    def params(self, rows: int) -> dict[str, Any]:
        """The forest's arguments for so many training rows."""
        given = {name: value for name, value in vars(self).items() if name != "rows_per_tree"}
        return {**given, "max_samples": min(self.rows_per_tree, rows)}


@dataclass(frozen=True)
class Settings:
    """Everything a step may depend on besides its input tables. Frozen: pass `replace`d copies."""

    home: Path = REPOSITORY / ".taxi"
    port: int = 8200
    catalog: str = "p03"
    schema: str = "e2e_demo_simon"
    model: str = "dev_mlops_stacks_gcp_fs_model"
    endpoint: str = "mlops-taxi-fare-endpoint"
    payload_prefix: str = "taxi_fare_endpoint"
    online_store: str = "taxi-online-store"
    experiment: str = "taxi-fare"
    source: str = "demo"
    spark_master: str = "local[*]"
    driver_memory: str = "3g"
    lookback_days: int = 7
    trailing_months: int = 3
    holdout_share: float = 0.2
    max_training_rows: int = 2_000_000
    forest: Forest = field(default_factory=Forest)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings with the `TAXI_…` variables applied.

        Raises:
            SettingsError: a variable holds a value that cannot be used.
        """
        env = os.environ if environment is None else environment
        names = {
            "catalog": "TAXI_CATALOG",
            "schema": "TAXI_SCHEMA",
            "source": "TAXI_SOURCE",
            "model": "TAXI_MODEL",
            "endpoint": "TAXI_ENDPOINT",
            "spark_master": "TAXI_SPARK_MASTER",
            "driver_memory": "TAXI_DRIVER_MEMORY",
        }
        changes: dict[str, Any] = {key: env[name] for key, name in names.items() if env.get(name)}
        if env.get("TAXI_HOME"):
            changes["home"] = Path(env["TAXI_HOME"]).expanduser().resolve()
        elif not (REPOSITORY / "pyproject.toml").exists():  # installed as a wheel
            changes["home"] = Path.cwd() / ".taxi"
        if env.get("TAXI_PORT"):
            changes["port"] = _port(env["TAXI_PORT"])
        return replace(cls(), **changes)

    def table(self, name: str) -> str:
        """Three-level name of a table: `pickup_features` → `p03.e2e_demo_simon.pickup_features`."""
        return f"{self.catalog}.{self.schema}.{name}"

    @property
    def registered_model(self) -> str:
        """Three-level name of the registered model, as Unity Catalog wants it."""
        return self.table(self.model)

    @property
    def payload_table(self) -> str:
        return f"{self.payload_prefix}_payload"

    @property
    def warehouse(self) -> Path:
        return self.home / "warehouse"

    def table_path(self, name: str) -> Path:
        """Folder of an embedded Delta table, by its short or three-level name."""
        full = name if name.count(".") == 2 else self.table(name)
        return self.warehouse.joinpath(*full.split("."))

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.home / "mlartifacts"

    @property
    def token_file(self) -> Path:
        return self.home / "token"

    @property
    def host(self) -> str:
        """Address of the embedded workspace."""
        return f"http://{LOOPBACK}:{self.port}"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1024 <= int(text) <= 65535:
        raise SettingsError(
            "TAXI_PORT must be a whole number from 1024 to 65535",
            repr(text),
            "Set it to a free port, or unset it for 8200",
        )
    return int(text)


def java_home() -> str | None:
    """The JAVA_HOME that Spark's own start script would use."""
    return os.environ.get("JAVA_HOME") or None


def spark_environment(python: str, address: str | None) -> None:
    """Where Spark's launcher and workers look: this Python, and the driver's own address.

    Workers would otherwise run whichever `python3` is first on PATH.
    """
    os.environ["PYSPARK_PYTHON"] = python
    os.environ["PYSPARK_DRIVER_PYTHON"] = python
    if address is not None:
        os.environ.setdefault("SPARK_LOCAL_IP", address)
