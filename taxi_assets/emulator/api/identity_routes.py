"""Who asks, and the folders they may deploy to: what the Databricks CLI wants to know first.

The holder of the token is this workspace's one service principal, and administers it.
"""

from __future__ import annotations

import uuid
from typing import Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel

from databricks_steps.settings import Settings
from taxi_assets.emulator import errors
from taxi_assets.emulator.runtime.state import State

NAME = "taxi"  # development deployments carry it
MOUNT = "/Workspace"  # a folder has one name below the mount, and one without it


class Group(BaseModel):
    display: str
    value: str
    type: Literal["direct"] = "direct"


class Me(BaseModel):
    """The principal, as SCIM tells it; a service principal's user name is its application id."""

    schemas: tuple[str, ...] = ("urn:ietf:params:scim:schemas:core:2.0:User",)
    id: str
    userName: str  # noqa: N815 - SCIM's names
    displayName: str = NAME  # noqa: N815
    active: bool = True
    groups: tuple[Group, ...]


class Host(BaseModel):
    """What an address tells everybody before they sign in."""

    oidc_endpoint: str
    workspace_id: str


class Folder(BaseModel):
    object_id: int
    object_type: Literal["DIRECTORY"] = "DIRECTORY"
    path: str
    resource_id: str


class Level(BaseModel):
    permission_level: Literal["CAN_MANAGE"] = "CAN_MANAGE"
    inherited: bool


class Access(BaseModel):
    group_name: str | None = None
    service_principal_name: str | None = None
    all_permissions: tuple[Level, ...]


class FolderAccess(BaseModel):
    object_id: str
    object_type: Literal["directory"] = "directory"
    access_control_list: tuple[Access, ...]


def application_id(state: State) -> str:
    """The principal's name: as lasting as the home it administers."""
    return str(uuid.UUID(state.identity))


def routes(settings: Settings, state: State) -> APIRouter:
    """The caller, and the folders that there are: the principal's home, and the way to it."""
    router = APIRouter(tags=["identity"])
    me = application_id(state)
    folders = {path: number for number, path in enumerate(_folders(me), start=1)}

    @router.get("/.well-known/databricks-config")
    def host() -> Host:
        number = int(state.identity[:12], 16)
        return Host(oidc_endpoint=f"{settings.host}/oidc", workspace_id=str(number))

    @router.get("/api/2.0/preview/scim/v2/Me")
    def caller() -> Me:
        return Me(id="1", userName=me, groups=(Group(display="admins", value="1"),))

    @router.get("/api/2.0/workspace/get-status")
    def status(path: str = Query(max_length=4096)) -> Folder:
        number = folders.get(_within(path))
        if number is None:
            raise errors.missing("Path", repr(path[:200]), "Name a folder that exists")
        return Folder(object_id=number, path=path, resource_id=str(number))

    # Jobs and clusters have theirs in `jobs`: this route comes before that one.
    @router.get("/api/2.0/permissions/directories/{number}", response_model_exclude_none=True)
    def access(number: str) -> FolderAccess:
        path = {str(each): path for path, each in folders.items()}.get(number)
        if path is None:
            raise errors.missing("Folder", repr(number[:40]), "Ask for its number by get-status")
        admins = Access(group_name="admins", all_permissions=(Level(inherited=True),))
        own = Access(service_principal_name=me, all_permissions=(Level(inherited=False),))
        return FolderAccess(
            object_id=f"/directories/{number}",
            access_control_list=(own, admins) if path.endswith(me) else (admins,),
        )

    return router


def _folders(me: str) -> tuple[str, ...]:
    return ("/", "/Users", f"/Users/{me}", "/Shared")


def _within(path: str) -> str:
    """The folder's name without the mount."""
    whole = path.rstrip("/") or "/"
    if whole == MOUNT:
        return "/"
    return whole.removeprefix(MOUNT) if whole.startswith(f"{MOUNT}/") else whole
