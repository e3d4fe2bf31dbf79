"""Clusters: what may be asked for in this cloud, and which there are. Every task runs here."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from databricks_steps.settings import inherited
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime.state import State

KIND = "compute"
CLOUD = "TAXI_CLOUD"  # whose node types there are
# Few of each cloud's own: what another has, its control plane does not know.
NODE_TYPES = {
    "azure": ("Standard_D4s_v3", "Standard_DS3_v2", "Standard_E4ds_v4", "Standard_E8ds_v4"),
    "aws": ("i3.xlarge", "m5d.xlarge", "m5d.2xlarge", "r5d.xlarge"),
    "gcp": ("n2-highmem-4", "n2-highmem-8", "n2-standard-4", "e2-highmem-4"),
}
RUNTIMES = tuple(
    f"{release}-{kind}"
    for release in ("16.4.x", "17.3.x", "18.0.x")
    for kind in ("scala2.13", "cpu-ml-scala2.13")
)
_ID = re.compile(r"[0-9]{4}-[0-9]{6}-[0-9a-z]{8}")
Document = dict[str, Any]


class Clusters:
    """The clusters that were created; those of single tasks are in the record of their run."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.cloud = inherited().get(CLOUD) or "azure"

    def require(self, spec: Document) -> None:
        """Refuse a cluster that this cloud has no nodes or no runtime for."""
        known = NODE_TYPES.get(self.cloud, ())
        for name in ("node_type_id", "driver_node_type_id"):
            node = spec.get(name)
            if node is not None and node not in known:
                raise errors.invalid(
                    f"Node type {node} is not supported", self.cloud, f"One of {', '.join(known)}"
                )
        if not spec.get("node_type_id") and not spec.get("instance_pool_id"):
            raise errors.invalid("A cluster has a node type or a pool", "none", "Name one")
        if spec.get("spark_version") not in RUNTIMES:
            raise errors.invalid(
                "Invalid spark version", str(spec.get("spark_version"))[:80], "See spark-versions"
            )

    def create(self, spec: Document) -> str:
        self.require(spec)
        now = time.gmtime()
        number = f"{time.strftime('%m%d-%H%M%S', now)}-{uuid.uuid4().hex[:8]}"
        document = spec | {
            "cluster_id": number,
            "state": "RUNNING",
            "start_time": int(time.time() * 1000),
        }
        self._state.put(KIND, number, document)
        return number

    def get(self, number: str) -> Document:
        document = self._state.get(KIND, number) if _ID.fullmatch(number) else None
        if document is None:
            raise errors.invalid(f"Cluster {number[:80]} does not exist", self.cloud, "Create it")
        return document

    def started(self, number: str) -> Document:
        """The same; a task starts one that has ended."""
        document = self.get(number)
        if document["state"] == "TERMINATED":
            document |= {"state": "RUNNING", "start_time": int(time.time() * 1000)}
            self._state.put(KIND, number, document)
        return document

    def all(self) -> list[Document]:
        """The newest first."""
        return [*self._state.all(KIND).values()][::-1]

    def end(self, number: str) -> None:
        document = self.get(number)
        if document["state"] != "TERMINATED":
            self._state.put(
                KIND,
                number,
                document | {"state": "TERMINATED", "terminated_time": int(time.time() * 1000)},
            )
