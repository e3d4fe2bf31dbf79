"""`alert_sensor`: reads what checks, runs and sensors say, writes alerts, and tells people.

It reads from where it left off, in batches. What it wrote before a sudden end it knows by the
times in alerts.jsonl, so that nothing is missed and nothing written twice.
"""

import time
from typing import Any

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorType, TickStatus

from taxi_assets.resources.alerts import RESOLVED, Observation
from taxi_assets.resources.delivery import alert_log, deliver, title
from taxi_assets.resources.targets import Target, Watch
from taxi_assets.sensors import cursors, event_reader, runs

NAME = "alert_sensor"
ENDED = [TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE]


def alert_sensor(target: Target, watch: Watch) -> dg.SensorDefinition:
    """The sensor that tells people of this target's problems."""

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=watch.seconds or runs.SECONDS,
        default_status=runs.default_status(watch),
        description="Failed or warned checks, runs and sensors: one alert each, told once",
    )
    def found(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        instance = runs.instance_of(context)
        kept = cursors.read(context.cursor)
        batch = event_reader.events(instance, kept.get("event", 0), kept.get("identity", ()))
        reader = event_reader.Reader(instance, watch.ui)
        seen = [each for record in batch.records for each in reader.read(record)]
        ticks, of_sensors = _ticks(instance, kept.get("ticks", {}), watch.ui)
        log = alert_log(target.settings, watch.addresses)
        new = log.record([*seen, *of_sensors])
        for alert in new:
            context.log.info("%s: %s", title(alert), alert.what)
        done = deliver(watch.addresses, log)
        for failure in done.failures:
            context.log.warning("not told yet, tried again at the next tick: %s", failure)
        resolved = sum(alert.severity == RESOLVED for alert in new)
        told = (
            f"{len(batch.records)} events read{', more to come' if batch.more else ''}; "
            f"{len(new) - resolved} new, {resolved} resolved, {len(log.problems())} open; "
            f"{done.sent} told"
            + "".join(f"; not told yet: {f}" for f in done.failures)
            + (f"; {done.given_up} given up: taxi-assets alerts lists them" * bool(done.given_up))
        )
        cursor = cursors.written({"event": batch.after, "identity": batch.identity, "ticks": ticks})
        return dg.SensorResult(skip_reason=told, cursor=cursor)

    return found


def _ticks(
    instance: dg.DagsterInstance, before: dict[str, float], ui: str
) -> tuple[dict[str, float], list[Observation]]:
    """How far each sensor's ticks were read, and what those since then say.

    What a clock has written that was ahead is read when its time has come.
    """
    after, seen, now = {}, [], time.time()
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        selector, name = state.selector_id, state.instigator_name
        read = min(before.get(selector, 0.0), now)
        ticks: list[Any] = list(
            instance.get_ticks(
                state.instigator_origin_id,
                selector,
                before=now,
                after=read,
                limit=event_reader.BATCH,
                statuses=ENDED,
            )
        )
        ticks.sort(key=lambda tick: tick.timestamp)
        after[selector] = ticks[-1].timestamp if ticks else read
        seen += [event_reader.tick(name, tick, ui) for tick in ticks]
    return after, seen
