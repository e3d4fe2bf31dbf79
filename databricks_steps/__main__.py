"""`python -m databricks_steps STEP`: one step without Dagster, as a bundle's task runs it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from databricks_steps.errors import TaxiError
from databricks_steps.months import parse
from databricks_steps.ports import Outcome
from databricks_steps.settings import Settings
from databricks_steps.steps import STEPS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the step, print its outcomes as JSON lines; 1 when it fails or a verdict does."""
    parser = argparse.ArgumentParser("python -m databricks_steps", description=__doc__)
    parser.add_argument("step", choices=sorted(STEPS))
    parser.add_argument("--months", help="2022-01 or 2022-01:2022-03; default: all at hand")
    parser.add_argument("--source", help="where raw_trips reads")
    parser.add_argument("--force", action="store_true", help="even where nothing changed")
    given = parser.parse_args(arguments)
    try:
        outcomes = run(given.step, given.months, given.source, given.force)
    except TaxiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for outcome in outcomes:
        print(json.dumps(as_json(outcome), default=str))
    return int(not all(v.passed for outcome in outcomes for v in outcome.verdicts))


def run(step: str, months: str | None, source: str | None, force: bool) -> tuple[Outcome, ...]:
    """The outcomes of one step on the embedded platform."""
    from databricks_steps.platforms.embedded.platform import EmbeddedPlatform

    settings = Settings.from_environment()
    if source is not None:
        settings = replace(settings, source=source)
    chosen = parse(months) if months else None
    return STEPS[step].run(EmbeddedPlatform(settings), chosen, force)


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome with its commit and verdicts as plain values."""
    return {
        "name": outcome.name,
        "rows": outcome.rows,
        "figures": dict(outcome.figures),
        "commit": asdict(outcome.commit) if outcome.commit else None,
        "verdicts": [{**asdict(v), "figures": dict(v.figures)} for v in outcome.verdicts],
    }


if __name__ == "__main__":
    sys.exit(main())
