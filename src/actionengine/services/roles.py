"""The built-in service `roles`: what each role of a tenant allows and denies, and which actors have it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from returns.result import Result, Success

from actionengine.action_context import ActionContext
from actionengine.actions import Service, create_action, create_service
from actionengine.context import ActorType
from actionengine.errors import ActionError, ErrorCode, failing
from actionengine.plan import native
from actionengine.services.access import access_of
from actionengine.storage.port import ROLE_ASSIGNMENTS, ROLES, AsyncRecords

READ_PERMISSION = "roles.read"
MANAGE_PERMISSION = "roles.manage"
_ADMINISTRATORS: tuple[ActorType, ...] = ("human", "integration", "system")


class Model(BaseModel):
    """Inputs refuse fields that they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RuleInput(Model):
    """A permission (`payments.refund`, `payments.*`, `*`), on one resource or on every one."""

    permission: str = Field(min_length=1, max_length=255)
    resource: str | None = Field(default=None, min_length=1, max_length=255)


class RoleInput(Model):
    """A role: deny beats allow."""

    name: str = Field(min_length=1, max_length=100)
    description: str = ""
    allow: tuple[RuleInput, ...] = ()
    deny: tuple[RuleInput, ...] = ()


class RoleName(Model):
    """One role."""

    name: str


class Assignment(Model):
    """A role of an actor."""

    actor_type: ActorType
    actor_id: str = Field(min_length=1, max_length=200)
    role: str


class ActorReference(Model):
    """One actor."""

    actor_type: ActorType
    actor_id: str = Field(min_length=1, max_length=200)


class AssignedRoles(Model):
    """The roles that are assigned to an actor."""

    actor_type: ActorType
    actor_id: str
    roles: tuple[str, ...]


class Page(Model):
    """A page: after this name, at most so many."""

    after: str | None = None
    limit: int = Field(default=100, ge=1, le=1000)


@native
async def _define(data: RoleInput, ctx: ActionContext) -> Result[RoleInput, ActionError]:
    records = access_of(ctx).records(ROLES)
    current = await records.get(data.name)
    if current is None:
        await records.insert(data.model_dump(), data.name)
    else:
        await records.update(data.name, data.model_dump(), current.version)
    return Success(data)


@native
async def _list(data: Page, ctx: ActionContext) -> Result[tuple[RoleInput, ...], ActionError]:
    page = await access_of(ctx).records(ROLES).list(limit=data.limit, after=data.after)
    return Success(tuple(RoleInput(**record.data) for record in page))


@native
async def _delete(data: RoleName, ctx: ActionContext) -> Result[None, ActionError]:
    records = access_of(ctx).records(ROLES)
    current = await records.get(data.name)
    if current is None:
        raise _no_role(data.name)
    await records.delete(data.name, current.version)
    await _take_from_everybody(data.name, access_of(ctx).records(ROLE_ASSIGNMENTS))
    return Success(None)


@native
async def _assign(data: Assignment, ctx: ActionContext) -> Result[AssignedRoles, ActionError]:
    access = access_of(ctx)
    if await access.records(ROLES).get(data.role) is None:
        raise _no_role(data.role)
    records = access.records(ROLE_ASSIGNMENTS)
    version, roles = await _assigned(records, data)
    if data.role not in roles:
        roles = (*roles, data.role)
        if version == 0:
            await records.insert({"roles": roles}, _key(data))
        else:
            await records.update(_key(data), {"roles": roles}, version)
    return Success(_answer(data, roles))


@native
async def _unassign(data: Assignment, ctx: ActionContext) -> Result[AssignedRoles, ActionError]:
    records = access_of(ctx).records(ROLE_ASSIGNMENTS)
    version, roles = await _assigned(records, data)
    if data.role not in roles:
        raise failing(ErrorCode.NOT_FOUND, f"{_key(data)} does not have the role {data.role!r}")
    roles = tuple(role for role in roles if role != data.role)
    await records.update(_key(data), {"roles": roles}, version)
    return Success(_answer(data, roles))


@native
async def _of_actor(data: ActorReference, ctx: ActionContext) -> Result[AssignedRoles, ActionError]:
    _, roles = await _assigned(access_of(ctx).records(ROLE_ASSIGNMENTS), data)
    return Success(_answer(data, roles))


async def _take_from_everybody(role: str, assignments: AsyncRecords) -> None:
    """Whoever had it does not have it again when a role of that name is made one day."""
    after: str | None = None
    while page := await assignments.list(limit=1000, after=after):
        for record in page:
            if role in record.data["roles"]:
                left = [name for name in record.data["roles"] if name != role]
                await assignments.update(record.id, {"roles": left}, record.version)
        after = page[-1].id


async def _assigned(records: AsyncRecords, actor: Assignment | ActorReference) -> tuple[int, tuple[str, ...]]:
    record = await records.get(_key(actor))
    return (record.version, tuple(record.data["roles"])) if record else (0, ())


def _answer(actor: Assignment | ActorReference, roles: tuple[str, ...]) -> AssignedRoles:
    return AssignedRoles(actor_type=actor.actor_type, actor_id=actor.actor_id, roles=roles)


def _key(actor: Assignment | ActorReference) -> str:
    return f"{actor.actor_type}:{actor.actor_id}"


def _no_role(name: str) -> Exception:
    return failing(ErrorCode.NOT_FOUND, f"there is no role {name!r}: define it first")


def _role_subject(data: Any) -> str:
    return f"role/{data.name}"


def _actor_subject(data: Any) -> str:
    return f"actor/{_key(data)}"


roles: Service = create_service(
    name="roles",
    description="What each role allows and denies, and who has it",
    actions=[
        create_action(
            name="define",
            description="Make a role, or give it other rules",
            handler=_define,
            validation=RoleInput,
            permission=MANAGE_PERMISSION,
            allowed_actors=_ADMINISTRATORS,
            resource=_role_subject,
        ),
        create_action(
            name="delete",
            description="Remove a role from everybody",
            handler=_delete,
            validation=RoleName,
            permission=MANAGE_PERMISSION,
            allowed_actors=_ADMINISTRATORS,
            resource=_role_subject,
        ),
        create_action(
            name="list",
            description="The tenant's roles, by name",
            handler=_list,
            validation=Page,
            permission=READ_PERMISSION,
            read_only=True,
        ),
        create_action(
            name="assign",
            description="Give an actor a role",
            handler=_assign,
            validation=Assignment,
            permission=MANAGE_PERMISSION,
            allowed_actors=_ADMINISTRATORS,
            resource=_actor_subject,
        ),
        create_action(
            name="unassign",
            description="Take a role from an actor",
            handler=_unassign,
            validation=Assignment,
            permission=MANAGE_PERMISSION,
            allowed_actors=_ADMINISTRATORS,
            resource=_actor_subject,
        ),
        create_action(
            name="of_actor",
            description="The roles that are assigned to an actor",
            handler=_of_actor,
            validation=ActorReference,
            permission=READ_PERMISSION,
            read_only=True,
        ),
    ],
)
