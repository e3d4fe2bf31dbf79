"""Which assets there are and in which order they are made, from `databricks_steps.steps.STEPS`."""

from __future__ import annotations

from databricks_steps.steps import STEPS
from taxi_assets.deployment.online_store import TABLES


def made_by(*steps: str) -> tuple[str, ...]:
    """What steps write."""
    return tuple(name for step in steps for name in STEPS[step].writes)


def upstream(step: str) -> tuple[str, ...]:
    """What is made before a step, in the order of the steps, that it needs in some way."""
    reads = {*STEPS[step].reads}
    before = [name for name, other in STEPS.items() if reads & {*other.writes}]
    needed = {*made_by(*before), *(name for other in before for name in upstream(other))}
    return tuple(name for name in made_by(*STEPS) if name in needed)


BY_MONTH = upstream("training_set")  # trips and features
TRAINING = made_by("training_set", "fare_model", "champion_model")
SERVING = (*(f"{table.name}_online" for table in TABLES), "serving_endpoint")
JUDGING = made_by("batch_predictions", "drift_report")
PAYLOADS = made_by("endpoint_payloads")
