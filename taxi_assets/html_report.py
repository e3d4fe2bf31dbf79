"""`taxi-assets report`: one page of HTML on pipeline, models, drift, endpoint, time and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import dagster as dg

from databricks_steps import atomic_write, plots, schemas
from databricks_steps.distributions import ALL
from databricks_steps.errors import reason
from databricks_steps.interfaces import TableLog
from databricks_steps.monitoring import plots as month_plots
from databricks_steps.months import ranges
from databricks_steps.page import Blocks, Figures, Table, Text, render
from databricks_steps.settings import METRICS, Settings
from databricks_steps.training import deployment_log
from taxi_assets import dagster_instance, status

FILE = "report.html"
RUNS = 200  # the newest of each asset
_SHOWN = 12  # of them, as rows
NONE = (Text("Nothing yet."),)


@dataclass(frozen=True)
class Made:
    """One asset in one run: what it made, of which months, and what it took."""

    asset: str
    run: str
    at: datetime
    months: tuple[str, ...]
    rows: int | None
    seconds: float | None
    peak: float | None  # GiB of the driver's heap


def write(settings: Settings, tables: TableLog | None = None) -> Path:
    """The page of this home, as it is now, whole or not at all; where it is.

    `tables` stand in for those of the home, on a Databricks target.
    """
    path = settings.home / "reports" / FILE
    atomic_write.write(path, page(settings, tables or status.logs(settings)))
    return path


def page(settings: Settings, tables: TableLog) -> str:
    """The page as one text: styles and pictures inside, no script, no link outward."""
    found, made = status.held(settings, tables), history(settings)
    sections = {  # what people ask first comes first
        "Drift and live error": _drift(tables),
        "Checks and problems": _problems(found),
        "Models": _models(tables),
        "Endpoint": _endpoint(settings, found["endpoint"]),
        "Pipeline": _pipeline(found),
        "Arrivals": _arrivals(found["arrivals"]),
        "Newest materializations": _newest(made),
        "Time and memory": _cost(made),
    }
    title = f"{settings.registered_model}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    return render(title, sections)


def _arrivals(found: Mapping[str, Any]) -> Blocks:
    """Entries by status, and every refused file with what to do."""
    if not found["entries"]:
        return NONE
    counted = Table(("status", "entries"), [(n, f"{c:,}") for n, c in found["entries"].items()])
    rows = [
        (cause, file["name"], file["reason"], file["remedy"])
        for cause, files in found["refused"].items()
        for file in files
    ]
    refused = Table(("cause", "refused", "why", "what to do"), rows)
    return (counted, refused) if rows else (counted,)


def history(settings: Settings) -> list[Made]:
    """What Dagster has recorded of each asset, run by run, the newest first."""
    if not (settings.home / "dagster" / "dagster.yaml").exists():
        return []
    with dagster_instance.instance(settings) as found:
        made = [each for key in found.all_asset_keys() for each in _of_asset(found, key)]
    return sorted(made, key=lambda each: each.at, reverse=True)


def _of_asset(found: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[Made]:
    """A run that made several months has an event for each of them, with its own row count."""
    by_run: dict[str, list[dg.EventLogRecord]] = {}
    for record in found.fetch_materializations(key, limit=RUNS).records:
        if not record.run_id:  # told of a month that no run made
            continue
        by_run.setdefault(record.run_id, []).append(record)
    for run, records in by_run.items():
        told = [r.asset_materialization for r in records]
        every = [{n: v.value for n, v in (t.metadata if t else {}).items()} for t in told]
        figures_of, rows = every[0], [each.get("dagster/row_count") for each in every]
        yield Made(
            key.to_user_string(),
            run,
            datetime.fromtimestamp(records[0].timestamp, timezone.utc),
            tuple(sorted(r.partition_key for r in records if r.partition_key)),
            None if None in rows else sum(map(_number, rows)),
            _number(figures_of.get("seconds")),
            _number(figures_of.get("spark_peak_gib")),
        )


def _number(value: object) -> Any:
    return value if isinstance(value, (int, float)) else None


def _pipeline(found: Mapping[str, Any]) -> Blocks:
    rows = [(name, each["rows"], ranges(each["months"])) for name, each in found["tables"].items()]
    return [Table(("table", "rows", "months"), rows)] if rows else NONE


def _problems(found: Mapping[str, Any]) -> Blocks:
    return [Text("\n".join(status.watched_lines(found)), "pre")]


def _models(tables: TableLog) -> Blocks:
    moves = deployment_log.entries(tables)
    if not moves:
        return NONE
    names = [metric.name for metric in METRICS]
    measured = [_metrics(move) for move in moves]
    rows = [
        (
            f"{move['moved_at']:%Y-%m-%d %H:%M}",
            move["action"],
            move["to_version"],
            move["moved_by"],
            *(_rounded(found.get(name)) for name in names),
            move["why"],
        )
        for move, found in zip(reversed(moves), reversed(measured), strict=True)
    ]
    drawn = [_rmse_by_move(moves, measured)] if len(moves) > 1 else []
    return [*drawn, Table(("moved at", "action", "version", "by", *names, "why"), rows)]


def _metrics(move: Mapping[str, Any]) -> dict[str, float]:
    import json

    found: dict[str, float] = json.loads(move["metrics"])
    return found


def _rmse_by_move(
    moves: Sequence[Mapping[str, Any]], measured: Sequence[Mapping[str, float]]
) -> Figures:
    axes = plots.axes_of("move of the champion", "RMSE on its holdout, dollars", height=2.4)
    labels = [f"{n}: v{move['to_version']}" for n, move in enumerate(moves, 1)]
    axes[1].plot(labels, [found.get("rmse") for found in measured], "o-", color=plots.BLUE)
    return Figures({"The champions": plots.svg(axes[0])})


def _drift(tables: TableLog) -> Blocks:
    report, live = (
        tables.records(name.name) for name in (schemas.DRIFT_REPORT, schemas.LIVE_PERFORMANCE)
    )
    months = sorted({row["trip_month"] for row in report})
    if not months:
        return NONE
    rows = []
    for month in months:
        own = [r for r in report if r["trip_month"] == month and r["slice"] == ALL]
        far = max(own, key=lambda row: row["wasserstein"] or 0.0)
        errors = [r for r in live if r["trip_month"] == month and r["day"] == r["slice"] == ALL]
        rows.append(
            (
                month,
                far["model_version"],
                far["trips"],
                sum(row["level"] in ("warn", "error") for row in own),
                f"{far['feature']} {_rounded(far['wasserstein'])}",
                "; ".join(f"{row['predictions']} {_rounded(row['mae'])}" for row in errors),
            )
        )
    names = ("month", "version", "trips", "over a limit", "moved most, by std", "live MAE, dollars")
    drawn = {
        "Mean absolute error by month": month_plots.error_by_month(live),
        "How far features moved": month_plots.heat_map(report),
    }
    return [Figures(drawn), Table(names, rows)]


def _endpoint(settings: Settings, state: Mapping[str, Any] | None) -> Blocks:
    if state is None:
        return [Text(status.NOT_RUNNING)]
    told = [(name, state[name]) for name in ("name", "url", "state", "version")]
    return [Table(("", ""), [*told, *_answered(settings)])]


def _answered(settings: Settings) -> Iterator[tuple[str, Any]]:
    """What the endpoint has answered so far, by the metrics that it exports."""
    from databricks.sdk.errors.base import DatabricksError
    from prometheus_client.parser import text_string_to_metric_families

    from taxi_assets.resources.workspace import Workspace

    path = f"/api/2.0/serving-endpoints/{settings.endpoint}/metrics"
    client = Workspace(settings).client.api_client
    try:
        answer = client.do("GET", path, headers={"Accept": "text/plain"}, raw=True)
    except (DatabricksError, OSError) as error:  # it sleeps, or they are for others
        yield "metrics", f"not told: {reason(error)}"
        return
    text = answer["contents"].read().decode()
    for family in text_string_to_metric_families(text):
        if family.type == "counter" and family.name != "feature_lookup_count":
            yield family.documentation, f"{sum(sample.value for sample in family.samples):,.0f}"


def _cost(made: Sequence[Made]) -> Blocks:
    by_asset: dict[str, list[Made]] = {}
    for each in made:
        if each.seconds is not None:
            by_asset.setdefault(each.asset, []).append(each)
    if not by_asset:
        return NONE
    rows = [
        (
            asset,
            len(runs),
            _total(runs),
            runs[0].seconds or 0.0,
            _rounded(max((each.peak for each in runs if each.peak is not None), default=None)),
        )
        for asset, runs in sorted(by_asset.items(), key=lambda item: -_total(item[1]))
    ]
    drawn = plots.bars(
        {asset: _total(by_asset[asset]) for asset, *_ in rows}, "seconds, all runs shown"
    )
    names = ("asset", "runs", "seconds, sum", "seconds, last", "Spark's peak, GiB")
    told = Text(
        "On Databricks a launched step is a job run with the tags asset, run and month: "
        "docs/databricks.md has the query of its DBUs."
    )
    return [Figures({"Seconds by asset": drawn}), Table(names, rows), told]


def _total(runs: Sequence[Made]) -> float:
    return sum(each.seconds or 0.0 for each in runs)


def _newest(made: Sequence[Made]) -> Blocks:
    newest: dict[str, list[Made]] = {}
    for each in made:
        newest.setdefault(each.asset, []).append(each)
    rows = [
        (
            each.asset,
            f"{each.at:%Y-%m-%d %H:%M:%S}",
            ranges(each.months),
            "" if each.rows is None else f"{each.rows:,}",
            _rounded(each.seconds),
            each.run[:8],
        )
        for runs in newest.values()
        for each in runs[:_SHOWN]
    ]
    return [Table(("asset", "at, UTC", "months", "rows", "seconds", "run"), rows)] if rows else NONE


def _rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
