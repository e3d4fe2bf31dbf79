"""Clusters whose making is asked for more often than once: none is left at work."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from databricks.sdk import WorkspaceClient

from taxi_assets.deployment import retries
from taxi_assets.resources.run_cluster import RunCluster
from taxi_assets_tests.documents import databricks, refused

SPEC = {"cluster_name": "taxi-assets run-1"}
OTHER = {"cluster_id": "0", "cluster_name": "taxi-assets run-2", "state": "RUNNING"}


class Clusters:
    """Makes a cluster of each request, and loses the answers to the first `lost` of them."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = [dict(OTHER)]
        self.lost, self.refuses = 1, False

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        name = urlsplit(path).path.rsplit("/", 1)[1]
        if name == "list":
            return 200, {"clusters": self.all}
        if name == "delete":
            if self.refuses:
                return refused(403)
            self.all[int(body["cluster_id"])]["state"] = "TERMINATED"
            return 200, {}
        number = str(len(self.all))
        self.all.append({"cluster_id": number, **SPEC, "state": "RUNNING"})
        if len(self.all) <= self.lost + 1:
            raise ConnectionAbortedError
        return 200, {"cluster_id": number}

    @property
    def states(self) -> list[str]:
        return [each["state"] for each in self.all]


@pytest.fixture
def clusters() -> Clusters:
    return Clusters()


@pytest.fixture
def client(clusters: Clusters) -> Iterator[WorkspaceClient]:
    with databricks(clusters, patience=9) as found:  # it sends a request again itself
        yield found


def test_both_clusters_of_a_request_that_was_sent_twice_are_ended(
    clusters: Clusters, client: WorkspaceClient
) -> None:
    shared = RunCluster()
    with shared.held():
        assert shared.made(client, SPEC) == "2"
        assert clusters.states == ["RUNNING"] * 3
    assert clusters.states == ["RUNNING", "TERMINATED", "TERMINATED"]


def test_a_cluster_that_nobody_learns_of_is_ended(
    clusters: Clusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PATIENCE", timedelta(seconds=1))
    shared = RunCluster()
    with databricks(clusters) as client, pytest.raises(TimeoutError), shared.held():
        shared.made(client, SPEC)
    assert clusters.states == ["RUNNING", "TERMINATED"]


def test_clusters_that_cannot_be_ended_end_nothing_else(
    clusters: Clusters, client: WorkspaceClient, caplog: pytest.LogCaptureFixture
) -> None:
    clusters.lost, clusters.refuses = 0, True
    shared = RunCluster()
    with shared.held():
        shared.made(client, SPEC)
    assert "ends when it is idle: no: 403" in caplog.text
