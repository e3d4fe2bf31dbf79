"""`drift_retrain_sensor`: a retrain for a month that drifted, once, and only where it can help."""

import time
from dataclasses import dataclass
from typing import Any

import dagster as dg

from databricks_steps.monitoring.triage import RETRAIN
from databricks_steps.training import registry
from taxi_assets.jobs import retrain
from taxi_assets.resources.targets import Target, Watch
from taxi_assets.sensors import cursors, runs

NAME = "drift_retrain_sensor"
SECONDS = 30
REPORTS = 200  # newest reports that are looked at for the latest month


@dataclass(frozen=True)
class Policy:
    """When drift is worth a retrain: of the last `windows` at least `over`, and the last one."""

    over: int = 3
    windows: int = 5
    cool_down_hours: float = 24.0

    def against(self, windows: list[Any]) -> str:
        """Why windows (label, over the limit; oldest first) do not ask for one, if so."""
        last = [bool(over) for _, over in windows[-self.windows :]]
        if sum(last) < self.over:
            return f"{sum(last)} of the last {len(last)} windows over the limit, not {self.over}"
        return "" if last[-1] else f"the latest window, {windows[-1][0]}, is under the limit"


def drift_retrain_sensor(
    target: Target, watch: Watch, policy: Policy | None = None
) -> dg.SensorDefinition:
    """The sensor of this target's drift reports."""
    rules = policy or Policy()

    @dg.sensor(
        name=NAME,
        jobs=[retrain],
        minimum_interval_seconds=watch.seconds or SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for a retrain when the latest month drifted and stays so",
    )
    def found(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        report = latest_report(context.instance)
        told = "no drift report yet"
        request = None
        if report is not None:
            reason = _against(context.instance, target, report, rules)
            told = f"{report['month']}, version {report['model_version'] or 'none'}: {reason}"
            request = None if reason else _request(report)
        return dg.SensorResult(
            run_requests=[request] if request else [],
            skip_reason=None if request else told,
            cursor=cursors.written({"said": told, "asked": request.run_key if request else None}),
        )

    return found


def latest_report(instance: dg.DagsterInstance) -> dict[str, Any] | None:
    """The newest triage of the latest month that has one."""
    records = instance.fetch_materializations(dg.AssetKey("drift_report"), limit=REPORTS).records
    triages = [runs.triage(record.asset_materialization) for record in records]
    found = [triage for triage in triages if triage is not None]
    return max(found, key=lambda triage: str(triage["month"]), default=None)  # the first of equals


def _request(report: dict[str, Any]) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=_key(report), job_name=retrain.name, tags=runs.month_tags(report["month"])
    )


def _key(report: dict[str, Any]) -> str:
    return f"drift:{report['month']}:{report['model_version']}"


def _against(
    instance: dg.DagsterInstance, target: Target, report: dict[str, Any], policy: Policy
) -> str:
    """Why no retrain is asked for; empty when it is. What costs least is asked first."""
    if report["kind"] not in RETRAIN:
        return f"{report['kind']}: no retrain"
    if reason := policy.against(report["windows"]):
        return f"{report['kind']}, but {reason}"
    if asked := runs.asked_for(instance, NAME, _key(report)):
        return f"{runs.named(asked[0])} was asked for, {asked[0].status.value}"
    return (
        runs.in_flight(instance, target)
        or _cools_down(instance, policy)
        or _stale(target, report["model_version"])
    )


def _cools_down(instance: dg.DagsterInstance, policy: Policy) -> str:
    last = instance.get_run_records(
        dg.RunsFilter(job_name=retrain.name, tags={runs.SENSOR: NAME}), limit=1
    )
    if not last:
        return ""
    hours = (time.time() - last[0].create_timestamp.timestamp()) / 3600
    if hours >= policy.cool_down_hours:
        return ""
    asked = f"a retrain was asked for {hours:.1f} hours ago"
    return f"cools down: {asked}, of {policy.cool_down_hours:g}"


def _stale(target: Target, judged: str) -> str:
    """Why a report on that version does not count any more; empty when it is the champion's."""
    champion = registry.version(target.settings, registry.CHAMPION)
    now = champion.number if champion else "none"
    return "" if now == judged else f"the report is stale: the champion is {now}"
