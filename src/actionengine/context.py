"""The request: tenant, actor and reason. The host makes these frozen values for each request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, get_args
from uuid import UUID

from actionengine.errors import bounded_text, storable_text
from actionengine.text.names import check_pattern, fold

ActorType = Literal["human", "ai", "integration", "workflow", "system"]
ACTOR_TYPES: frozenset[str] = frozenset(get_args(ActorType))


MAX_ACTOR_ID_LENGTH = 240
"""Characters of an actor's id, at most: it is part of a document's id and of an index. Every action refuses an actor
with a longer id."""

MAX_ACTOR_LENGTH = MAX_ACTOR_ID_LENGTH + len("integration:")
"""Characters of an actor written as `type:id`, at most."""

MAX_CHAIN_LENGTH = 4
"""Actors in a chain at most, the acting one included: a person, two agents between, and the agent that acts."""

MAX_NAME_LENGTH = 500
"""Characters that a row keeps of a name: a subject, a source, a request id, a model."""

MAX_TEXT_LENGTH = 10_000
"""Characters that a row keeps of a text: a reason, a decision, the message of an error."""

MAX_TOKENS = 2**63 - 1
MAX_COST = 1e12
_COST_DIGITS = 12

PUBLIC = "public"
"""A role in an action's `access_control` that every actor has."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An isolated customer, with a slug for the outside and a UUID for the inside."""

    id: UUID
    slug: str

    def __post_init__(self) -> None:
        if not isinstance(self.id, UUID):
            raise TypeError(
                f"Tenant.id must be a uuid.UUID, not {self.id!r}; resolve a slug with engine.resolve_tenant"
            )


@dataclass(frozen=True, slots=True)
class Actor:
    """The person, agent, integration or workflow that makes the request. Use `Actor.human`, `.ai`, `.integration`,
    `.workflow` or `.system`.

    `roles` and `permissions` are those that the host's own token grants; an authorizer adds those of its storage. A
    permission is a name, `payments.*` or `*`; a `*` anywhere else raises `ValueError`.

    `on_behalf_of` is the principal that this actor acts for, which may act for another in turn. The actor may do what
    it and each principal behind it may do, and none of them approves what it asks for. A chain of more than 4 actors,
    or with a `system` actor in it, raises `ValueError`.
    """

    type: ActorType
    id: str
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    on_behalf_of: Actor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.type, str) or self.type not in ACTOR_TYPES:
            raise ValueError(f"unknown actor type {self.type!r}; expected one of {', '.join(sorted(ACTOR_TYPES))}")
        if type(self.type) is not str:
            # A member of an enumeration may have another text, as in `Kind.HUMAN:carla`.
            object.__setattr__(self, "type", str.__str__(self.type))
        if not isinstance(self.id, str) or not self.id:
            raise ValueError(f"an actor needs a non-empty id, not {self.id!r}")
        if storable_text(self.id) != self.id:
            raise ValueError(f"the id {self.id!r} of an actor contains NUL or a lone surrogate, which no storage keeps")
        if type(self.id) is not str:
            object.__setattr__(self, "id", str.__str__(self.id))
        object.__setattr__(self, "roles", _names(self.roles))
        object.__setattr__(self, "permissions", _names(self.permissions))
        for name in (*self.roles, *self.permissions):
            if not isinstance(name, str):
                raise TypeError(f"roles and permissions are names, such as 'manager'; {self.id!r} has {name!r}")
        for permission in self.permissions:
            if "*" in permission:
                check_pattern(permission)
        if self.on_behalf_of is not None:
            _check_chain(self, self.on_behalf_of)

    @classmethod
    def human(
        cls, id: str, roles: Iterable[str] = (), permissions: Iterable[str] = (), on_behalf_of: Actor | None = None
    ) -> Actor:
        """A person."""
        return cls("human", id, _names(roles), _names(permissions), on_behalf_of)

    @classmethod
    def ai(
        cls, id: str, roles: Iterable[str] = (), permissions: Iterable[str] = (), on_behalf_of: Actor | None = None
    ) -> Actor:
        """An AI agent: it has the rights of a person with these roles, except that it never approves."""
        return cls("ai", id, _names(roles), _names(permissions), on_behalf_of)

    @classmethod
    def integration(
        cls, id: str, roles: Iterable[str] = (), permissions: Iterable[str] = (), on_behalf_of: Actor | None = None
    ) -> Actor:
        """Another system."""
        return cls("integration", id, _names(roles), _names(permissions), on_behalf_of)

    @classmethod
    def workflow(
        cls, id: str, roles: Iterable[str] = (), permissions: Iterable[str] = (), on_behalf_of: Actor | None = None
    ) -> Actor:
        """A workflow, acting in one of its steps."""
        return cls("workflow", id, _names(roles), _names(permissions), on_behalf_of)

    @classmethod
    def system(cls, id: str = "system", roles: Iterable[str] = (), permissions: Iterable[str] = ()) -> Actor:
        """The host itself. It bypasses role and permission checks, so make one only in the host's own code."""
        return cls("system", id, _names(roles), _names(permissions))

    @property
    def chain(self) -> tuple[Actor, ...]:
        """This actor first, then each principal behind it, the nearest first."""
        if self.on_behalf_of is None:
            return (self,)
        return (self, *self.on_behalf_of.chain)

    @property
    def principal(self) -> Actor:
        """The last of the chain: the actor for whom all of this is done. Without a chain, this actor itself."""
        return self if self.on_behalf_of is None else self.on_behalf_of.principal

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


