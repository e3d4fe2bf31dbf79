"""`python -m databricks_steps STEP`: one step without Dagster, as a bundle's task runs it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from databricks_steps.errors import TaxiError
from databricks_steps.interfaces import Outcome
from databricks_steps.months import parse
from databricks_steps.settings import NAMES, Settings, inherited
from databricks_steps.steps import STEPS

# Settings a task may be given as options: serverless compute has no variables of a cluster.
OPTIONS = {
    **{
        name: NAMES[name]
        for name in ("source", "catalog", "schema", "model", "experiment", "git_commit")
    },
    "require_approval": "TAXI_REQUIRE_APPROVAL",
}


def parser() -> argparse.ArgumentParser:
    """The command line of a step. An option that is empty counts as not given."""
    found = argparse.ArgumentParser("python -m databricks_steps", description=__doc__)
    found.add_argument("step", choices=sorted(STEPS))
    found.add_argument("--months", help="2022-01 or 2022-01:2022-03; default: all at hand")
    found.add_argument("--force", action="store_true", help="even where nothing changed")
    for name, variable in OPTIONS.items():
        found.add_argument(f"--{name.replace('_', '-')}", help=f"in place of {variable}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the step, print its outcomes as JSON lines; 1 when it or a verdict is in error."""
    given = parser().parse_args(arguments)
    named = {variable: getattr(given, name) or "" for name, variable in OPTIONS.items()}
    named = {variable: text for variable, text in named.items() if text}
    try:
        settings = Settings.from_environment(inherited() | named)
        outcomes = run(settings, given.step, given.months, given.force)
    except TaxiError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for outcome in outcomes:
        print(json.dumps(outcome.to_json()))
    failed = [v for outcome in outcomes for v in outcome.verdicts if not v.passed]
    for verdict in failed:
        print(f"failed check {verdict.check}: {verdict.reason}", file=sys.stderr)
    return int(any(verdict.severity == "error" for verdict in failed))


def task() -> None:
    """The entry point of a wheel task, which fails by what is raised, not by what is returned."""
    if main() != 0:
        sys.exit(1)


def run(settings: Settings, step: str, months: str | None, force: bool) -> tuple[Outcome, ...]:
    """The outcomes of one step on the settings' platform."""
    from databricks_steps.platforms.factory import platform

    chosen = parse(months) if months else None
    on = platform(settings)
    with on.at_work():
        return STEPS[step].run(on, chosen, force)


if __name__ == "__main__":
    sys.exit(main())
