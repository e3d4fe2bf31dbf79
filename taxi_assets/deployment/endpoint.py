"""The serving endpoint by way of the Databricks SDK alone: ensure it, wait for it, query it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from databricks_steps.errors import ServingError
from databricks_steps.inference.request import OWN
from databricks_steps.settings import DATABRICKS, REPOSITORY, Settings

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.serving import ServingEndpointDetailed

CONFIG = REPOSITORY / "databricks_steps" / "serving" / "config"
CONFIG_FILE = CONFIG / "serving_endpoint_config.json"
SINGLE_FILE = CONFIG / "test_single_prediction.json"
BATCH_FILE = CONFIG / "test_batch_predictions.json"
READY_SECONDS = 3 * 3600.0  # a container is built in up to 90 minutes, then deployed
TOLD_SECONDS = 300.0  # between words on an endpoint that is waited for
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
    from databricks.sdk.errors.base import DatabricksError

    started, wanted, name = (
        time.perf_counter(),
        endpoint_config(settings, version),
        settings.endpoint,
    )
    try:
        action = _apply(client, wanted, timeout)
        _ensure_capture(client, wanted, _await_ready(client, name, timeout))
    except DatabricksError as error:
        raise ServingError(
            "The serving endpoint must serve the model",
            f"{name}, version {version}: {error}",
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
    from databricks.sdk.errors.base import DatabricksError

    path = f"/serving-endpoints/{settings.endpoint}/invocations"

    def ask() -> object:
        return client.api_client.do("POST", path, body=payload)

    try:
        found = _once_awake(ask) if settings.platform == DATABRICKS else ask()
    except (DatabricksError, TimeoutError) as error:
        raise ServingError(
            "The endpoint must answer", f"{settings.endpoint}: {error}", "Correct the request"
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


def _apply(client: WorkspaceClient, wanted: dict[str, Any], timeout: float) -> str:
    from databricks.sdk.errors import NotFound
    from databricks.sdk.service.serving import AiGatewayConfig, EndpointCoreConfigInput

    name = wanted["name"]
    config = EndpointCoreConfigInput.from_dict(wanted["config"])
    try:
        found = client.serving_endpoints.get(name)
    except NotFound:
        client.serving_endpoints.create(
            name, config=config, ai_gateway=AiGatewayConfig.from_dict(wanted["ai_gateway"])
        )
        return "created"
    if found.pending_config is not None and _updating(found):
        found = _settled(client, name, timeout)
    if _serves(found, wanted):
        return "unchanged"
    client.serving_endpoints.update_config(
        name, served_entities=config.served_entities, traffic_config=config.traffic_config
    )
    return "updated"


def _ensure_capture(
    client: WorkspaceClient, wanted: dict[str, Any], found: ServingEndpointDetailed
) -> None:
    from databricks.sdk.service.serving import AiGatewayConfig, AiGatewayInferenceTableConfig

    table = AiGatewayInferenceTableConfig.from_dict(wanted["ai_gateway"]["inference_table_config"])
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


def _serves(found: ServingEndpointDetailed, wanted: dict[str, Any]) -> bool:
    """Whether the active configuration says what is wanted; fields left out there say nothing."""
    from databricks.sdk.service.serving import EndpointStateConfigUpdate

    active = found.config.as_dict() if found.config else {}
    failed = found.state and found.state.config_update is EndpointStateConfigUpdate.UPDATE_FAILED
    return not failed and not any(differences(active, wanted["config"]))


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


def _settled(client: WorkspaceClient, name: str, timeout: float) -> ServingEndpointDetailed:
    """The endpoint once no update is under way, whatever became of it."""
    return _once(client, name, timeout, lambda found: not _updating(found))


def _once(
    client: WorkspaceClient,
    name: str,
    timeout: float,
    holds: Callable[[ServingEndpointDetailed], bool],
) -> ServingEndpointDetailed:
    """The endpoint once this holds."""
    started, told = time.monotonic(), 0.0
    found = client.serving_endpoints.get(name)
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
        found = client.serving_endpoints.get(name)
    return found


def _state(found: ServingEndpointDetailed) -> str:
    """As `NOT_READY, IN_PROGRESS: Container image creation is in progress`."""
    words = [each.value for each in vars(found.state).values() if each] if found.state else []
    configs = [config for config in (found.pending_config, found.config) if config is not None]
    entities = [entity for config in configs for entity in config.served_entities or []]
    messages = [e.state.deployment_state_message for e in entities if e.state]
    return ": ".join([", ".join(words) or "no state", *filter(None, messages[:1])])


def _await_ready(client: WorkspaceClient, name: str, timeout: float) -> ServingEndpointDetailed:
    """The endpoint once it is ready: one that was made right now neither is nor updates."""
    from databricks.sdk.service.serving import EndpointStateConfigUpdate, EndpointStateReady

    def over(found: ServingEndpointDetailed) -> bool:
        state = found.state
        ready = state is not None and state.ready is EndpointStateReady.READY
        failed = state is not None and state.config_update in (
            EndpointStateConfigUpdate.UPDATE_FAILED,
            EndpointStateConfigUpdate.UPDATE_CANCELED,
        )
        return failed or (ready and not _updating(found))

    found = _once(client, name, timeout, over)
    state = found.state
    if state is None or state.config_update is not EndpointStateConfigUpdate.NOT_UPDATING:
        update = state.config_update.value if state and state.config_update else "no state"
        raise ServingError(
            "The endpoint's update must succeed",
            f"{name}: {update}: {_reason(found)}",
            "What served before serves on. Correct it, then materialize serving_endpoint again",
        )
    return found


def _reason(found: ServingEndpointDetailed) -> str:
    """What the workspace says about the entities that failed."""
    configs = [config for config in (found.pending_config, found.config) if config is not None]
    for config in configs:
        for entity in config.served_entities or []:
            state = entity.state
            if state and state.deployment and state.deployment.value == "DEPLOYMENT_FAILED":
                return state.deployment_state_message or "no message"
    return "no message"
