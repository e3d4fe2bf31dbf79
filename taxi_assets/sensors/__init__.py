"""Sensors: what starts runs by itself, and what tells people.

They look at files, runs and events; what a month suffers from is decided in databricks_steps.
"""

from __future__ import annotations

import dagster as dg

from taxi_assets.resources.targets import Target, Watch
from taxi_assets.resources.targets import watch as watched
from taxi_assets.sensors.alerting import alert_sensor
from taxi_assets.sensors.health import endpoint_health_sensor
from taxi_assets.sensors.new_trips import new_trips_sensor
from taxi_assets.sensors.retraining import drift_retrain_sensor


def sensors(target: Target, watch: Watch | None = None) -> list[dg.SensorDefinition]:
    """All sensors of a target, as the environment says they watch."""
    chosen = watch or watched()
    return [
        make(target, chosen)
        for make in (new_trips_sensor, drift_retrain_sensor, alert_sensor, endpoint_health_sensor)
    ]
