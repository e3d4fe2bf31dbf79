"""Settings of the steps: names, limits and parameters; the one reader of the environment here."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from databricks_steps.errors import SettingsError

_LOG = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
EMBEDDED, DATABRICKS = "embedded", "databricks"
PLATFORMS = (EMBEDDED, DATABRICKS)
SAIL = "sail"
JVM = "local[*]"  # Spark in a JVM of this machine
CONNECT = "sc://"  # a Spark Connect server, of Spark or of Sail
ENGINES = ("local", "spark://", CONNECT, "yarn", "k8s://")  # how TAXI_SPARK begins but for Sail
EMULATED = "TAXI_EMULATED"  # set for a task of the emulator: the home its Unity Catalog is in
RUNTIME = "DATABRICKS_RUNTIME_VERSION"  # Databricks sets it on every cluster
STAGING_VOLUME = "dagster_staging"  # the volume of launched steps and of what a step keeps in files
DEMO = "demo"  # the source of trips that are made up
LANDING = "landing"  # the volume that trips arrive in
MOST_DELAY_DAYS = 3_650
_SPEAKS_CONNECT = "SPARK_CONNECT_MODE_ENABLED"  # PySpark's, once a session of Connect was made
REPOSITORY = Path(__file__).resolve().parents[1]

# Names the workspace's buffer in the log of a payload table, with the buffer's identity behind it.
BATCHES = "taxi-workspace-batches-"


@dataclass(frozen=True)
class Forest:
    """Parameters of the scikit-learn random forest: its own names, but for `rows_per_tree`."""

    n_estimators: int = 40
    min_samples_leaf: int = 5
    max_features: float = 0.5
    rows_per_tree: int = 60_000  # bounds the cost of a tree however many months there are
    random_state: int = 20220131
    n_jobs: int = -1

    def params(self, rows: int) -> dict[str, Any]:
        """The forest's arguments for so many training rows."""
        given = {name: value for name, value in vars(self).items() if name != "rows_per_tree"}
        return {**given, "max_samples": min(self.rows_per_tree, rows)}


@dataclass(frozen=True)
class Boosting:
    """Parameters of scikit-learn's histogram boosting, by its names; a booster a quantile."""

    quantiles: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    max_iter: int = 200
    learning_rate: float = 0.1
    max_leaf_nodes: int = 31
    min_samples_leaf: int = 20
    random_state: int = 20220131

    def params(self, rows: int) -> dict[str, Any]:
        """The boosters' arguments, whatever the number of training rows."""
        return dict(vars(self))


ESTIMATORS: Mapping[str, type[Forest | Boosting]] = {"forest": Forest, "boosting": Boosting}


@dataclass(frozen=True)
class Metric:
    """One measure of error on the holdout; `better` is `low`, `high`, or `zero` for the nearest."""

    name: str
    unit: str
    better: str
    comment: str


METRICS = (
    Metric("rmse", "dollars", "low", "Root of the mean squared error"),
    Metric("mae", "dollars", "low", "Mean absolute error"),
    Metric("r2", "", "high", "Share of the fares' variance that is explained"),
    Metric("mape", "", "low", "Mean absolute error as a share of the fare"),
    Metric("within_2_dollars", "", "high", "Share of fares met within 2 dollars"),
    Metric("p90_absolute_error", "dollars", "low", "Nine of ten errors are no larger"),
    Metric("bias", "dollars", "zero", "Mean of predicted less paid"),
)


@dataclass(frozen=True)
class Slicing:
    """One way to cut the holdout: a column by its values, or in bands between `bounds`.

    `limit` is the share of the champion's RMSE by which the candidate's may be larger.
    """

    name: str
    column: str
    limit: float
    unit: str = ""
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Gate:
    """What a candidate must show before it may become champion."""

    beat: tuple[str, ...] = ("rmse", "r2")  # better than every baseline in each of these
    resamples: int = 1_000  # of the paired bootstrap
    confidence: float = 0.95
    onnx_parity: float = 0.01  # dollars between the graph's and the pipeline's fares
    slice_rows: int = 200  # smaller slices are shown, not judged
    slicings: tuple[Slicing, ...] = (
        Slicing("borough", "pickup_borough", 0.15),
        Slicing("hour", "pickup_hour", 0.10, "h", (6, 10, 16, 20)),
        Slicing("distance", "trip_distance", 0.10, "miles", (1, 2, 5, 10)),
        Slicing("airport", "pickup_is_airport", 0.15),
        Slicing("kind", "kind", 0.15),
    )


