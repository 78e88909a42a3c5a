"""The built-in service `roles`: the roles of a tenant, with their rules and the actors that have them.

A caller cannot give a right that it does not hold: not by assigning a role, by adding an allow rule, or by removing a
deny rule. The exception is full power: `roles.manage` on everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from returns.result import Result, Success

from actionengine.actions import Service, create_service
from actionengine.authorization.rbac import load_roles, to_role
from actionengine.authorization.rules import Rights, Role, Rule
from actionengine.builtin.declarations import declare
from actionengine.context import MAX_ACTOR_ID_LENGTH, Actor, ActorType
from actionengine.errors import ActionError, ErrorCode, conflict
from actionengine.pipeline.internal_context import InternalContext
from actionengine.pipeline.plan import sync_and_async
from actionengine.schemas.json_schemas import SchemaExtra
from actionengine.schemas.models import Input, Output, Page
from actionengine.storage.records import ROLE_ASSIGNMENTS, ROLES, AsyncRecords
from actionengine.storage.rows import MAX_SUBJECT_LENGTH, Record
from actionengine.text.names import MAX_PERMISSION_LENGTH, clean, fold

READ_PERMISSION = "roles.read"
MANAGE_PERMISSION = "roles.manage"
FULL_POWER = Rule(MANAGE_PERMISSION)
"""The right, on everything and without a denial, to give any right."""

MAX_ROLE_NAME_LENGTH = 100
"""Characters of a role's name."""

MAX_RULES = 1000
"""Allow rules of a role, and deny rules of it."""

MAX_ASSIGNED_ROLES = 100
"""Roles of one actor. Each decision that is not cached reads them."""

RoleKey = Annotated[str, Field(max_length=MAX_ROLE_NAME_LENGTH)]
"""The name of an existing role."""

_ADMINISTRATORS: tuple[ActorType, ...] = ("human", "integration", "system")


class RuleInput(Input):
    """A permission (`payments.refund`, `payments.*`, `*`), on one resource or on all."""

    permission: Annotated[str, SchemaExtra(pattern=r"^(\*|[^*]+(\.\*)?)$")] = Field(
        min_length=1,
        max_length=MAX_PERMISSION_LENGTH,
        description="The permission: one such as payments.refund, all below as in payments.*, or * for every one.",
    )
    resource: (
        Annotated[str, Field(min_length=1, max_length=MAX_SUBJECT_LENGTH), SchemaExtra(pattern=r"^[^*]+$")] | None
    ) = Field(
        default=None,
        description="The one thing that the rule is about, such as job/17; null for every one.",
    )

    @model_validator(mode="after")
    def _check_rule(self) -> RuleInput:
        Rule(self.permission, self.resource)
        return self


