"""A home with a real Dagster instance and small assets of the pipeline's names, for sensors."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from databricks_steps.months import between
from databricks_steps.platforms.embedded.platform import EmbeddedPlatform
from databricks_steps.settings import Settings
from databricks_steps.training import registry
from databricks_steps.trips.demo import demo_trips
from taxi_assets import dagster_instance as home
from taxi_assets import jobs
from taxi_assets.partitions import MONTHS, ONE_RUN, RANGE_TAGS, hold, run_months
from taxi_assets.resources.alerts import AlertLog, JsonLines
from taxi_assets.resources.targets import Target, Watch
from taxi_assets.sensors import sensors

MONTHLY = (  # by the step that makes them
    *(("raw_trips", "arrivals"), ("trips", "quarantined_trips")),
    *(("pickup_features",), ("dropoff_features",), ("batch_predictions",)),
    *(("endpoint_payloads",), ("drift_report", "live_performance")),
)
OTHERS = (
    *(("training_set",), ("fare_model",), ("champion_model",)),
    ("pickup_features_online", "dropoff_features_online", "serving_endpoint"),
)
CHECKS = {
    "batch_predictions": "prediction_drift",
    "drift_report": "triage",
    "trips": "volume",
}
QUIET = {"kind": "none", "evidence": [], "model_version": "1"}


class Source(dg.Config):
    """As the real `raw_trips` has it."""

    source: str = ""


def _step(names: tuple[str, ...], facts: Path) -> dg.AssetsDefinition:
    """Assets of one step that does nothing but what `facts` says of its run's month."""
    checks = [dg.AssetCheckSpec(CHECKS[name], asset=name) for name in names if name in CHECKS]

    @dg.multi_asset(
        name=names[0],
        specs=[dg.AssetSpec(name, skippable=True) for name in names],
        partitions_def=MONTHS if names in MONTHLY else None,
        backfill_policy=ONE_RUN if names in MONTHLY else None,
        check_specs=checks,
        can_subset=True,
    )
    def made(context: dg.AssetExecutionContext, config: Source) -> Iterator[Any]:
        month = (run_months(dict(context.run.tags)) or ("",))[-1]
        told = json.loads(facts.read_text()) if facts.exists() else {}
        if {*names} & {*told.get("broken", ())}:
            raise RuntimeError(f"{names[0]} broke")
        for key in context.selected_asset_keys:
            name = key.to_user_string()
            metadata: dict[str, Any] = {"source": config.source}
            if name == "drift_report":
                triage = told.get("triage", {}).get(month, {})
                metadata["triage"] = {"month": month, **QUIET, **triage}
            yield dg.MaterializeResult(asset_key=key, metadata=metadata)
        for check in context.selected_asset_check_keys:
            asset = check.asset_key.to_user_string()
            drifted = context.run.job_name == "new_month" and month in told.get("drifted", ())
            passed = asset not in told.get("failing", ()) and not (drifted and asset != "trips")
            yield dg.AssetCheckResult(
                asset_key=check.asset_key, passed=passed, check_name=check.name
            )

    return made


def _drift(asset: str) -> Any:
    """A check of its own step, which `retrain` takes along without the asset."""

    @dg.asset_check(asset=asset, name="drift")
    def told() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    return told


def definitions(settings: Settings, watch: Watch | None = None) -> dg.Definitions:
    """The jobs and sensors of the project on assets that take no time."""
    facts = settings.home / "facts.json"
    return dg.Definitions(
        assets=[_step(names, facts) for names in (*MONTHLY, *OTHERS)],
        asset_checks=[_drift("pickup_features"), _drift("dropoff_features")],
        jobs=[jobs.fare_pipeline, jobs.new_month, jobs.retrain],
        sensors=sensors(Target("local", settings), watch or Watch(seconds=1)),
        executor=dg.in_process_executor,
    )


@dataclass
class World:
    """A home, its instance, and what each sensor remembers."""

    settings: Settings
    watch: Watch = field(default_factory=Watch)
    cursors: dict[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.instance = home.instance(self.settings)
        self.definitions = definitions(self.settings, self.watch)
        self.repository = self.definitions.get_repository_def()

    @property
    def landing(self) -> Path:
        folder = self.settings.home / "landing"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def tell(self, **facts: Any) -> None:
        """What the assets shall say from now on."""
        (self.settings.home / "facts.json").write_text(json.dumps(facts))

    def land(self, month: str, rows: int = 50, service: str = "green") -> Path:
        file = self.landing / f"{service}_tripdata_{month}.parquet"
        pq.write_table(demo_trips(month, rows), file)
        return file

    def tick(self, sensor: str, *, keep: bool = True) -> Any:
        """One evaluation; `keep` False: the daemon died before the cursor was kept."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(sensor),
            repository_def=self.repository,
        )
        found = self.repository.get_sensor_def(sensor).evaluate_tick(context)
        if keep:
            self.cursors[sensor] = found.cursor
        return found

    def said(self, sensor: str) -> str:
        """Why a tick did nothing."""
        found = self.tick(sensor)
        assert found.run_requests == []
        assert found.skip_message
        assert "\n" not in found.skip_message
        return str(found.skip_message)

    def asked(self, sensor: str) -> dg.RunRequest:
        """The one run a tick asks for."""
        found = self.tick(sensor)
        (request,) = found.run_requests
        assert isinstance(request, dg.RunRequest)
        return request

    def tags(self, first: str, last: str = "") -> dict[str, str]:
        """The tags of a run for months, which are held from now on."""
        hold(self.instance, between(first, last or first))
        return dict(zip(RANGE_TAGS, (first, last or first), strict=True))

    def execute(self, sensor: str, request: dg.RunRequest) -> dg.DagsterRun:
        """Run what was asked for, with the tags the daemon gives it."""
        tags = {"dagster/run_key": request.run_key or "", "dagster/sensor_name": sensor}
        job = self.repository.get_job(request.job_name or "")
        done = job.execute_in_process(
            instance=self.instance,
            tags={**request.tags, **tags},
            run_config=request.run_config,
            raise_on_error=False,
        )
        run = self.instance.get_run_by_id(done.run_id)
        assert run is not None
        return run

    def queue(self, job: str, status: dg.DagsterRunStatus, **tags: str) -> dg.DagsterRun:
        """A run that is not over."""
        return self.instance.create_run_for_job(
            self.repository.get_job(job), status=status, tags=tags
        )

    def champion(self, version: int) -> None:
        """Make versions up to this one, and let the alias point to it."""
        client, name = registry.client(self.settings), self.settings.registered_model
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name)
        while not (made := len(client.search_model_versions(f"name='{name}'"))) >= version:
            run = client.create_run(client.get_experiment_by_name("taxi-fare").experiment_id)
            source = str(self.settings.artifacts / str(made))
            client.create_model_version(name, source, run.info.run_id)
        client.set_registered_model_alias(name, registry.CHAMPION, str(version))

    def alerts(self) -> list[tuple[str, str]]:
        rows = JsonLines(self.settings.home / "alerts.jsonl").rows()
        return [(str(row["severity"]), str(row["key"])) for row in rows]

    def arrivals(self) -> list[dict[str, Any]]:
        """The rows of the ledger."""
        return EmbeddedPlatform(self.settings).tables.records("arrivals")

    def problems(self) -> list[str]:
        return [problem.key for problem in AlertLog(self.settings).problems()]

    def restarted(self) -> "World":
        """The same home as a new process finds it."""
        self.instance.dispose()
        return replace(self)
