"""The command line: `taxi-assets COMMAND`, put together from `commands/`."""

from __future__ import annotations

import gc
import os

import click

from taxi_assets.commands import home, models, monitoring, running, serving


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="taxi-assets")
def main() -> None:
    """New York taxi trips to a served, checked fare model."""
    before = os.umask(0o077)  # trips, models and records are nobody else's
    # Imports leave hundreds of thousands of objects that stay: to look through them for cycles at
    # Python's usual pace took one of 32 CPU seconds of a run on three small months.
    pace = gc.get_threshold()
    gc.set_threshold(20_000, 50, 100)

    def as_before() -> None:
        os.umask(before)
        gc.set_threshold(*pace)

    click.get_current_context().call_on_close(as_before)


for command in (
    *(running.run, running.dev, running.mlflow, running.configure, running.completion),
    *(home.status, home.report, home.doctor, home.backup, home.restore, home.vacuum),
    *(serving.serve, serving.stop, serving.query, serving.deploy),
    *(models.rollback, models.approve, models.reproduce, models.replay),
    home.certify,
    *(monitoring.scenario, monitoring.alerts, monitoring.backtest),
):
    main.add_command(command)

if __name__ == "__main__":
    main()