class RoleInput(Input):
    """A role. A deny rule overrides an allow rule."""

    name: Annotated[str, SchemaExtra(pattern=r"^[^\s*]+( [^\s*]+)*$")] = Field(
        min_length=1,
        max_length=MAX_ROLE_NAME_LENGTH,
        description="The name of the role. Another look of an existing name is refused.",
    )
    description: str = Field(default="", max_length=10_000, description="The purpose of the role.")
    allow: tuple[RuleInput, ...] = Field(default=(), max_length=MAX_RULES, description="The rules that allow.")
    deny: tuple[RuleInput, ...] = Field(
        default=(), max_length=MAX_RULES, description="The rules that deny. A deny rule beats every allow rule."
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if "*" in name or clean(name) != name:
            raise ValueError(
                f"{name!r} cannot name a role: leave out *, invisible characters, and spaces at the ends or in a row, "
                f"and use Unicode's form NFKC, as in {clean(name)!r}"
            )
        return name


class DefinedRole(RoleInput):
    """A role as it was defined. `unknown_permissions` are those of its rules that no action of the engine asks for.

    They are misspelt, or a handler asks for them and its service does not declare them.
    """

    unknown_permissions: tuple[str, ...] = Field(
        default=(),
        description="Permissions of the rules that no action of the engine asks for: misspelt, or known to a "
        "handler alone.",
    )


class RoleName(Input):
    """One role."""

    name: RoleKey = Field(description="The name of the role.")


class ActorReference(Input):
    """One actor."""

    actor_type: ActorType = Field(description="The type of the actor.")
    actor_id: str = Field(min_length=1, max_length=MAX_ACTOR_ID_LENGTH, description="The id of the actor.")


class Assignment(ActorReference):
    """A role of an actor."""

    role: RoleKey = Field(description="The name of the role.")


class AssignedRoles(Output):
    """The roles that are assigned to an actor."""

    actor_type: ActorType = Field(description="The type of the actor.")
    actor_id: str = Field(description="The id of the actor.")
    roles: tuple[str, ...] = Field(description="The names of the roles that it has.")


@sync_and_async
async def _define(data: RoleInput, ctx: InternalContext) -> Result[DefinedRole, ActionError]:
    records = ctx.unit_of_work.records(ROLES)
    current = await records.get(data.name)
    before, after = to_role(current.data) if current is not None else Role(), to_role(data.model_dump())
    added = _beyond(after.allow, before.allow)
    freed = _beyond(before.deny, after.deny)
    await _check_holds(ctx, (*added, *freed))
    document = {**data.model_dump(), "folded_name": fold(data.name)}
    if current is None:
        await _check_name(data.name, records)
        await records.insert({**document, "id": ctx.new_id()}, data.name)
    else:
        await records.update(data.name, {**document, "id": current.data.get("id")}, current.version)
    known = [Rule(permission) for permission in ctx.known_permissions()]
    rules = map(Rule, dict.fromkeys(rule.permission for rule in (*data.allow, *data.deny)))
    unknown = tuple(rule.permission for rule in rules if not any(rule.meets(each) for each in known))
    return Success(DefinedRole(**data.model_dump(), unknown_permissions=unknown))


@sync_and_async
async def _list(data: Page, ctx: InternalContext) -> Result[tuple[RoleInput, ...], ActionError]:
    page = await ctx.unit_of_work.records(ROLES).list(limit=data.limit, after=data.after)
    return Success(tuple(map(_role, page)))


@sync_and_async
async def _delete(data: RoleName, ctx: InternalContext) -> Result[None, ActionError]:
    records = ctx.unit_of_work.records(ROLES)
    current = await records.get(data.name)
    if current is None:
        raise _no_role(data.name)
    await _check_holds(ctx, to_role(current.data).deny)
    # Assignments name its id, so a new role of this name is assigned to no actor.
    await records.delete(data.name, current.version)
    return Success(None)


@sync_and_async
async def _assign(data: Assignment, ctx: InternalContext) -> Result[AssignedRoles, ActionError]:
    await ctx.authorize_async(MANAGE_PERMISSION, f"role/{data.role}")
    role = await ctx.unit_of_work.records(ROLES).get(data.role)
    if role is None:
        raise _no_role(data.role)
    record, roles = await _assigned(ctx, data)
    if data.role not in roles:
        await _check_holds(ctx, to_role(role.data).allow, data.role)
        if len(roles) >= MAX_ASSIGNED_ROLES:
            raise ActionError(
                ErrorCode.UNPROCESSABLE,
                f"{_key(data)} has {len(roles)} roles, and may have {MAX_ASSIGNED_ROLES}: unassign one, or define one "
                f"role with the rules of several",
                {"limit": MAX_ASSIGNED_ROLES},
            )
        roles = (*roles, data.role)
        await _write(ctx, data, record, roles, {data.role: role.data.get("id")})
    return Success(_answer(data, roles))


@sync_and_async
async def _unassign(data: Assignment, ctx: InternalContext) -> Result[AssignedRoles, ActionError]:
    await ctx.authorize_async(MANAGE_PERMISSION, f"role/{data.role}")
    record, roles = await _assigned(ctx, data)
    if data.role not in roles:
        raise ActionError(ErrorCode.NOT_FOUND, f"{_key(data)} does not have the role {data.role!r}")
    role = await ctx.unit_of_work.records(ROLES).get(data.role)
    if role is not None:
        await _check_holds(ctx, to_role(role.data).deny)
    roles = tuple(role for role in roles if role != data.role)
    await _write(ctx, data, record, roles, {})
    return Success(_answer(data, roles))


@sync_and_async
async def _of_actor(data: ActorReference, ctx: InternalContext) -> Result[AssignedRoles, ActionError]:
    _, roles = await _assigned(ctx, data)
    return Success(_answer(data, roles))


async def _check_holds(ctx: InternalContext, rules: Iterable[Rule], role: str | None = None) -> None:
    """Raise `ActionError(forbidden)` if a caller without full power would give a right that it does not hold, or a role
    that actions ask for by name. So would each actor that the caller acts for. The check reads this transaction, not a
    cache."""
    assert ctx.actor is not None
    ctx.replay_for_actor_only()
    if ctx.actor.type == "system":
        return
    given = tuple(rules)
    for actor in ctx.actor.chain:
        await _check_actor_holds(ctx, actor, given, role)


async def _check_actor_holds(ctx: InternalContext, actor: Actor, rules: Iterable[Rule], role: str | None) -> None:
    record = await ctx.unit_of_work.records(ROLE_ASSIGNMENTS).get(str(actor))
    rights = Rights.of(actor, *await load_roles(actor, record, ctx.unit_of_work.records(ROLES)))
    if rights.include(FULL_POWER):
        return
    missing = [str(rule) for rule in rules if not rights.include(rule)]
    if role is not None and role not in rights.roles and role in ctx.known_roles():
        missing.append(f"the role {role}, which actions ask for")
    if missing:
        raise ActionError(
            ErrorCode.FORBIDDEN,
            f"{actor} does not hold {', '.join(missing)}, and so cannot give it: that takes {MANAGE_PERMISSION} on "
            f"everything",
        )


def _beyond(rules: Iterable[Rule], others: Sequence[Rule]) -> list[Rule]:
    """Return the rules that no other rule contains."""
    return [rule for rule in rules if not any(other.contains(rule) for other in others)]


async def _check_name(name: str, roles: AsyncRecords) -> None:
    """Raise `ActionError(conflict)` for the name of a new role that looks like an existing one."""
    for like in await roles.list({"folded_name": fold(name)}, limit=1):
        raise conflict(f"there is a role {like.id!r}, which looks like {name!r}", role=like.id)


def _role(record: Record) -> RoleInput:
    return RoleInput(**{name: record.data[name] for name in RoleInput.model_fields if name in record.data})


async def _assigned(ctx: InternalContext, actor: ActorReference) -> tuple[Record | None, tuple[str, ...]]:
    """Return the document of an actor's assignments, and the names of the roles that it gives."""
    record = await ctx.unit_of_work.records(ROLE_ASSIGNMENTS).get(_key(actor))
    held = await load_roles(Actor(actor.actor_type, actor.actor_id), record, ctx.unit_of_work.records(ROLES))
    return record, held.names


async def _write(
    ctx: InternalContext,
    actor: ActorReference,
    record: Record | None,
    roles: Sequence[str],
    new_ids: Mapping[str, str | None],
) -> None:
    ids = {**(record.data.get("role_ids", {}) if record is not None else {}), **new_ids}
    document = {"roles": roles, "role_ids": {name: ids[name] for name in roles if ids.get(name) is not None}}
    records = ctx.unit_of_work.records(ROLE_ASSIGNMENTS)
    if record is None:
        await records.insert(document, _key(actor))
    else:
        await records.update(record.id, document, record.version)


def _answer(actor: ActorReference, roles: tuple[str, ...]) -> AssignedRoles:
    return AssignedRoles(actor_type=actor.actor_type, actor_id=actor.actor_id, roles=roles)


def _key(actor: ActorReference) -> str:
    return f"{actor.actor_type}:{actor.actor_id}"


def _no_role(name: str) -> Exception:
    return ActionError(ErrorCode.NOT_FOUND, f"there is no role {name!r}: define it first")


def _role_subject(data: Any) -> str:
    return f"role/{data.name}"


def _actor_subject(data: Any) -> str:
    return f"actor/{_key(data)}"


_reading = partial(declare, permission=READ_PERMISSION, read_only=True)
_managing = partial(declare, permission=MANAGE_PERMISSION, allowed_actors=_ADMINISTRATORS)

roles: Service = create_service(
    name="roles",
    description="The rules of roles, and the actors that have them",
    actions=[
        _managing(
            "define",
            "Create a role, or replace its rules",
            _define,
            RoleInput,
            resource=_role_subject,
            destructive=True,
        ),
        _managing("delete", "Delete a role", _delete, RoleName, resource=_role_subject, destructive=True),
        _reading("list", "The tenant's roles, by name", _list, Page),
        _managing("assign", "Assign a role to an actor", _assign, Assignment, resource=_actor_subject),
        _managing("unassign", "Unassign a role from an actor", _unassign, Assignment, resource=_actor_subject),
        _reading("of_actor", "The roles that are assigned to an actor", _of_actor, ActorReference),
    ],
)
