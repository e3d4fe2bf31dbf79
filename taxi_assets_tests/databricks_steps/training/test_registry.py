"""A registry that is not the home's own: a model nobody made yet, and one nobody may see."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from databricks_steps.errors import ModelError
from databricks_steps.settings import DATABRICKS, LOOPBACK, Settings
from databricks_steps.training import registry


class Refusing(ThreadingHTTPServer):
    """Answers every request as Unity Catalog does when it says no, with `code` and its status."""

    code, status = "RESOURCE_DOES_NOT_EXIST", 404

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _refuse(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                self.rfile.read(length)
                told: Any = {"error_code": outer.code, "message": "Model 'p03.a.b': no such"}
                body = json.dumps(told).encode()
                self.send_response_only(outer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _refuse  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__((LOOPBACK, 0), Handler)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    server = Refusing()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DATABRICKS_HOST", f"http://{LOOPBACK}:{server.server_address[1]}")
    monkeypatch.setenv("DATABRICKS_TOKEN", "token")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_that_nobody_made_yet_has_no_versions(
    refusing: Refusing, settings: Settings
) -> None:
    remote = replace(settings, platform=DATABRICKS)
    assert registry.made_from(remote, 17) is None
    assert registry.version(remote, registry.CHAMPION) is None
    with pytest.raises(ModelError, match="has no version '1'. There are: none"):
        registry.numbered(remote, "1")


def test_a_model_that_nobody_may_see_is_no_missing_one(
    refusing: Refusing, settings: Settings
) -> None:
    refusing.code, refusing.status = "PERMISSION_DENIED", 403
    remote = replace(settings, platform=DATABRICKS)
    with pytest.raises(ModelError, match="The model registry must answer"):
        registry.made_from(remote, 17)