@dataclass(frozen=True)
class Interval:
    """The fare interval: between which quantiles of the trees, and what share it must cover."""

    low: float = 0.1
    high: float = 0.9
    floor: float = 0.1  # dollars: the least spread of the trees that is believed


NAMES = {  # setting → variable, where the text is the value
    "catalog": "TAXI_CATALOG",
    "schema": "TAXI_SCHEMA",
    "source": "TAXI_SOURCE",
    "model": "TAXI_MODEL",
    "endpoint": "TAXI_ENDPOINT",
    "online_store": "TAXI_ONLINE_STORE",
    "experiment": "TAXI_EXPERIMENT",
    "git_commit": "TAXI_GIT_COMMIT",
    "zones": "TAXI_ZONES",
    "tracking": "TAXI_TRACKING_URI",
    "spark": "TAXI_SPARK",
    "driver_memory": "TAXI_DRIVER_MEMORY",
}
KEPT = {  # how long a home keeps what
    "keep_runs": "TAXI_KEEP_RUNS",
    "keep_requests": "TAXI_KEEP_REQUESTS",
    "keep_files": "TAXI_KEEP_FILES",
}
MOST_KEPT = 1_000_000


class Number(NamedTuple):
    """A setting that is a whole number: its variable, its bounds, what to set it to."""

    variable: str
    least: int
    most: int
    remedy: str

    def read(self, env: Mapping[str, str]) -> int:
        text = env[self.variable]
        if not text.isascii() or not text.isdigit() or not self.least <= int(text) <= self.most:
            rule = f"{self.variable} must be a whole number from {self.least} to {self.most}"
            raise SettingsError(rule, repr(text), self.remedy)
        return int(text)


NUMBERS = {
    "port": Number("TAXI_PORT", 1024, 65535, "Set it to a free port, or unset it for 8200"),
    "feature_delay_days": Number(
        "TAXI_FEATURE_DELAY",
        0,
        MOST_DELAY_DAYS,
        "Set it to 0 for a live feed, or unset it for 60 days, TLC's publication",
    ),
    **{
        setting: Number(name, 0, MOST_KEPT, "Set it to 0 to keep all, or unset it")
        for setting, name in KEPT.items()
    },
}
ESTIMATOR = "TAXI_ESTIMATOR"
_OLD_SPARK = "TAXI_SPARK_MASTER"  # the name of TAXI_SPARK up to version 0.1


