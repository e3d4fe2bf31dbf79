"""Stages of a run as they happen: one line each for people, the same as records for the report."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from databricks_steps import schemas
from taxi_assets.resources.targets import target

LOGGER = "taxi_assets.progress"
_NO_CHECKS = {"passed": 0, "warned": 0, "failed": 0}
SHOWN = 10  # refused files that are named


@dataclass
class Progress:
    """What the current run has done so far. One for the process: a run is one at a time."""

    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True)
    stages: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=lambda: dict(_NO_CHECKS))
    failures: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)  # asset → rows of the months it was made for
    planned: int = 0  # steps of the whole run
    at_work: dict[str, float] = field(default_factory=dict)  # step → when it began
    _notes: dict[str, dict[str, str]] = field(default_factory=dict)
    _rows: dict[tuple[str, str], int] = field(default_factory=dict)  # of a step's asset so far

    def reset(self, say: Callable[[str], None]) -> None:
        """Forget the last run; `say` takes each line from now on."""
        self.say = say
        self.stages, self.failures, self.refused, self.rows = [], [], {}, {}
        self.checks = dict(_NO_CHECKS)
        self.planned = 0
        self.at_work, self._notes, self._rows = {}, {}, {}

    def record(self, event: dg.DagsterEvent) -> None:
        """One event of Dagster's log."""
        kind, step = event.event_type, event.step_key or ""
        if kind == dg.DagsterEventType.STEP_START:
            self.at_work[step] = time.monotonic()
            self._rows = {each: n for each, n in self._rows.items() if each[0] != step}
        elif kind == dg.DagsterEventType.ASSET_MATERIALIZATION:
            self._materialized(event)
        elif kind == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            self._check(event)
        elif kind in (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE):
            self._end(step, ok=kind == dg.DagsterEventType.STEP_SUCCESS)

    def _materialized(self, event: dg.DagsterEvent) -> None:
        metadata = event.step_materialization_data.materialization.metadata
        found: dict[str, Any] = {key: value.value for key, value in metadata.items()}
        asset = event.step_materialization_data.materialization.asset_key.to_user_string()
        step = event.step_key or ""
        if "dagster/row_count" in found:
            rows, table = int(found["dagster/row_count"]), schemas.TABLES.get(asset)
            # A step of several months has an event of each: with the month's own rows, or with
            # those of a table that knows no months.
            by_month = table is None or table.month is not None
            self.rows[asset] = rows + by_month * self.rows.get(asset, 0)
            rows += by_month * self._rows.get((step, asset), 0)
            found["dagster/row_count"] = self._rows[step, asset] = rows
        gone = found.get("emptied_demo_months")
        if gone and asset not in self._notes.get(step, {}):  # told once, not with each month
            self.say(f"  demo trips of {', '.join(gone)} go as real ones come")
        self._notes.setdefault(step, {})[asset] = _note(found)
        new = {k: v for k, v in found.get("refused_files", {}).items() if k not in self.refused}
        self.refused |= new
        for name, problem in list(new.items())[:SHOWN]:
            self.say(f"  refused {name}: {problem}")
        if len(new) > SHOWN:
            self.say(f"  refused {len(new) - SHOWN:,} more: taxi-assets status")

    def _end(self, step: str, *, ok: bool) -> None:
        seconds = time.monotonic() - self.at_work.pop(step, time.monotonic())
        self.stages.append({"name": step, "seconds": round(seconds, 2)})
        notes = self._notes.get(step, {})
        several = "; ".join(f"{asset} {said}" for asset, said in notes.items())
        note = (several if len(notes) > 1 else "".join(notes.values())) if ok else "failed"
        self.say(f"  {step:<42}{seconds:7.1f} s  {note}".rstrip())

    def _check(self, event: dg.DagsterEvent) -> None:
        check = event.asset_check_evaluation_data
        if check.passed:
            self.checks["passed"] += 1
            return
        warned = check.severity == dg.AssetCheckSeverity.WARN
        self.checks["warned" if warned else "failed"] += 1
        name = f"{check.asset_key.to_user_string()}: {check.check_name}"
        sentence = f"{'warning' if warned else 'failed'} check {name}: {check.description}"
        self.say(f"  {sentence}")
        if check.blocking and not warned:  # others stop nothing
            self.failures.append(sentence)


progress = Progress()


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "dagster_event", None)
        if isinstance(event, dg.DagsterEvent):
            progress.record(event)


@dg.logger
def stage_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """One line a stage, for the command line; a launched step has no command line to tell."""
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers = [logging.NullHandler() if target().launched else _Handler()]
    return logger


def _note(found: Mapping[str, Any]) -> str:
    """What a materialization's metadata says in a few words."""
    parts = []
    if "dagster/row_count" in found:
        parts.append(f"{found['dagster/row_count']:,} rows")
    if found.get("model_version"):
        parts.append(f"version {found['model_version']}")
    if found.get("skipped"):
        parts.append("skipped, nothing changed")
    if found.get("skipped_months"):
        parts.append(f"skipped, unchanged: {', '.join(found['skipped_months'])}")
    return ", ".join(parts)
