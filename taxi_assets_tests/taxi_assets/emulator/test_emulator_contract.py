"""The whole API against its own OpenAPI document, with generated requests over real sockets."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from databricks_steps.inference.request import FORMS
from taxi_assets.emulator.api import openapi
from taxi_assets_tests.taxi_assets.emulator.emulator_fixtures import Workspace

pytestmark = pytest.mark.long  # thousands of generated requests

# 10,000 cases are for a look by hand (docs/serving.md); the suite tries fewer of each kind.
CASES = int(os.environ.get("TAXI_CONTRACT_CASES", "1000"))


@pytest.fixture(scope="module")
def document(served: Workspace) -> dict[str, Any]:
    answer = requests.get(f"{served.settings.host}/openapi.json", timeout=10)
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def tried(served: Workspace) -> Iterator[Counter[int]]:
    """Statuses that were answered; the server must have lived through all of it."""
    seen: Counter[int] = Counter()
    yield seen
    answer = requests.get(f"{served.settings.host}/health", timeout=10)
    assert answer.json()["status"] == "ok"
    log = (served.settings.home / "logs" / "workspace.log").read_text()
    assert "Traceback" not in log
    assert served.token not in log


def test_the_document_describes_every_route_and_every_status(document: dict[str, Any]) -> None:
    assert openapi.QUERY in document["paths"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            assert {"400", "401", "404", "429", "500"} < set(operation["responses"]), path
    body = document["paths"][openapi.QUERY]["post"]["requestBody"]["content"]["application/json"]
    forms = [kind["$ref"].rpartition("/")[2] for kind in body["schema"]["anyOf"]]
    schemas = document["components"]["schemas"]
    assert tuple(name for form in forms for name in schemas[form]["required"]) == FORMS
    described(document)


def described(document: dict[str, Any]) -> Any:
    """The API that a document describes."""
    import schemathesis  # half a second: not where no test of this file runs

    return schemathesis.openapi.from_dict(document)


def test_no_generated_request_breaks_the_server_or_its_document(
    served: Workspace, document: dict[str, Any], tried: Counter[int]
) -> None:
    api = described(document)
    api.config.update(base_url=served.settings.host)
    operations = [found.ok() for found in api.get_all_operations()]
    assert len(operations) > 20
    headers = {"Authorization": f"Bearer {served.token}"}
    weights = [4 if "/invocations" in operation.path else 1 for operation in operations]
    each = max(1, CASES // sum(weights))
    for operation, weight in zip(operations, weights, strict=True):
        _try(operation, each * weight, headers, served, tried)
    print(f"{tried.total():,} cases, by status: {dict(sorted(tried.items()))}")
    assert tried.total() >= CASES * 0.9
    assert tried[200] > 0
    assert tried[400] > 0


def _try(
    operation: Any, cases: int, headers: dict[str, str], served: Workspace, tried: Counter[int]
) -> None:
    """Requests as the document has them, and requests that break it, to one operation."""
    from schemathesis import GenerationMode, checks
    from schemathesis.specs.openapi import checks as of_openapi

    own = served.settings.endpoint
    strategy = st.one_of(
        operation.as_strategy(generation_mode=GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
    )
    conforms = [
        checks.not_a_server_error,
        of_openapi.status_code_conformance,
        of_openapi.content_type_conformance,
        of_openapi.response_schema_conformance,
    ]

    @seed(20221)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy, to_own=st.booleans(), lot=st.integers(0, 9))
    def attempt(case: Any, to_own: bool, lot: int) -> None:
        deletes = case.method == "DELETE"
        if to_own and not deletes and "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = own
            if "served" in case.path_parameters:
                case.path_parameters["served"] = "taxi-fare"
        if lot != 7:  # some go as they were generated, with any token or none
            case.headers = {**(case.headers or {}), **headers}
        answer = case.call_and_validate(checks=conforms)
        tried[answer.status_code] += 1

    attempt()
