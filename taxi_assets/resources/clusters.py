"""The cluster a step is launched on: size, cost tags, libraries, limits; by variables or code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from databricks_steps.errors import SettingsError

SPARK_VERSION = "17.3.x-cpu-ml-scala2.13"  # the one place; docs/adr/0023 says why not 18
NODE_TYPES = {"azure": "Standard_D4s_v3", "aws": "m5d.xlarge", "gcp": "n2-highmem-4"}
CLOUD = "azure"  # where nobody says TAXI_CLOUD
RUN, JOB, POOL, SERVERLESS = "run", "job", "pool", "serverless"  # of TAXI_COMPUTE
# What a cluster installs beside its runtime: pinned as in requirements.lock for the runtime's
# Python, 3.12. The first is not there; it is what resolves with the others.
LIBRARIES = (
    "databricks-feature-engineering==0.18.2",
    "dagster==1.13.27",
    "jinja2==3.1.6",
    "mlflow==3.17.2",
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "skops==0.16.0",
)
ENVIRONMENT = "4"  # of serverless compute: Python 3.12, as the runtime's
IDLE_MINUTES = 20  # after which a run's cluster that nobody ended ends itself
_ID = re.compile(r"\d{4}-\d{6}-\w+")  # of a cluster

# Kind of a principal, as people write it → as the REST API does.
PRINCIPALS = {"group": "group_name", "user": "user_name", "principal": "service_principal_name"}

# Cluster field → variable of the environment.
CLUSTER = {
    "existing": "TAXI_CLUSTER_ID",
    "pool": "TAXI_INSTANCE_POOL_ID",
    "policy": "TAXI_CLUSTER_POLICY_ID",
    "spark_version": "TAXI_SPARK_VERSION",
    "node_type": "TAXI_NODE_TYPE",
}


@dataclass(frozen=True)
class Cluster:
    """The cluster of a launched step, and how long the launcher waits for it.

    `existing` names one that is there. Else the steps of a run share one (`compute` is `run`), or
    each gets a job cluster (`job`), of `workers` nodes (least and most of them: it scales between),
    from `pool` when one is named. `permissions` are (who, level) of the run, who as `group:`,
    `user:` or `principal:` and a name; `secrets` are (variable, scope, key), which only the
    cluster reads.
    """

    spark_version: str = SPARK_VERSION
    node_type: str = NODE_TYPES[CLOUD]
    compute: str = RUN
    workers: tuple[int, int] = (1, 1)
    existing: str = ""
    pool: str = ""
    policy: str = ""
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = LIBRARIES
    tags: Mapping[str, str] = field(default_factory=dict)
    permissions: tuple[tuple[str, str], ...] = ()
    secrets: tuple[tuple[str, str, str], ...] = ()
    poll_seconds: float = 5.0
    grace_seconds: int = 120  # for a run to end that is over its limit or cancelled
    timeout_seconds: int = 6 * 3600

    def run_config(
        self,
        step: str,
        run: str,
        tags: Mapping[str, str],
        variables: Mapping[str, str],
        wheel: str,
        shared: str = "",
    ) -> dict[str, Any]:
        """What is submitted for a step: its cluster, cost tags, libraries and limit of time.

        `wheel` is the path of the project's own wheel, `shared` the id of the run's cluster.
        """
        from taxi_assets.partitions import month_range  # brings Dagster, for commands without

        months = month_range(tags)
        costs = {**self.tags, "asset": step, "run": run, "month": months}
        existing = self.existing or shared
        own = {"existing": existing} if existing else {"new": self._new(costs, variables)}
        return {
            "run_name": f"{step} {months}".strip(),
            "cluster": own,
            "libraries": self.all_libraries(wheel),
            "install_default_libraries": False,  # they would break the cluster's own SDK
            "timeout_seconds": self.timeout_seconds,
        }

    def all_libraries(self, wheel: str) -> list[dict[str, Any]]:
        """What a cluster installs, as the REST API takes it."""
        return [{"whl": wheel}, *({"pypi": {"package": each}} for each in self.libraries)]

    def environment(self, wheel: str) -> dict[str, Any]:
        """The environment of serverless compute, as the REST API takes it: Pipes, not Dagster."""
        packages = [each.replace("dagster==", "dagster-pipes==") for each in self.libraries]
        spec = {"environment_version": ENVIRONMENT, "dependencies": [wheel, *packages]}
        return {"environment_key": "steps", "spec": spec}

    @property
    def is_serverless(self) -> bool:
        return self.compute == SERVERLESS

    @property
    def is_shared(self) -> bool:
        """Whether the steps of a run share a cluster that is made for it."""
        return self.compute == RUN and not self.existing

    def run_spec(self, run: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """The cluster of a run as the REST API creates it."""
        named = {"cluster_name": f"taxi-assets {run}", "autotermination_minutes": IDLE_MINUTES}
        return self.job_spec(run, variables) | named

    def job_spec(self, run: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """The same as the cluster of one task."""
        new = self._new({**self.tags, "run": run}, variables)
        size, nodes = new.pop("size"), new.pop("nodes")
        return {**new, **size, **nodes.get("node_types", nodes)}

    def _new(self, costs: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, Any]:
        least, most = self.workers
        scale = {"autoscale": {"min_workers": least, "max_workers": most}}
        node = {"node_types": {"node_type_id": self.node_type}}
        found = {
            "size": {"num_workers": least} if least == most else scale,
            "spark_version": self.spark_version,
            "nodes": {"instance_pool_id": self.pool} if self.pool else node,
            "spark_conf": dict(self.spark_conf),
            "spark_env_vars": dict(variables),  # known before Spark starts
            "custom_tags": dict(costs),
            "data_security_mode": "SINGLE_USER",
        }
        return {**found, "policy_id": self.policy} if self.policy else found

    def access(self) -> list[dict[str, str]]:
        """The permissions of the run, as the REST API takes them."""
        found = []
        for who, level in self.permissions:
            kind, _, name = who.partition(":")
            found.append({PRINCIPALS[kind]: name, "permission_level": level})
        return found

    @classmethod
    def from_environment(cls, env: Mapping[str, str], **given: Any) -> Cluster:
        """The cluster with the variables applied.

        Raises:
            SettingsError: a variable holds a value that cannot be used.
        """
        cloud = env.get("TAXI_CLOUD") or CLOUD
        if cloud not in NODE_TYPES:
            raise SettingsError(
                "TAXI_CLOUD must be a cloud", repr(cloud), f"Use one of: {', '.join(NODE_TYPES)}"
            )
        changes: dict[str, Any] = {"node_type": NODE_TYPES[cloud]}
        changes |= {key: env[name] for key, name in CLUSTER.items() if env.get(name)}
        if env.get("TAXI_COMPUTE"):
            changes |= _compute(env["TAXI_COMPUTE"], changes)
        if env.get("TAXI_CLUSTER_WORKERS"):
            changes["workers"] = _workers(env["TAXI_CLUSTER_WORKERS"])
        if env.get("TAXI_STEP_SECONDS"):
            changes["timeout_seconds"] = _seconds(env["TAXI_STEP_SECONDS"])
        if env.get("TAXI_CLUSTER_PERMISSIONS"):
            changes["permissions"] = _permissions(env["TAXI_CLUSTER_PERMISSIONS"])
        if env.get("TAXI_CLUSTER_SECRETS"):
            changes["secrets"] = _secrets(env["TAXI_CLUSTER_SECRETS"])
        if changes.get("compute") == SERVERLESS and {"existing", "secrets"} & changes.keys():
            raise SettingsError(
                "TAXI_COMPUTE=serverless takes neither TAXI_CLUSTER_ID nor TAXI_CLUSTER_SECRETS",
                "one is set",
                "Unset it, or use a cluster",
            )
        return cls(**{**given, **changes})


def _compute(text: str, given: Mapping[str, Any]) -> dict[str, str]:
    """`run`, `job`, `pool`, `serverless` or a cluster's id as changes of a `Cluster`."""
    if text in (RUN, JOB, SERVERLESS):
        return {"compute": text}
    if text == POOL:
        if "pool" not in given:
            raise SettingsError("A pool is named by its id", "none", "Set TAXI_INSTANCE_POOL_ID")
        return {"compute": JOB}
    if not _ID.fullmatch(text):
        raise SettingsError(
            "TAXI_COMPUTE must be run, job, pool, serverless or the id of a cluster",
            repr(text),
            "Unset it for one cluster a run",
        )
    return {"existing": text}


