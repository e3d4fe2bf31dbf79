"""Updates of an endpoint as Databricks answers them: late, lost, in each other's way."""

from __future__ import annotations

from typing import Any

import pytest

from databricks_steps.errors import ServingError
from databricks_steps.settings import DATABRICKS, Settings
from taxi_assets.deployment import endpoint
from taxi_assets_tests.documents import databricks, refused

REMOTE = Settings(platform=DATABRICKS)
Look = dict[str, Any] | int
GET, PUT, POST, CAPTURE = "GET", "PUT config", "POST serving-endpoints", "PUT ai-gateway"


def shown(
    version: str,
    update: str = "NOT_UPDATING",
    pending: str = "",
    number: int = 0,
    ready: bool = True,
) -> dict[str, Any]:
    """The endpoint as the API describes it; `number` is the pending configuration's."""
    wanted = endpoint.endpoint_config(REMOTE, version)
    found = {
        "name": REMOTE.endpoint,
        "state": {"ready": "READY" if ready else "NOT_READY", "config_update": update},
        "config": wanted["config"],
        "ai_gateway": wanted["ai_gateway"],
    }
    if pending:
        config = endpoint.endpoint_config(REMOTE, pending)["config"]
        found["pending_config"] = config | {"config_version": number}
    return found


class Scripted:
    """Looks see one document, or refusal, after the other; changes are noted and may be refused.

    A `refusals` of None is a change that was made, and whose answer is lost.
    """

    def __init__(self, *looks: Look, refusals: list[tuple[int, Any] | None] | None = None) -> None:
        self.looks, self.refusals = [*looks], refusals or []
        self.changes: list[str] = []

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if method != GET:
            self.changes.append(f"{method} {path.rsplit('/', 1)[1]}")
            if not self.refusals:
                return 200, {"name": REMOTE.endpoint}
            if (refusal := self.refusals.pop(0)) is None:
                raise ConnectionAbortedError
            return refusal
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return refused(look) if isinstance(look, int) else (200, look)


def ensured(script: Scripted, version: str = "4", timeout: float = 20) -> str:
    """What was done so that the endpoint serves a version; nothing of the script is left over."""
    with databricks(script) as client:
        state = endpoint.ensure_endpoint(client, REMOTE, version, timeout)
    assert len(script.looks) == 1
    assert script.refusals == []
    return state.action


def failure(script: Scripted, version: str = "4") -> str:
    with pytest.raises(ServingError) as caught:
        ensured(script, version)
    return str(caught.value)


@pytest.fixture
def settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "SETTLE_SECONDS", 0.2)


@pytest.mark.parametrize("status", [429, 500])
def test_a_look_that_is_refused_for_a_moment_is_repeated(status: int) -> None:
    building = shown("3", "IN_PROGRESS", "4")
    assert ensured(Scripted(shown("3"), building, status, building, shown("4"))) == "updated"


def test_a_look_that_is_refused_for_good_is_one_error() -> None:
    script = Scripted(shown("3"), 403)
    assert "version 4: no: 403" in failure(script)


def test_a_change_that_is_refused_for_a_moment_is_repeated() -> None:
    script = Scripted(shown("3"), shown("4"), refusals=[refused(500)])
    assert ensured(script) == "updated"
    assert script.changes == [PUT, PUT]


def test_what_was_served_before_an_update_is_not_taken_for_its_end() -> None:
    before = shown("3")
    script = Scripted(before, before, before, shown("3", "IN_PROGRESS", "4"), shown("4"))
    assert ensured(script) == "updated"
    assert script.changes == [PUT]


def test_a_failure_of_before_an_update_is_not_taken_for_its_own() -> None:
    before = shown("3", "UPDATE_FAILED", "4", number=7)
    working = shown("3", "IN_PROGRESS", "4", number=8)
    script = Scripted(before, before, before, working, shown("4"))
    assert ensured(script) == "updated"
    assert script.changes == [PUT]


def test_a_failure_of_an_update_is_told_at_once() -> None:
    before = shown("3", "UPDATE_FAILED", "4", number=7)
    script = Scripted(before, shown("3", "UPDATE_FAILED", "4", number=8))
    assert f"{REMOTE.endpoint}: READY, UPDATE_FAILED" in failure(script)


def test_an_endpoint_that_cannot_be_seen_yet_is_waited_for() -> None:
    script = Scripted(404, 404, 404, shown("4", ready=False), shown("4"))
    assert ensured(script) == "created"
    assert script.changes == [POST]


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (shown("3"), "READY, NOT_UPDATING: served_entities[0].entity_version 3 -> 4"),
        (shown("3", "UPDATE_CANCELED"), "UPDATE_CANCELED: served_entities[0].entity_version 3 ->"),
        (404, "not there"),
    ],
    ids=["unchanged", "cancelled", "gone"],
)
@pytest.mark.usefixtures("settles_soon")
def test_an_update_that_led_elsewhere_is_no_success(after: Look, told: str) -> None:
    assert told in failure(Scripted(shown("3"), after))


def test_an_update_of_others_is_waited_for_though_nobody_tells_to_what() -> None:
    script = Scripted(shown("2", "IN_PROGRESS"), shown("3"), shown("4"))
    assert ensured(script) == "updated"
    assert script.changes == [PUT]


def test_an_update_that_began_in_between_is_waited_for() -> None:
    script = Scripted(
        *(shown("3"), shown("3", "IN_PROGRESS", "5"), shown("5"), shown("4")),
        refusals=[refused(409)],
    )
    assert ensured(script) == "updated"
    assert script.changes == [PUT, PUT]


def test_the_gateway_of_an_endpoint_is_changed_after_an_update_of_others() -> None:
    uncaptured = shown("4")
    del uncaptured["ai_gateway"]
    script = Scripted(
        *(uncaptured, uncaptured, uncaptured, uncaptured | shown("4", "IN_PROGRESS"), uncaptured),
        refusals=[refused(409)],
    )
    assert ensured(script) == "unchanged"
    assert script.changes == [CAPTURE, CAPTURE]


def test_a_conflict_that_never_ends_is_given_up() -> None:
    script = Scripted(shown("3"), refusals=[refused(409)] * 9)
    with databricks(script) as client, pytest.raises(ServingError, match="no: 409"):
        endpoint.ensure_endpoint(client, REMOTE, "4", timeout=1)


@pytest.mark.parametrize("update", ["UPDATE_FAILED", "UPDATE_CANCELED"])
def test_after_an_update_that_came_to_nothing_the_version_is_put_again(update: str) -> None:
    script = Scripted(shown("3", update), shown("3", "IN_PROGRESS", "3"), shown("3"))
    assert ensured(script, "3") == "updated"
    assert script.changes == [PUT]


@pytest.mark.usefixtures("settles_soon")
def test_an_endpoint_serves_what_is_wanted_whatever_became_of_another_update() -> None:
    assert ensured(Scripted(shown("3", "UPDATE_CANCELED")), "3") == "updated"


@pytest.mark.parametrize(
    ("looks", "refusals", "changes"),
    [
        ((404, shown("4")), [None, refused(400, "RESOURCE_ALREADY_EXISTS")], [POST, POST]),
        (
            (shown("3"), shown("3", "IN_PROGRESS", "4"), shown("4")),
            [None, refused(409)],
            [PUT, PUT],
        ),
    ],
    ids=["created", "updated"],
)
def test_a_change_whose_answer_was_lost_is_not_in_its_own_way(
    looks: tuple[Look, ...], refusals: list[Any], changes: list[str]
) -> None:
    script = Scripted(*looks, refusals=refusals)
    ensured(script)
    assert script.changes == changes