@dataclass(frozen=True)
class Settings:
    """Everything a step may depend on besides its input tables. Frozen: pass `replace`d copies."""

    home: Path = REPOSITORY / ".taxi"
    platform: str = EMBEDDED
    port: int = 8200
    catalog: str = "p03"
    schema: str = "e2e_demo_simon"
    model: str = "dev_mlops_stacks_gcp_fs_model"
    endpoint: str = "mlops-taxi-fare-endpoint"
    payload_prefix: str = "taxi_fare_endpoint"
    online_store: str = "taxi-online-store"
    experiment: str = "taxi-fare"
    tracking: str = ""  # address of MLflow; empty: the platform's own
    source: str = DEMO
    zones: str = ""  # a GeoJSON of taxi zones, for the maps of reports
    git_commit: str = ""  # of the code, where it runs without its repository
    spark: str = SAIL  # the engine: Sail, a master of Spark, or a Spark Connect server
    driver_memory: str = "3g"  # of Sail, or of Spark's driver
    lookback_days: int = 7
    feature_delay_days: int = 60  # how old features are when a ride asks: until trips are published
    trailing_months: int = 3
    holdout_share: float = 0.2
    max_training_rows: int = 2_000_000
    estimator: Forest | Boosting = field(default_factory=Forest)
    gate: Gate = field(default_factory=Gate)
    interval: Interval = field(default_factory=Interval)
    scale_to_zero: bool = True  # the endpoint, when nobody asks: the first to ask then waits
    require_approval: bool = False  # a person's word on a version before it becomes champion
    # What a home keeps; 0: for ever.
    keep_runs: int = 100  # newest runs in Dagster's records
    keep_requests: int = 30  # days of captured requests
    keep_files: int = 30  # days of a table's replaced data files

    def __post_init__(self) -> None:
        # A trip still in the longest window must be known, or no_future_knowledge could not tell.
        if self.lookback_days < 7:
            raise SettingsError(
                "lookback_days must cover the longest window, 7 days",
                self.lookback_days,
                "Set it to 7 or more",
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings with the `TAXI_…` variables applied.

        Raises:
            SettingsError: a variable holds a value that cannot be used.
        """
        env = os.environ if environment is None else environment
        changes: dict[str, Any] = {key: env[name] for key, name in NAMES.items() if env.get(name)}
        if env.get("TAXI_HOME"):
            changes["home"] = _home(env["TAXI_HOME"])
        elif not (REPOSITORY / "pyproject.toml").exists():  # installed as a wheel
            changes["home"] = _home(str(Path.cwd() / ".taxi"))
        else:
            _home(str(cls.home))
        changes["platform"] = _platform(env)
        if changes["platform"] == EMBEDDED:
            changes["spark"] = _engine(env.get(NAMES["spark"]) or env.get(_OLD_SPARK) or SAIL)
        if env.get(RUNTIME) and changes["platform"] == DATABRICKS and not env.get("TAXI_HOME"):
            changes["home"] = replace(cls(), **changes).volume_home
        for setting, number in NUMBERS.items():
            if env.get(number.variable):
                changes[setting] = number.read(env)
        if env.get(ESTIMATOR):
            changes["estimator"] = _estimator(env[ESTIMATOR])
        if env.get("TAXI_REQUIRE_APPROVAL"):
            changes["require_approval"] = _flag("TAXI_REQUIRE_APPROVAL", env)
        if env.get("TAXI_SCALE_TO_ZERO"):
            changes["scale_to_zero"] = _flag("TAXI_SCALE_TO_ZERO", env)
        return replace(cls(), **changes)

    def to_environment(self) -> dict[str, str]:
        """The variables from which another process makes these settings."""
        named = {variable: str(getattr(self, name)) for name, variable in NAMES.items()}
        if self.platform == DATABRICKS:
            del named[NAMES["spark"]]  # a cluster brings its own
        return {name: text for name, text in named.items() if text} | {
            "TAXI_HOME": str(self.home),
            "TAXI_PLATFORM": self.platform,
            ESTIMATOR: estimator_name(self.estimator),
            "TAXI_REQUIRE_APPROVAL": str(self.require_approval).lower(),
            "TAXI_SCALE_TO_ZERO": str(self.scale_to_zero).lower(),
            **{each.variable: str(getattr(self, name)) for name, each in NUMBERS.items()},
        }

    @property
    def in_jvm(self) -> bool:
        """Whether this process drives a JVM: neither Sail nor a Spark Connect server."""
        return self.spark != SAIL and not self.spark.startswith(CONNECT)

    @property
    def engine(self) -> str:
        """The engine as people read it: without the token that a Spark Connect address may hold."""
        return self.spark.partition("/;")[0]

    @property
    def features_are_served(self) -> bool:
        """Whether a ride can meet a feature at all: one older than the lookback is not used."""
        return self.feature_delay_days <= self.lookback_days

    @property
    def lookup_delay(self) -> timedelta:
        """How long before the pickup a row must be known to be looked up.

        Where rides meet no feature, none: what the tables tell is then watched, not learned.
        """
        return timedelta(days=self.feature_delay_days if self.features_are_served else 0)

    def table(self, name: str) -> str:
        """Three-level name of a table: `pickup_features` → `p03.e2e_demo_simon.pickup_features`."""
        return f"{self.catalog}.{self.schema}.{name}"

    @property
    def registered_model(self) -> str:
        """Three-level name of the registered model, as Unity Catalog wants it."""
        return self.table(self.model)

    @property
    def volume_home(self) -> Path:
        """The home of steps on Databricks: files that every node of a cluster can read."""
        return Path("/Volumes", self.catalog, self.schema, STAGING_VOLUME, "home")

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
        """Where MLflow tracks."""
        own = "databricks" if self.platform == DATABRICKS else f"sqlite:///{self.home}/mlflow.db"
        return self.tracking or own

    @property
    def registry_uri(self) -> str:
        """Where MLflow registers models: on Databricks in Unity Catalog."""
        own = "databricks-uc" if self.platform == DATABRICKS else self.mlflow_uri
        return self.tracking or own

    @property
    def artifacts(self) -> Path:
        return self.home / "mlartifacts"

    @property
    def token_file(self) -> Path:
        return self.home / "token"

    @property
    def workspace_file(self) -> Path:
        """What the emulator of this home says of itself: process and port, as JSON."""
        return self.home / "workspace.json"

    @property
    def host(self) -> str:
        """Address of the emulator."""
        return f"http://{LOOPBACK}:{self.port}"


def _platform(env: Mapping[str, str]) -> str:
    """The platform the environment names: a Databricks cluster is known by its runtime."""
    found = env.get("TAXI_PLATFORM") or (DATABRICKS if env.get(RUNTIME) else EMBEDDED)
    if found not in PLATFORMS:
        raise SettingsError(
            "TAXI_PLATFORM must be a platform", repr(found), f"Use one of: {', '.join(PLATFORMS)}"
        )
    return found


def _home(text: str) -> Path:
    """A folder of this machine, whose path every library takes for what it is.

    Sail takes one with * ? [ ] { } for a pattern and writes nothing there, MLflow decodes %2F.
    """
    told = text.encode(errors="backslashreplace").decode()[:200]
    bad = sorted(set("*?[]{}%") & set(text))
    if bad or not text.isprintable():
        raise SettingsError(
            "TAXI_HOME must have none of * ? [ ] { } % in its path, nor what cannot be printed",
            repr(told),
            "Choose another folder",
        )
    if re.match(r"[A-Za-z][\w+.-]+:/", text):
        raise SettingsError(
            "TAXI_HOME must be a folder of this machine", repr(told), "Choose a local folder"
        )
    try:
        path = Path(text).expanduser().resolve()
        above = next(folder for folder in (path, *path.parents) if folder.exists())
    except (OSError, RuntimeError) as error:
        raise SettingsError(
            "TAXI_HOME must be a folder that can be reached",
            f"{told}: {getattr(error, 'strerror', None) or error}",
            "Choose another folder",
        ) from error
    if not above.is_dir():
        what = "it is a file" if above == path else f"{above} is a file"
        raise SettingsError("TAXI_HOME must be a folder", f"{told}: {what}", "Choose another one")
    return path


def _engine(text: str) -> str:
    """The engine that the environment names, or Spark in a JVM where Sail has no wheel."""
    if text != SAIL and not text.startswith(ENGINES):
        raise SettingsError(
            "TAXI_SPARK must be an engine",
            repr(text),
            f"Use {SAIL}, {JVM} (Spark in a JVM), spark://HOST:PORT or {CONNECT}HOST:PORT",
        )
    if text == SAIL and find_spec("pysail") is None:
        _tell_of_no_sail()
        return JVM
    return text


@cache
def _tell_of_no_sail() -> None:
    _LOG.warning("pysail has no wheel for this machine: Spark in a JVM is used, which needs Java")


def as_on_a_cluster(settings: Settings, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of a rehearsal of Databricks: Spark in a JVM, unless `TAXI_SPARK` says Sail."""
    env = os.environ if environment is None else environment
    if settings.in_jvm or env.get(NAMES["spark"]) == SAIL:
        return settings
    return replace(settings, spark=JVM)


def _flag(name: str, env: Mapping[str, str]) -> bool:
    if env[name] not in ("true", "false"):
        raise SettingsError(f"{name} must be true or false", repr(env[name]), "Unset it for false")
    return env[name] == "true"


def estimator_name(parameters: Forest | Boosting) -> str:
    """`forest` or `boosting`."""
    return next(name for name, kind in ESTIMATORS.items() if isinstance(parameters, kind))


def _estimator(text: str) -> Forest | Boosting:
    if text not in ESTIMATORS:
        raise SettingsError(
            f"{ESTIMATOR} must be {' or '.join(ESTIMATORS)}", text, "Unset it for the forest"
        )
    return ESTIMATORS[text]()


def inherited() -> dict[str, str]:
    """This process's environment, for a process it starts: whose engine may be another."""
    return {name: text for name, text in os.environ.items() if name != _SPEAKS_CONNECT}


def java_home() -> str | None:
    """The JAVA_HOME that Spark's own start script would use."""
    return os.environ.get("JAVA_HOME") or None


def speak_connect() -> None:
    """From now on PySpark's functions are those of Spark Connect."""
    os.environ[_SPEAKS_CONNECT] = "1"


def spark_environment(python: str, address: str | None) -> None:
    """Where Spark's launcher and workers look: this Python, and the driver's own address.

    Workers would otherwise run whichever `python3` is first on PATH.
    """
    os.environ.pop(_SPEAKS_CONNECT, None)
    os.environ["PYSPARK_PYTHON"] = python
    os.environ["PYSPARK_DRIVER_PYTHON"] = python
    if address is not None:
        os.environ.setdefault("SPARK_LOCAL_IP", address)
