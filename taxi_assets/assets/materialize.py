"""From a step's outcome to what Dagster records: how every launched asset is materialized."""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dagster as dg

from databricks_steps import fingerprint, schemas
from databricks_steps.cost import Cost
from databricks_steps.interfaces import Outcome, Platform, Verdict
from databricks_steps.steps import STEPS
from taxi_assets.partitions import MONTHS, ONE_RUN, run_months

DIGITS = 6  # significant ones of a figure in Dagster's UI
OWNERS = ["team:taxi-ml"]
# Steps that compute on Spark run where the step launcher says; `local` has none.
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
    """
    platform: Platform = context.resources.platform
    if source:
        platform = platform.with_settings(replace(platform.settings, source=source))
    partitions = context.partition_keys if context.has_partition_key_range else []
    months = partitions or run_months(dict(context.run.tags))
    cost = Cost()
    with platform.at_work():
        outcomes = STEPS[step].run(platform, months, force)
    took = cost.figures()
    for outcome in outcomes:
        for month, rows in rows_by_month(outcome, platform, partitions).items():
            counted = {"dagster/row_count": rows}
            context.add_asset_metadata(counted, outcome.name, partition_key=month)
        yield dg.MaterializeResult(
            asset_key=outcome.name,
            metadata=metadata(outcome, platform) | readable(took),
            check_results=[check_result(v, outcome.name) for v in outcome.verdicts],
            data_version=data_version(outcome, platform, months),
        )


def step_assets(
    step: str,
    group: str,
    kinds: Set[str] = frozenset({"pyspark", "delta"}),
    *,
    description: str = "",
    blocking: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    telling: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    deps: Sequence[dg.AssetDep] | None = None,
    columns_of: str = "",
) -> dg.AssetsDefinition:
    """The assets of a step: names, dependencies, months and columns are those of `STEPS`.

    `blocking` and `telling` are asset → check → description, of checks that stop what is
    downstream and of those that tell people alone. `deps` replaces the dependencies, where months
    are not mapped one to one; `columns_of` names the table to show where the step writes none.
    """
    made = STEPS[step]
    tables = {name: schemas.TABLES[name] for name in made.writes if name in schemas.TABLES}
    months = MONTHS if any(table.month for table in tables.values()) else None

    @dg.multi_asset(
        name=step,
        specs=[
            dg.AssetSpec(
                name,
                deps=deps or made.reads,
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


def data_version(
    outcome: Outcome, platform: Platform, months: Sequence[str] | None
) -> dg.DataVersion | None:
    """What Dagster compares to tell that something downstream is stale.

    It changes when rows of the months are written, not with every run, so a skipped month leaves
    what depends on it fresh. All months of a range share one.
    """
    if outcome.name in schemas.TABLES:
        held = months if schemas.TABLES[outcome.name].month else None
        return dg.DataVersion(
            f"{fingerprint.digest(platform.tables.contents(outcome.name, held)):x}"
        )
    version = outcome.figures.get("model_version")
    return None if version is None else dg.DataVersion(str(version))


def metadata(outcome: Outcome, platform: Platform) -> dict[str, Any]:
    """Row count, table and figures, named as Dagster's UI knows them."""
    counted = outcome.rows or outcome.name in schemas.TABLES
    found: dict[str, Any] = {"dagster/row_count": outcome.rows} if counted else {}
    if outcome.name in schemas.TABLES:
        found["dagster/uri"] = platform.tables.uri(outcome.name)
        found["table_version"] = platform.tables.version(outcome.name)
    if outcome.commit is not None:
        found["commit"] = f"{outcome.commit.action}, {outcome.commit.rows:,} rows"
    return found | {k: shown(v) for k, v in outcome.figures.items()}


def rows_by_month(outcome: Outcome, platform: Platform, months: Sequence[str]) -> Mapping[str, int]:
    """Month → its own rows, for those of the months; nothing for a table without months."""
    table = schemas.TABLES.get(outcome.name)
    if table is None or not table.month:
        return {}
    told = outcome.figures.get("rows_by_month", {})
    return {m: told[m] if m in told else platform.tables.rows(outcome.name, [m]) for m in months}


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