def _workers(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    parts = (least, most or least)
    if not all(p.isascii() and p.isdigit() for p in parts) or int(parts[0]) > int(parts[1]):
        raise SettingsError(
            "TAXI_CLUSTER_WORKERS must be a number, or the least and the most",
            repr(text),
            "Write it like 2, or 2:8",
        )
    return int(parts[0]), int(parts[1])


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 7 * 86_400:
        raise SettingsError(
            "TAXI_STEP_SECONDS must be a whole number from 1 to 604800",
            repr(text),
            "Unset it for six hours",
        )
    return int(text)


def _permissions(text: str) -> tuple[tuple[str, str], ...]:
    """`group:ml-engineers=CAN_VIEW,user:a@b.c=CAN_MANAGE` as pairs."""
    found = [each.strip().partition("=") for each in text.split(",")]
    for who, _, level in found:
        if who.partition(":")[0] not in PRINCIPALS or not level:
            raise SettingsError(
                "TAXI_CLUSTER_PERMISSIONS must name who may do what",
                repr(text),
                "Write it like group:ml-engineers=CAN_VIEW,principal:ID=CAN_MANAGE",
            )
    return tuple((who, level) for who, _, level in found)


def _secrets(text: str) -> tuple[tuple[str, str, str], ...]:
    """`VARIABLE=scope/key,…` as triples: references, never the secrets themselves."""
    found: list[tuple[str, str, str]] = []
    for each in text.split(","):
        variable, _, place = each.strip().partition("=")
        scope, _, key = place.partition("/")
        if not (variable and scope and key):
            raise SettingsError(
                "TAXI_CLUSTER_SECRETS must name variables with scope and key",
                f"entry {len(found) + 1} does not",  # its text may be the secret itself
                "Write it like ALERT_URL=taxi/alert-url",
            )
        found.append((variable, scope, key))
    return tuple(found)
