"""Checks of a Databricks target: who asks, what he may do, and what the tables and runs need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from databricks_steps.errors import SettingsError, reason
from databricks_steps.platforms.databricks.probe import SERVED
from databricks_steps.settings import STAGING_VOLUME
from taxi_assets.deployment.online_store import TABLES as PUBLISHED
from taxi_assets.doctor.findings import Check, FaultError, Level
from taxi_assets.resources.clusters import NODE_TYPES
from taxi_assets.resources.targets import PROD, Target
from taxi_assets.resources.workspace import Workspace

if TYPE_CHECKING:
    from databricks.sdk import WorkspaceClient
    from databricks.sdk.service.catalog import EffectivePermissionsList

GRANTS = "docs/databricks.md has the grants"
DEPLOY = "databricks bundle deploy -t {target}"
NEEDED = {
    "catalog": ("USE_CATALOG",),
    "schema": ("USE_SCHEMA", "CREATE_TABLE", "CREATE_MODEL", "SELECT", "MODIFY"),
    "volume": ("READ_VOLUME", "WRITE_VOLUME"),
}
ALL = "ALL_PRIVILEGES"
FEED = "delta.enableChangeDataFeed"
Answer = TypeVar("Answer")


def checks(target: Target, deep: bool = False) -> Mapping[str, Check]:
    """The checks of a workspace; `deep` lets serverless compute install what steps need."""
    asked = _Asked(target)
    tried = {"environment": asked.environment} if deep else {}
    return {
        "credentials": asked.credentials,
        "catalog": lambda: asked.granted("catalog", target.settings.catalog),
        "schema": lambda: asked.granted(
            "schema", f"{target.settings.catalog}.{target.settings.schema}"
        ),
        "volume": lambda: asked.granted("volume", target.settings.table(STAGING_VOLUME)),
        "change data feed": asked.change_data_feed,
        "primary keys": asked.primary_keys,
        "served entities": asked.served_entities,
        "alias": asked.alias,
        "endpoint": asked.endpoint,
        "online store": asked.online_store,
        "runtime": asked.runtime,
        "node type": asked.node_type,
        **tried,
    }


class _Asked:
    """The workspace of a target, asked by the official SDK."""

    def __init__(self, target: Target) -> None:
        self._target, self._settings = target, target.settings
        self._workspace = Workspace(target.settings)

    @cached_property
    def _user(self) -> str | SettingsError:
        """Who asks, or why nobody is known; asked once, for it can take seconds in vain."""
        try:
            return self._workspace.user()
        except SettingsError as error:
            return error

    @property
    def _me(self) -> str:
        if isinstance(self._user, SettingsError):
            raise FaultError("cannot be looked at without the workspace", "Mend credentials first")
        return self._user

    @property
    def _client(self) -> WorkspaceClient:
        _ = self._me  # raises where no workspace answers
        return self._workspace.client

    def credentials(self) -> str:
        if isinstance(self._user, SettingsError):
            raise self._user
        return f"{self._me} at {self._client.config.host}"

    def granted(self, kind: str, name: str) -> str:
        """Whether this identity has what a run needs, by itself, a group, or from above."""
        found = self._found(
            lambda: self._client.grants.get_effective(kind, name, principal=self._me),
            f"{kind} {name}",
            DEPLOY.format(target=self._target.name),
        )
        held = _privileges(found)
        lacking = [] if ALL in held else [each for each in NEEDED[kind] if each not in held]
        if lacking:
            words = ", ".join(each.replace("_", " ") for each in lacking)
            raise FaultError(f"{self._me} lacks {words} on {name}", f"Grant it: {GRANTS}")
        return f"{name}: {', '.join(NEEDED[kind]).replace('_', ' ')}"

    def change_data_feed(self) -> str:
        def on(table: Any, name: str) -> None:
            if (table.properties or {}).get(FEED) != "true":
                raise FaultError(
                    f"{name} has none: it cannot be published",
                    f"ALTER TABLE {name} SET TBLPROPERTIES ({FEED} = true)",
                )

        return self._each_table(on)

    def primary_keys(self) -> str:
        def keyed(table: Any, name: str) -> None:
            keys = [each.primary_key_constraint for each in table.table_constraints or []]
            if not any(keys):
                raise FaultError(
                    f"{name} has no primary key: it is no feature table",
                    "Remove the table, and materialize it again",
                )

        return self._each_table(keyed)

    def _each_table(self, look: Callable[[Any, str], None]) -> str:
        from databricks.sdk.errors import NotFound

        there = []
        for table in PUBLISHED:
            name = self._settings.table(table.name)
            try:
                found = self._client.tables.get(name)
            except NotFound:
                continue
            look(found, name)
            there.append(table.name)
        return ", ".join(there) or "no feature table yet: the first run makes them"

    def alias(self) -> str:
        """Only the owner of a registered model, or who may manage it, sets its aliases."""
        from databricks.sdk.errors import NotFound

        name = self._settings.registered_model
        try:
            found = self._client.registered_models.get(name)
        except NotFound:
            return f"{name} is not there yet: the first run makes it"
        if found.owner == self._me:
            return f"{self._me} owns {name}"
        effective = self._client.grants.get_effective("function", name, principal=self._me)
        held = _privileges(effective)
        if "MANAGE" not in held:
            raise FaultError(
                f"{self._me} may not set aliases of {name}, its owner is {found.owner}",
                f"Grant MANAGE, or let the owner deploy: {GRANTS}",
            )
        return f"{self._me} may manage {name}"

    def served_entities(self) -> str:
        """Which version answered a captured request: a grant of its own."""
        found = self._found(
            lambda: self._client.grants.get_effective("table", SERVED, principal=self._me),
            SERVED,
            f"Enable the schema system.serving: {GRANTS}",
            "warn",
        )
        if not {ALL, "SELECT"} & _privileges(found):
            raise FaultError(f"{self._me} lacks SELECT on {SERVED}", f"Grant it: {GRANTS}", "warn")
        return f"{SERVED}: SELECT"

    def endpoint(self) -> str:
        """Whoever makes the endpoint is its identity for ever: in prod no person."""
        from databricks.sdk.errors import NotFound

        name = self._settings.endpoint
        try:
            creator = self._client.serving_endpoints.get(name).creator or ""
            told = f"{name} was created by {creator}"
        except NotFound:
            creator, told = self._me, f"{name} is not there yet: {self._me} will create it"
        if self._target.name == PROD and "@" in creator:
            raise FaultError(
                f"{told}, a person, whose identity it keeps",
                "Let the service principal make it (delete it first where it is there)",
            )
        return told

    def online_store(self) -> str:
        from databricks.sdk.errors import NotFound
        from databricks.sdk.service.ml import OnlineStoreState

        name = self._settings.online_store
        try:
            found = self._client.feature_store.get_online_store(name)
        except NotFound:
            return f"{name} is not there yet: the first run makes it"
        state = found.state.value if found.state else "no state"
        if found.state is OnlineStoreState.DELETING:
            raise FaultError(f"{name} is {state}", "Wait until it is gone, or name another")
        if found.state is OnlineStoreState.STOPPED:
            raise FaultError(
                f"{name} is {state}", "The next run starts it, which takes time", "warn"
            )
        return f"{name} is {state}"

    def environment(self) -> str:
        """Whether serverless compute can install what steps need: a call that does nothing."""
        from taxi_assets.resources import remote

        cluster = self._target.cluster
        if cluster is None or not cluster.is_serverless:
            return "steps run on a cluster"
        _ = self._me  # raises where no workspace answers
        try:
            workers = remote.call(self._target, "python_workers")
        except remote.LaunchError as error:
            fix = "Correct LIBRARIES in resources/clusters.py"
            raise FaultError(f"{error.rule}: {error.value}", fix) from error
        return f"{len(cluster.libraries)} packages and the wheel: {workers}"

    def runtime(self) -> str:
        cluster = self._target.cluster
        if cluster is None or cluster.existing or cluster.is_serverless:
            return "steps run on what is there"
        known = {each.key for each in self._client.clusters.spark_versions().versions or []}
        if cluster.spark_version not in known:
            raise FaultError(
                f"the workspace has no runtime {cluster.spark_version}",
                f"Set TAXI_SPARK_VERSION to one of: {', '.join(sorted(filter(None, known))[-3:])}",
            )
        return cluster.spark_version

    def node_type(self) -> str:
        """Whether this cloud has the target's nodes."""
        cluster = self._target.cluster
        if cluster is None or cluster.existing or cluster.pool or cluster.is_serverless:
            return "steps run on what is there"
        found = self._client.clusters.list_node_types().node_types or []
        known = {each.node_type_id for each in found}
        if cluster.node_type not in known:
            raise FaultError(
                f"the workspace has no node type {cluster.node_type}",
                f"Set TAXI_CLOUD to its cloud ({', '.join(NODE_TYPES)}), or TAXI_NODE_TYPE",
            )
        return cluster.node_type

    def _found(
        self, ask: Callable[[], Answer], what: str, fix: str, level: Level = "fail"
    ) -> Answer:
        from databricks.sdk.errors import NotFound, PermissionDenied

        try:
            return ask()
        except NotFound as error:
            raise FaultError(f"there is no {what}", fix, level) from error
        except PermissionDenied as error:
            said = f"{self._me} may not look at {what}: {reason(error)}"
            raise FaultError(said, f"Grant it: {GRANTS}", level) from error


def _privileges(effective: EffectivePermissionsList) -> set[str]:
    return {
        privilege.privilege.value
        for assignment in effective.privilege_assignments or []
        for privilege in assignment.privileges or []
        if privilege.privilege
    }