def chain_key(actor: Actor | None) -> str:
    """Return a text that is the same for actors with the same chain, and for no others; rights make no difference."""
    if actor is None or actor.on_behalf_of is None:
        return str(actor)
    return json.dumps([*map(str, actor.chain)])


def identity_of(actor: Actor | str) -> str:
    """Return the identity of an actor, given as an `Actor` or as `type:id`: equal where two ids may belong to one
    person.

    Letter case, Unicode form (NFKC), invisible characters, repeated and outer spaces and the actor type make no
    difference. Compare identities to refuse (no approver may decide its own request), never to grant: a right belongs
    to an actor of exactly this type and id.
    """
    if isinstance(actor, Actor):
        id = actor.id
    else:
        type, colon, rest = actor.partition(":")
        id = rest if colon and type in ACTOR_TYPES else actor
    return fold(id)


@dataclass(frozen=True, slots=True)
class AIUsage:
    """The usage of an AI call: model and prompt version, tokens in and out, cost in US dollars.

    Numbers are stored as the action log can keep them: tokens as whole numbers from 0 to 2**63 - 1, the cost as a
    finite number from 0 to a trillion, rounded to 12 decimals; NaN and None count as 0. Raises `TypeError` for a value
    that is no number.
    """

    model: str
    prompt_version: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", bounded_text(self.model, MAX_NAME_LENGTH))
        if self.prompt_version is not None:
            object.__setattr__(self, "prompt_version", bounded_text(self.prompt_version, MAX_NAME_LENGTH))
        object.__setattr__(self, "input_tokens", _tokens("input_tokens", self.input_tokens))
        object.__setattr__(self, "output_tokens", _tokens("output_tokens", self.output_tokens))
        cost = _number("cost_usd", self.cost_usd)
        object.__setattr__(self, "cost_usd", round(float(min(max(cost, 0), MAX_COST)), _COST_DIGITS) + 0.0)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The facts that the host knows of a request. Frozen, so one value may serve any number of executions at once.

    The host resolves `tenant` (`engine.resolve_tenant`), and never takes it from a payload. `actor` is None for a
    caller who is not signed in. `source` names the entry point, `reason` says why. `resources` are the request's own
    objects for handlers, before the engine's. `plan` is the plan of a preview: the execution writes what the preview
    showed, or answers `conflict` and writes nothing.
    """

    tenant: Tenant | None
    actor: Actor | None = None
    source: str = "http"
    reason: str | None = None
    idempotency_key: str | None = None
    request_id: str | None = None
    ai_usage: AIUsage | None = None
    resources: Mapping[str, Any] | None = None
    plan: str | None = None

    def __post_init__(self) -> None:
        if self.tenant is not None and not isinstance(self.tenant, Tenant):
            raise TypeError(
                f"RequestContext.tenant must be a Tenant, not {self.tenant!r}: use engine.resolve_tenant(slug).unwrap()"
            )
        if self.actor is not None and not isinstance(self.actor, Actor):
            raise TypeError(f"RequestContext.actor must be an Actor, such as Actor.human('ann'), not {self.actor!r}")
        if self.ai_usage is not None and not isinstance(self.ai_usage, AIUsage):
            raise TypeError(f"RequestContext.ai_usage must be an AIUsage, not {self.ai_usage!r}")
        for name, max_length in _TEXTS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, bounded_text(value, max_length))
        if self.source is None:
            raise TypeError("RequestContext.source must name the entry point, such as 'http'; None was given")


_TEXTS = (("source", MAX_NAME_LENGTH), ("reason", MAX_TEXT_LENGTH), ("request_id", MAX_NAME_LENGTH))


def _tokens(name: str, value: Any) -> int:
    if type(value) is int and 0 <= value <= MAX_TOKENS:
        return value
    return int(min(max(_number(name, value), 0), MAX_TOKENS))


def _number(name: str, value: Any) -> Any:
    """Return a number that can be compared; 0 for a value that cannot."""
    if value is None:
        return 0
    if not isinstance(value, Real | Decimal):
        raise TypeError(f"AIUsage.{name} must be a number, not {value!r}")
    is_nan = value.is_nan() if isinstance(value, Decimal) else value != value
    return 0 if is_nan else value


def _check_chain(acting: Actor, principal: Any) -> None:
    if not isinstance(principal, Actor):
        raise ValueError(f"on_behalf_of must be an Actor, such as Actor.human('carla'), not {principal!r}")
    chain = (acting, *principal.chain)
    if len(chain) > MAX_CHAIN_LENGTH:
        raise ValueError(
            f"{acting} is the first of {len(chain)} actors that act for each other; at most {MAX_CHAIN_LENGTH} may: "
            "leave out the agents between the acting one and the person that it acts for"
        )
    if any(actor.type == "system" for actor in chain):
        raise ValueError(
            f"{' for '.join(map(str, chain))}: a system actor has every right, so it has no place in a chain: "
            "name the person or the integration instead"
        )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(
            f"roles and permissions must be collections of names, not the string {names!r}: write [{names!r}]"
        )
    return tuple(names)
