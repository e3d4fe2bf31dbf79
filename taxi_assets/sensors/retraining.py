"""`drift_retrain_sensor`: a retrain for the latest month if it drifted; what became of others.

Every month that drifted or whose data are at fault ends in a retrain, in a refusal with its reason,
or in a question to a person; the sensor's cursor has it, and `taxi-assets status` shows it.
"""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from databricks_steps.monitoring.triage import DATA, RETRAIN
from databricks_steps.training import registry
from databricks_steps.training.registry import Version
from taxi_assets import partitions
from taxi_assets.jobs import retrain
from taxi_assets.resources.alerts import WARN, Observation, Where, instant
from taxi_assets.resources.delivery import alert_log
from taxi_assets.resources.targets import Target, Watch
from taxi_assets.sensors import cursors, runs

NAME = "drift_retrain_sensor"
REPORTS = 200  # newest reports that are looked at
COOL_DOWN_HOURS = 24.0
ENDING = (*RETRAIN, DATA)
ASKS = "asks you"  # how what a person must decide begins


def drift_retrain_sensor(target: Target, watch: Watch) -> dg.SensorDefinition:
    """The sensor of this target's drift reports."""

    @dg.sensor(
        name=NAME,
        jobs=[retrain],
        minimum_interval_seconds=watch.seconds or runs.SECONDS,
        default_status=runs.default_status(watch),
        description="Asks for a retrain when the latest month drifted; tells what became of others",
    )
    def found(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = runs.instance_of(context)
        held = instance.get_dynamic_partitions(partitions.NAME)  # demo months go with real ones
        reports = {m: each for m, each in newest_reports(instance).items() if m in held}
        champion = registry.version(target.settings, registry.CHAMPION)
        told, request = "no drift report yet", None
        if reports:
            report = reports[max(reports)]
            reason = _against(instance, target, report, champion)
            told = f"{report['month']}, version {report['model_version'] or 'none'}: {reason}"
            request = None if reason else _request(report)
        if request:
            partitions.hold(instance, runs.months_asked(request))
        months = _outcomes(instance, reports, champion)
        alert_log(target.settings, watch.addresses).record(
            _question(month, outcome) for month, outcome in months.items()
        )
        values = {"said": told, "asked": request.run_key if request else None, "months": months}
        return dg.SensorResult(
            run_requests=[request] if request else [],
            skip_reason=None if request else told,
            cursor=cursors.written(values),
        )

    return found


def newest_reports(instance: dg.DagsterInstance) -> dict[str, dict[str, Any]]:
    """Month → its newest triage; `was` is the newest class there that wants an end."""
    records = instance.fetch_materializations(dg.AssetKey("drift_report"), limit=REPORTS).records
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        for triage in runs.triages(record.asset_materialization):
            newest = found.setdefault(str(triage["month"]), {"was": "", **triage})
            newest["was"] = newest["was"] or (triage["kind"] if triage["kind"] in ENDING else "")
    return found


def _request(report: Mapping[str, Any]) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=_key(report), job_name=retrain.name, tags=runs.month_tags(report["month"])
    )


def _key(report: Mapping[str, Any]) -> str:
    return f"drift:{report['month']}:{report['model_version']}"


def _against(
    instance: dg.DagsterInstance,
    target: Target,
    report: Mapping[str, Any],
    champion: Version | None,
) -> str:
    """Why no retrain is asked for; empty when it is. What costs least is asked first."""
    if report["kind"] not in RETRAIN:
        return f"{report['kind']}: no retrain"
    if asked := runs.asked_for(instance, NAME, _key(report)):
        return f"{runs.named(asked[0])} was asked for, {asked[0].status.value}"
    now = champion.number if champion else "none"
    if now != report["model_version"]:
        return f"the report is stale: the champion is {now}"
    return runs.in_flight(instance, target) or _cools_down(instance)


def _cools_down(instance: dg.DagsterInstance) -> str:
    last = instance.get_run_records(
        dg.RunsFilter(job_name=retrain.name, tags={runs.SENSOR: NAME}), limit=1
    )
    if not last:
        return ""
    hours = (time.time() - last[0].create_timestamp.timestamp()) / 3600
    if hours >= COOL_DOWN_HOURS:
        return ""
    return f"cools down: a retrain was asked for {hours:.1f} hours ago, of {COOL_DOWN_HOURS:g}"


def _outcomes(
    instance: dg.DagsterInstance,
    reports: Mapping[str, Mapping[str, Any]],
    champion: Version | None,
) -> dict[str, str]:
    """Month that drifted, or whose data were at fault → what became of it."""
    found = {}
    for month, report in sorted(reports.items()):
        if report["was"]:
            outcome = _outcome(instance, report, champion, month == max(reports))
            found[month] = f"{report['was']}: {outcome}"
    return found


def _outcome(  # noqa: PLR0911 one line an end
    instance: dg.DagsterInstance,
    report: Mapping[str, Any],
    champion: Version | None,
    latest: bool,
) -> str:
    month = report["month"]
    learned = champion.tags.get("months", "").split(",") if champion is not None else []
    if report["kind"] == DATA:
        if month in learned:
            return f"{ASKS}: the champion has learned from it; run again once it is corrected"
        return "refused, no retrain is asked for a month whose data are at fault"
    if report["kind"] not in RETRAIN:
        return f"over, version {report['model_version']} finds {report['kind']}"
    if champion is not None and month in learned:
        return f"learned by version {champion.number}, the champion"
    if champion is not None and month < min(learned):
        return f"over, version {champion.number}, the champion, knows newer months"
    if asked := runs.asked_for(instance, NAME, _key(report)):
        return _of_run(instance, asked[0])
    if not latest:
        return f"{ASKS}: a newer month came before its retrain; taxi-assets run --months {month}"
    if champion is not None and champion.number == report["model_version"]:
        return "waits for its retrain"
    now = f"version {champion.number}" if champion else "nobody"
    return f"{ASKS}: the champion is {now} now; materialize drift_report of the month again"


def _of_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """What became of a retrain."""
    if run.status not in (runs.STATUS.FAILURE, runs.STATUS.CANCELED):
        return f"retrain, {runs.named(run)} is {run.status.value}"
    if refused := runs.failed_checks(instance, run):
        return f"refused, {runs.named(run)}: {refused}"
    return f"{ASKS}: {runs.named(run)} is {run.status.value}; execute it again"


def _question(month: str, outcome: str) -> Observation:
    """An alert while somebody is asked; over once the month has its end."""
    asks = ASKS in outcome
    where = Where("drift_report", month)
    return Observation("month", "retrain", not asks, outcome, instant(), where, WARN, outcome)
