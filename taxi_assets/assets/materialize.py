"""From a step's outcome to what Dagster records: how every launched asset is materialized."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg

from databricks_steps import schemas
from databricks_steps.interfaces import Platform, Verdict
from databricks_steps.months import parse
from databricks_steps.reports import Report, reported
from databricks_steps.steps import STEPS
from taxi_assets.partitions import MONTHS, ONE_RUN, run_months

DIGITS = 6  # significant ones of a figure in Dagster's UI
OWNERS = ["team:taxi-ml"]
# Steps that compute on Spark run where the step launcher says, or are called on serverless compute;
# `local` has neither.
LAUNCHED = {"platform", "step_launcher"}


class StepConfig(dg.Config):
    """Options of a materialization."""

    force: bool = False
    """Compute again even where inputs and code are the same as last time."""


def materialized(
    context: dg.AssetExecutionContext, step: str, force: bool = False, source: str = ""
) -> Iterator[dg.MaterializeResult[Any]]:
    """Run a step for the run's months and tell Dagster what came of it.

    `source` stands in for the source of the settings.

    Raises:
        SettingsError: a partition is no month, or one that is not over yet.
    """
    months = run_months(context.run.tags, context.instance)
    for month in months or ():
        parse(month)
    for report in _reports(context, step, months, force, source):
        name = report.outcome.name
        version = report.data_version
        drawn = report.outcome.pictures
        table = schemas.TABLES.get(name)
        for month in months or () if table is not None and table.month else ():
            own = pictures({**drawn.get("", {}), **drawn.get(month, {})})
            if month in report.rows_by_month:
                own["dagster/row_count"] = report.rows_by_month[month]
            context.add_asset_metadata(own, name, partition_key=month)
        yield dg.MaterializeResult(
            asset_key=name,
            metadata=metadata(report),
            check_results=[check_result(v, name) for v in report.outcome.verdicts],
            data_version=None if version is None else dg.DataVersion(version),
        )


def _reports(
    context: dg.AssetExecutionContext,
    step: str,
    months: Sequence[str] | None,
    force: bool,
    source: str,
) -> Iterable[Report]:
    """What the step reports: computed in this process, or on serverless compute."""
    elsewhere = context.resources.step_launcher
    if elsewhere is not None:
        arguments = {"step": step, "months": months, "force": force, "source": source}
        return map(Report.from_json, elsewhere.call(context, "report", **arguments))
    platform: Platform = context.resources.platform
    return reported(platform, step, months, force, source)


def step_assets(
    step: str,
    group: str,
    kinds: Set[str] = frozenset({"pyspark", "delta"}),
    *,
    description: str = "",
    blocking: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    telling: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    columns_of: str = "",
) -> dg.AssetsDefinition:
    """The assets of a step: names, dependencies, months and columns are those of `STEPS`.

    `blocking` and `telling` are asset → check → description, of checks that stop what is
    downstream and of those that tell people alone. `columns_of` names the table to show where the
    step writes none.
    """
    made = STEPS[step]
    tables = {name: schemas.TABLES[name] for name in made.writes if name in schemas.TABLES}
    months = MONTHS if any(table.month for table in tables.values()) else None

    @dg.multi_asset(
        name=step,
        specs=[
            dg.AssetSpec(
                name,
                deps=made.reads,
                group_name=group,
                kinds={*kinds},
                owners=OWNERS,
                description=description or schemas.TABLES[name].comment,
                metadata=table_metadata(columns_of or name)
                if columns_of or name in tables
                else None,
                partitions_def=months,
            )
            for name in made.writes
        ],
        check_specs=[
            spec
            for stops, checks in ((True, blocking), (False, telling))
            for asset, texts in checks.items()
            for spec in check_specs(asset, texts, blocking=stops)
        ],
        backfill_policy=ONE_RUN if months else None,
        required_resource_keys=LAUNCHED,
    )
    def compute(
        context: dg.AssetExecutionContext, config: StepConfig
    ) -> Iterator[dg.MaterializeResult[Any]]:
        yield from materialized(context, step, config.force)

    return compute


def metadata(report: Report) -> dict[str, Any]:
    """Row count, table and figures, named as Dagster's UI knows them."""
    outcome = report.outcome
    counted = outcome.rows or outcome.name in schemas.TABLES
    found: dict[str, Any] = {"dagster/row_count": outcome.rows} if counted else {}
    if outcome.name in schemas.TABLES:
        found["dagster/uri"] = report.uri
        found["table_version"] = report.table_version
    if outcome.commit is not None:
        found["commit"] = f"{outcome.commit.action}, {outcome.commit.rows:,} rows"
    found |= pictures(outcome.pictures.get("", {}))
    return found | {k: shown(v) for k, v in outcome.figures.items()}


def pictures(drawn: Mapping[str, str]) -> dict[str, Any]:
    """Caption → SVG text as metadata that Dagster's UI shows: markdown with the pictures inside."""
    if not drawn:
        return {}
    encoded = {caption: base64.b64encode(svg.encode()).decode() for caption, svg in drawn.items()}
    texts = (f"{c}\n\n![{c}](data:image/svg+xml;base64,{svg})" for c, svg in encoded.items())
    return {"pictures": dg.MetadataValue.md("\n\n".join(texts))}


def shown(value: Any) -> Any:
    """A figure as metadata: mappings and lists as JSON, paths as such, floats as people read."""
    if isinstance(value, (Mapping, list, tuple)):
        return dg.MetadataValue.json(readable(value))
    if isinstance(value, Path):
        return dg.MetadataValue.path(str(value))
    return readable(value)


def readable(value: Any) -> Any:
    """The value with its floats to `DIGITS` significant digits, within mappings and lists, too."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(name): readable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable(each) for each in value]
    return value


def check_result(verdict: Verdict, asset: str) -> dg.AssetCheckResult:
    """A verdict of a step as the result of the asset check of that name."""
    figures = {k: shown(v) for k, v in verdict.figures.items()}
    return dg.AssetCheckResult(
        check_name=verdict.check,
        asset_key=asset,
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity(verdict.severity.upper()),
        description=verdict.reason,
        metadata=figures,
    )


def check_specs(
    asset: str, texts: Mapping[str, str], *, blocking: bool = False
) -> list[dg.AssetCheckSpec]:
    """Check → description, as checks evaluated in the asset's own step."""
    return [
        dg.AssetCheckSpec(name, asset=asset, description=text, blocking=blocking)
        for name, text in texts.items()
    ]


def table_metadata(name: str) -> dict[str, Any]:
    """The columns of a table, as Dagster's UI shows them before anything is materialized."""
    table = schemas.TABLES[name]
    columns = [
        dg.TableColumn(
            c.name,
            c.type,
            description=f"{c.comment} [{c.unit}]" if c.unit else c.comment,
            constraints=dg.TableColumnConstraints(
                nullable=c.nullable, other=["primary key"] if c.name in table.primary_key else None
            ),
        )
        for c in table.columns
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}
