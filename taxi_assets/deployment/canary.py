"""The canary ladder: a new version answers a small share of the traffic first, and must do as well.

At each rung both versions are asked the same requests, and the counters of the live traffic are
read. A version that breaks a limit loses its traffic at once, and the old one serves on.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from databricks_steps.errors import ServingError
from databricks_steps.settings import Canary, Settings
from taxi_assets.deployment.endpoint import (
    EndpointState,
    endpoint_config,
    ensure_endpoint,
    own,
    serve_config,
)

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient

SUFFIX = "-canary"
LOOK_SECONDS = 0.5  # between looks at the live traffic
Record = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """What one version answered: times and fares of the good answers, the words of the others."""

    milliseconds: tuple[float, ...]
    fares: tuple[float, ...]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rung:
    """One step of the ladder: the share, both versions' answers to the probes, and live queries.

    `live` counts the new version's queries besides the probes, `live_failed` those of them that
    reached it and got no fare.
    """

    share: int
    old: Probe
    new: Probe
    live: int = 0
    live_failed: int = 0


@dataclass(frozen=True)
class Climb:
    """The endpoint after the ladder, and what was seen on it."""

    state: EndpointState
    rungs: tuple[Rung, ...]


def climb(
    client: WorkspaceClient,
    settings: Settings,
    version: str,
    requests: Callable[[], Sequence[Record]],
) -> Climb:
    """The endpoint on a new version by way of the ladder; safe to repeat, also after a kill.

    An endpoint that is new, or serves the version already, needs no ladder. `requests` gives the
    rows sent to both versions, one a request.

    Raises:
        ServingError: the new version broke a limit; the message says which, and the old one
            serves on.
    """
    old = _stable_version(client, settings)
    if old is None or old == version:
        return Climb(ensure_endpoint(client, settings, version), ())
    probes = requests()
    if not probes:
        raise ServingError("A canary needs requests to be compared by", "none", "Train first")
    rungs: list[Rung] = []
    try:
        for share in settings.canary.shares:
            serve_config(client, split_config(settings, old, version, share))
            rungs.append(_rung(client, settings, share, probes))
            _require_fit(rungs[-1], settings.canary, old, version)
        return Climb(ensure_endpoint(client, settings, version), tuple(rungs))
    except BaseException:  # a stop from outside, too, must not leave the traffic split
        ensure_endpoint(client, settings, old)
        raise


def _require_fit(rung: Rung, limits: Canary, old: str, new: str) -> None:
    broken = judge(rung, limits)
    if broken:
        raise ServingError(
            f"The canary must do as well as version {old}",
            f"version {new} at {rung.share} % of the traffic: {'; '.join(broken)}",
            f"Version {old} serves on; look into version {new}, or roll the alias back: "
            "taxi-assets rollback",
        )


def split_config(settings: Settings, old: str, new: str, share: int) -> dict[str, Any]:
    """The endpoint's configuration with `share` percent of the traffic for the new version.

    The old version keeps its name and the lower numbers of the routing, so that a request id
    that was sent to the canary at one rung is sent to it at all later ones.
    """
    config = endpoint_config(settings, old)
    (entity,) = config["config"]["served_entities"]
    canary = entity | {"name": entity["name"] + SUFFIX, "entity_version": new}
    config["config"] |= {
        "served_entities": [entity, canary],
        "traffic_config": {
            "routes": [
                {"served_model_name": entity["name"], "traffic_percentage": 100 - share},
                {"served_model_name": canary["name"], "traffic_percentage": share},
            ]
        },
    }
    return config


def judge(rung: Rung, limits: Canary) -> list[str]:
    """Which limits a rung breaks, a sentence each."""
    broken = []
    asked = len(rung.new.milliseconds) + len(rung.new.errors)
    if asked and len(rung.new.errors) / asked > limits.error_rate:
        broken.append(
            f"{len(rung.new.errors)} of {asked} requests failed, limit {limits.error_rate:.0%}: "
            f"{rung.new.errors[0]}"
        )
    if rung.live and rung.live_failed / rung.live > limits.error_rate:
        broken.append(
            f"{rung.live_failed} of {rung.live} live queries failed, limit {limits.error_rate:.0%}"
        )
    if rung.new.milliseconds and rung.old.milliseconds:
        old, new = (statistics.median(probe.milliseconds) for probe in (rung.old, rung.new))
        if new > max(old * limits.latency_ratio, limits.latency_floor_ms):
            broken.append(
                f"the median answer takes {new:.1f} ms against {old:.1f} ms, limit "
                f"{limits.latency_ratio:g} times"
            )
        moved = shift(rung.old.fares, rung.new.fares)
        if moved > limits.shift:
            broken.append(
                f"fares shift by {moved:.2f} standard deviations (mean {_mean(rung.new)} against "
                f"{_mean(rung.old)} dollars), limit {limits.shift:g}"
            )
    return broken


def shift(old: Sequence[float], new: Sequence[float]) -> float:
    """The 1-Wasserstein distance of the two samples in standard deviations of the old one."""
    from scipy.stats import wasserstein_distance

    spread = statistics.pstdev(old)
    distance = float(wasserstein_distance(old, new))
    return distance / spread if spread else (0.0 if distance == 0 else float("inf"))


def _mean(probe: Probe) -> str:
    return f"{statistics.fmean(probe.fares):.2f}"


def _stable_version(client: WorkspaceClient, settings: Settings) -> str | None:
    """The version that serves beside any canary; None when nothing serves."""
    from databricks.sdk.errors import NotFound

    try:
        found = client.serving_endpoints.get(settings.endpoint)
    except NotFound:
        return None
    entities = (found.config.served_entities or []) if found.config else []
    stable = [e for e in entities if not (e.name or "").endswith(SUFFIX)]
    return stable[0].entity_version if stable else None


def _rung(
    client: WorkspaceClient, settings: Settings, share: int, requests: Sequence[Record]
) -> Rung:
    entity = endpoint_config(settings, "0")["config"]["served_entities"][0]["name"]
    until = time.monotonic() + settings.canary.seconds
    before = _live(client, settings, entity + SUFFIX)
    old, new = _Asked(client, settings, entity), _Asked(client, settings, entity + SUFFIX)
    for request in requests:  # by turns, so that a busy moment is nobody's alone
        old.ask(request)
        new.ask(request)
    while True:  # live traffic shows what the probes do not
        now = _live(client, settings, entity + SUFFIX)
        answered, failed = now[0] - before[0] - new.asked, now[1] - before[1] - len(new.errors)
        rung = Rung(share, old.probe(), new.probe(), max(answered, 0), max(failed, 0))
        if judge(rung, settings.canary) or time.monotonic() > until:
            return rung
        time.sleep(LOOK_SECONDS)


class _Asked:
    """One served model, asked by its own path."""

    def __init__(self, client: WorkspaceClient, settings: Settings, name: str) -> None:
        self._client = client
        self._path = f"/serving-endpoints/{settings.endpoint}/served-models/{name}/invocations"
        self._milliseconds: list[float] = []
        self._fares: list[float] = []
        self.errors: list[str] = []

    def ask(self, request: Record) -> None:
        from databricks.sdk.errors.base import DatabricksError

        started = time.perf_counter()
        try:
            body = own({"dataframe_records": [request]}, "canary")
            answer: Any = self._client.api_client.do("POST", self._path, body=body)
            self._fares.append(float(answer["predictions"][0]))
            self._milliseconds.append((time.perf_counter() - started) * 1000)
        except (DatabricksError, KeyError, TypeError) as error:
            self.errors.append(str(error))

    @property
    def asked(self) -> int:
        return len(self._milliseconds) + len(self.errors)

    def probe(self) -> Probe:
        return Probe(tuple(self._milliseconds), tuple(self._fares), tuple(self.errors))


def _live(client: WorkspaceClient, settings: Settings, name: str) -> tuple[int, int]:
    """Queries that reached a served model, and those of them that it could not answer."""
    from prometheus_client.parser import text_string_to_metric_families

    contents = client.serving_endpoints.export_metrics(settings.endpoint).contents
    text = contents.read().decode() if contents is not None else ""
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    failed = sum(_count(samples, f"request_{kind}_count_total", name) for kind in ("4xx", "5xx"))
    return _count(samples, "request_count_total", name), failed


def _count(samples: Iterable[Any], name: str, served: str) -> int:
    return int(
        sum(
            sample.value
            for sample in samples
            if sample.name == name and sample.labels.get("served_model_name") == served
        )
    )
