"""The serving endpoint by way of the Databricks SDK alone: ensure it, wait for it, query it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from databricks_steps.errors import ServingError, reason
from databricks_steps.inference.request import OWN
from databricks_steps.settings import DATABRICKS, REPOSITORY, Settings
from taxi_assets.deployment.retries import patiently

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.serving import (
        EndpointCoreConfigOutput,
        EndpointPendingConfig,
        ServedEntityOutput,
        ServingEndpointDetailed,
    )

CONFIG = REPOSITORY / "databricks_steps" / "serving" / "config"
CONFIG_FILE = CONFIG / "serving_endpoint_config.json"
SINGLE_FILE = CONFIG / "test_single_prediction.json"
BATCH_FILE = CONFIG / "test_batch_predictions.json"
READY_SECONDS = 3 * 3600.0  # a container is built in up to 90 minutes, then deployed
TOLD_SECONDS = 300.0  # between words on an endpoint that is waited for
SETTLE_SECONDS = 60.0  # in which a look may find an endpoint as it was before it was changed
WAKE_SECONDS = 600.0  # an endpoint scaled to zero starts in minutes, and refuses until then
Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class EndpointState:
    """A ready endpoint. `action` is `created`, `updated` or `unchanged`."""

    name: str
    url: str
    version: str
    state: str
    action: str
    seconds: float


def endpoint_config(settings: Settings, version: str) -> dict[str, Any]:
    """The endpoint's configuration file with this target's names and a model version filled in."""
    config: dict[str, Any] = json.loads(CONFIG_FILE.read_text(encoding="utf-8"))
    config["name"] = settings.endpoint
    for entity in config["config"]["served_entities"]:
        entity["entity_name"] = settings.registered_model
        entity["entity_version"] = str(version)
        entity["scale_to_zero_enabled"] = settings.scale_to_zero
    config["ai_gateway"]["inference_table_config"] |= {
        "catalog_name": settings.catalog,
        "schema_name": settings.schema,
        "table_name_prefix": settings.payload_prefix,
    }
    return config


def ensure_endpoint(
    client: WorkspaceClient, settings: Settings, version: str, timeout: float = READY_SECONDS
) -> EndpointState:
    """The endpoint serving this model version, with payload capture; safe to repeat.

    Raises:
        ServingError: the endpoint cannot be made or updated; the message holds the reason.
    """
    started, wanted, name = (
        time.perf_counter(),
        endpoint_config(settings, version),
        settings.endpoint,
    )
    try:
        action, before = _unopposed(
            client, name, timeout, lambda found: _apply(client, wanted, found)
        )
        _await_served(client, wanted, timeout, before)
        _unopposed(client, name, timeout, lambda found: _ensure_capture(client, wanted, found))
    except OSError as error:  # those of the SDK and of requests all are
        raise ServingError(
            "The serving endpoint must serve the model",
            f"{name}, version {version}: {reason(error)}",
            "Correct it and materialize serving_endpoint again",
        ) from error
    url = f"{client.config.host}/serving-endpoints/{name}/invocations"
    seconds = time.perf_counter() - started
    return EndpointState(name, url, str(version), "READY", action, seconds)


def own(payload: dict[str, Any], check: str) -> dict[str, Any]:
    """The payload marked as a request of a check: monitoring leaves it out."""
    return {**payload, "client_request_id": f"{OWN}-{check}"}


def query(client: WorkspaceClient, settings: Settings, payload: dict[str, Any]) -> list[float]:
    """Fares for the rows of a payload that asks for no interval; see `answer`."""
    return [float(value) for value in answer(client, settings, payload)["predictions"]]


def answer(client: WorkspaceClient, settings: Settings, payload: dict[str, Any]) -> dict[str, Any]:
    """What the endpoint answers to a payload, in any of the forms it takes.

    `predictions` holds a fare in dollars for each row; with `params: {"interval": true}` an
    object of `fare`, `low` and `high`.

    On Databricks an endpoint that sleeps is given `WAKE_SECONDS` to wake.

    Raises:
        ServingError: the endpoint refuses; the message says why.
    """
    path = f"/serving-endpoints/{settings.endpoint}/invocations"

    def ask() -> object:
        return client.api_client.do("POST", path, body=payload)

    try:
        found = _once_awake(ask) if settings.platform == DATABRICKS else ask()
    except OSError as error:
        raise ServingError(
            "The endpoint must answer",
            f"{settings.endpoint}: {reason(error)}",
            "Correct the request",
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("predictions"), list):
        raise ServingError(
            "The endpoint must answer with predictions", str(found)[:200], "Look at its logs"
        )
    return found


def wake(client: WorkspaceClient, settings: Settings) -> float:
    """Seconds until the endpoint answers: the first request after a rest starts its container.

    Raises:
        ServingError: it does not answer within `WAKE_SECONDS`.
    """
    started = time.monotonic()
    payload = json.loads(SINGLE_FILE.read_text(encoding="utf-8"))
    query(client, settings, own(payload, "wake"))
    return time.monotonic() - started


def _once_awake(ask: Callable[[], Result]) -> Result:
    """The answer; one that is late, or says that the endpoint scales up, is asked for again."""
    from databricks.sdk.errors import DeadlineExceeded, TemporarilyUnavailable, TooManyRequests
    from databricks.sdk.retries import retried

    asleep = [DeadlineExceeded, TemporarilyUnavailable, TooManyRequests, TimeoutError]
    again = retried(on=asleep, timeout=timedelta(seconds=WAKE_SECONDS))
    return cast("Result", again(ask)())


def find(client: WorkspaceClient, name: str) -> ServingEndpointDetailed | None:
    """The endpoint; None where there is none."""
    from databricks.sdk.errors import NotFound

    with suppress(NotFound):
        return patiently(lambda: client.serving_endpoints.get(name))
    return None


def _unopposed(
    client: WorkspaceClient,
    name: str,
    timeout: float,
    change: Callable[[ServingEndpointDetailed | None], Result],
) -> Result:
    """What a change of the endpoint gives, made when no update is under way.

    It is made again after a conflict: an update has begun since, or the first answer was lost.
    """
    from databricks.sdk.errors import ResourceConflict
    from databricks.sdk.retries import retried

    def attempt() -> Result:
        found = _settled(client, name, timeout)
        return patiently(lambda: change(found))

    again = retried(on=[ResourceConflict], timeout=timedelta(seconds=timeout))
    return cast("Result", again(attempt)())


def _apply(
    client: WorkspaceClient, wanted: dict[str, Any], found: ServingEndpointDetailed | None
) -> tuple[str, ServingEndpointDetailed | None]:
    """What was done to the endpoint that was found, and that endpoint as it was before."""
    from databricks.sdk.service.serving import AiGatewayConfig, EndpointCoreConfigInput

    name, api = wanted["name"], client.serving_endpoints
    config = EndpointCoreConfigInput.from_dict(wanted["config"])
    if found is None:
        api.create(name, config=config, ai_gateway=AiGatewayConfig.from_dict(wanted["ai_gateway"]))
        return "created", found
    if _says(found.config, wanted) and not _failed(found):
        return "unchanged", found
    api.update_config(
        name, served_entities=config.served_entities, traffic_config=config.traffic_config
    )
    return "updated", found


def _ensure_capture(
    client: WorkspaceClient, wanted: dict[str, Any], found: ServingEndpointDetailed | None
) -> None:
    from databricks.sdk.service.serving import AiGatewayConfig, AiGatewayInferenceTableConfig

    table = AiGatewayInferenceTableConfig.from_dict(wanted["ai_gateway"]["inference_table_config"])
    found = found or client.serving_endpoints.get(wanted["name"])
    gateway = found.ai_gateway or AiGatewayConfig()
    current = gateway.inference_table_config
    if current == table:
        return

    def put(config: AiGatewayInferenceTableConfig) -> None:
        """A put replaces the whole gateway: what an administrator has set goes with it."""
        kept = {name: value for name, value in vars(gateway).items() if value is not None}
        others = kept | {"inference_table_config": config}
        client.serving_endpoints.put_ai_gateway(wanted["name"], **others)

    if current is not None and current.enabled:  # it is moved while it is disabled alone
        put(replace(current, enabled=False))
    put(table)


def _says(
    config: EndpointCoreConfigOutput | EndpointPendingConfig | None, wanted: dict[str, Any]
) -> bool:
    """Whether a configuration says what is wanted; fields left out there say nothing."""
    return not any(differences(config.as_dict() if config else {}, wanted["config"]))


def _failed(found: ServingEndpointDetailed) -> bool:
    """Whether the newest update has not become active, and will not."""
    from databricks.sdk.service.serving import EndpointStateConfigUpdate

    return found.state is not None and found.state.config_update in (
        EndpointStateConfigUpdate.UPDATE_FAILED,
        EndpointStateConfigUpdate.UPDATE_CANCELED,
    )


def _ready(found: ServingEndpointDetailed) -> bool:
    from databricks.sdk.service.serving import EndpointStateReady

    return found.state is not None and found.state.ready is EndpointStateReady.READY


def differences(active: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """A sentence for each value that is not what is wanted; what is left out says nothing."""
    if isinstance(wanted, dict) and isinstance(active, dict):
        for key, value in wanted.items():
            yield from differences(active.get(key), value, f"{path}.{key}".lstrip("."))
    elif isinstance(wanted, list) and isinstance(active, list) and len(active) == len(wanted):
        for place, pair in enumerate(zip(active, wanted, strict=True)):
            yield from differences(*pair, f"{path}[{place}]")
    elif active != wanted:
        yield f"{path} {_shown(active)} -> {_shown(wanted)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} of them"
    return "none" if value is None else str(value)


def _updating(found: ServingEndpointDetailed) -> bool:
    from databricks.sdk.service.serving import EndpointStateConfigUpdate

    return bool(found.state and found.state.config_update is EndpointStateConfigUpdate.IN_PROGRESS)


def _settled(client: WorkspaceClient, name: str, timeout: float) -> ServingEndpointDetailed | None:
    """The endpoint, where there is one, once no update is under way, whatever became of it."""
    return _once(client, name, timeout, lambda found: found is None or not _updating(found))


def _once(
    client: WorkspaceClient,
    name: str,
    timeout: float,
    holds: Callable[[ServingEndpointDetailed | None], bool],
) -> ServingEndpointDetailed | None:
    """The endpoint, where there is one, once this holds."""
    started, told = time.monotonic(), 0.0
    found = find(client, name)
    while not holds(found):
        waited = time.monotonic() - started
        if waited > timeout:
            raise ServingError(
                f"The endpoint must be ready within {timeout:g} seconds",
                f"{name}: {_state(found)}",
                "Look at its state, then materialize serving_endpoint again",
            )
        if waited - told > TOLD_SECONDS:
            told = waited
            _LOG.warning("endpoint %s, %d minutes: %s", name, waited // 60, _state(found))
        time.sleep(min(max(waited / 10, 0.05), 10.0))  # so that a tenth of the wait is ours at most
        found = find(client, name)
    return found


def _state(found: ServingEndpointDetailed | None) -> str:
    """As `NOT_READY, IN_PROGRESS: Container image creation is in progress`."""
    messages = [e.state.deployment_state_message for e in _entities(found) if e.state]
    return ": ".join([_words(found), *filter(None, messages[:1])])


def _words(found: ServingEndpointDetailed | None) -> str:
    if found is None:
        return "not there"
    state = found.state
    words = [each.value for each in (state.ready, state.config_update) if each] if state else []
    return ", ".join(words) or "no state"


def _entities(found: ServingEndpointDetailed | None) -> Iterator[ServedEntityOutput]:
    """What is about to be served, then what is."""
    for config in (found.pending_config, found.config) if found else ():
        yield from (config and config.served_entities) or ()


def _await_served(
    client: WorkspaceClient,
    wanted: dict[str, Any],
    timeout: float,
    before: ServingEndpointDetailed | None,
) -> None:
    """Wait until the endpoint is ready and serves what is wanted; one just made is neither.

    Until it has been without an update for `SETTLE_SECONDS`, a look may find it as it was `before`
    the change, or not at all: only then is it believed that the change has led elsewhere.
    """
    name, idle_since = wanted["name"], time.monotonic()

    def over(found: ServingEndpointDetailed | None) -> bool:
        nonlocal idle_since
        if found is not None and _updating(found):
            idle_since = time.monotonic()
            return False
        settled = time.monotonic() - idle_since > SETTLE_SECONDS
        if found is None:
            return settled
        if _failed(found):
            return settled or (found != before and _says(found.pending_config, wanted))
        return _ready(found) and (settled or _says(found.config, wanted))

    found = _once(client, name, timeout, over)
    if found is None or not (_ready(found) and _says(found.config, wanted)):
        raise ServingError(
            "The endpoint's update must succeed",
            f"{name}: {_words(found)}: {_reason(found, wanted)}",
            "What served before serves on. Correct it, then materialize serving_endpoint again",
        )


def _reason(found: ServingEndpointDetailed | None, wanted: dict[str, Any]) -> str:
    """What the workspace says about the entities that failed, or what is served instead."""
    for entity in _entities(found):
        state = entity.state
        if state and state.deployment and state.deployment.value == "DEPLOYMENT_FAILED":
            return state.deployment_state_message or "no message"
    active = found.config.as_dict() if found and found.config else {}
    return "; ".join(differences(active, wanted["config"])) or "no message"
