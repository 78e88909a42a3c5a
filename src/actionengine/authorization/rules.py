"""Roles, their rules, and the decisions by them. Deny beats allow, and without an allow the answer is no."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from actionengine.authorization.port import AccessRequest, Decision, LimitedDecision
from actionengine.context import PUBLIC, Actor
from actionengine.text.names import check_pattern, pattern_covers, patterns_covering


@dataclass(frozen=True, slots=True)
class Rule:
    """A permission (`payments.refund`; `payments.*` and `*` include all below) on one resource, named in full, or on
    every one.

    Raise `ValueError` for a `*` anywhere else.
    """

    permission: str
    resource: str | None = None

    def __post_init__(self) -> None:
        check_pattern(self.permission)
        if self.resource is not None and (not self.resource or "*" in self.resource):
            raise ValueError(
                f"the resource {self.resource!r} of a rule is not a name: name one in full, such as 'job/17', "
                "or leave it out for every resource"
            )

    def covers(self, permission: str) -> bool:
        """Return whether the rule includes this permission."""
        return pattern_covers(self.permission, permission)

    def contains(self, other: Rule) -> bool:
        """Return whether the rule includes all that another one includes."""
        return self.covers(other.permission) and (self.resource is None or self.resource == other.resource)

    def meets(self, other: Rule) -> bool:
        """Return whether the two rules have anything in common."""
        one_permission = self.covers(other.permission) or other.covers(self.permission)
        return one_permission and (None in (self.resource, other.resource) or self.resource == other.resource)

    def __str__(self) -> str:
        return self.permission if self.resource is None else f"{self.permission} on {self.resource}"


@dataclass(frozen=True, slots=True, init=False)
class Role:
    """Rules that allow and rules that deny. A plain string stands for a `Rule` on every resource."""

    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]

    def __init__(self, allow: Iterable[Rule | str] = (), deny: Iterable[Rule | str] = ()) -> None:
        object.__setattr__(self, "allow", _rules(allow))
        object.__setattr__(self, "deny", _rules(deny))


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of an actor, by its own permissions and its roles: all that they allow, less all that they deny."""

    roles: frozenset[str]
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]

    @classmethod
    def of(cls, actor: Actor, names: Iterable[str], roles: Mapping[str, Role]) -> Rights:
        """Return the rights of an actor with the roles of these `names`, which `roles` defines."""
        held = frozenset((*actor.roles, *names))
        defined = [roles[name] for name in held if name in roles]
        # A host that splits an empty text gets one empty permission, which allows nothing.
        own = tuple(Rule(permission) for permission in actor.permissions if permission)
        return cls(
            held,
            own + tuple(rule for role in defined for rule in role.allow),
            tuple(rule for role in defined for rule in role.deny),
        )

    def include(self, rule: Rule) -> bool:
        """Return whether the whole rule is allowed, and no part of it denied.

        There are infinitely many names of permissions and resources, so several narrower rules never add up to a wider
        one: one rule has to allow it all.
        """
        return any(allowed.contains(rule) for allowed in self.allow) and not any(
            denied.meets(rule) for denied in self.deny
        )


SYSTEM = Decision(True, "system actor")
OPEN = Decision(True, "open to every actor of the tenant")


def needs_roles(request: AccessRequest) -> bool:
    """Return whether the decision depends on roles at all."""
    return request.actor.type != "system" and bool(request.access_control or request.permission is not None)


def decide_without_roles(request: AccessRequest) -> Decision:
    """Return the decision when `needs_roles` is False."""
    return SYSTEM if request.actor.type == "system" else OPEN


_Decisions = dict[str | None, Decision]
"""The decisions that rest on rules, by the resources of the rules; None is every resource."""
_Table = dict[str, _Decisions]
"""The same, by the permissions of the rules."""

_ROLES_BYTES, _RULE_BYTES = 600, 600


class HeldRoles:
    """The rules of the roles that an actor holds, found by their permissions."""

    __slots__ = ("_allow", "_deny", "names")

    def __init__(self, names: Iterable[str], roles: Mapping[str, Role]) -> None:
        """Take the `names` of the roles, of which `roles` has the defined ones."""
        self.names = dict.fromkeys(names)
        self._allow: _Table = {}
        self._deny: _Table = {}
        for name, role in [(name, roles[name]) for name in self.names if name in roles]:
            for rule in role.allow:
                decision = Decision(True, f"role {name} allows {rule}")
                self._allow.setdefault(rule.permission, {}).setdefault(rule.resource, decision)
            for rule in role.deny:
                decision = Decision(False, f"role {name} denies {rule}")
                self._deny.setdefault(rule.permission, {}).setdefault(rule.resource, decision)

    @property
    def size(self) -> int:
        """The estimated memory, in bytes."""
        rules = sum(map(len, (*self._allow.values(), *self._deny.values())))
        return _ROLES_BYTES + rules * _RULE_BYTES

    def decide(self, request: AccessRequest) -> Decision:
        """Return the decision on a request of the actor."""
        _, actor, _, access_control, permission, resource, is_pending, _ = request
        decision = OPEN
        if access_control and PUBLIC not in access_control:
            matching = next((name for name in access_control if name in self.names), None)
            if matching is None:
                return Decision(False, f"needs one of the roles {', '.join(access_control)}")
            decision = Decision(True, f"role {matching}")
        if permission is None:
            return decision
        patterns = patterns_covering(permission)
        refusals = _covering(self._deny, patterns)
        if refusal := refusals.get(None) or refusals.get(resource):
            return refusal
        for granted in actor.permissions:
            if pattern_covers(granted, permission):
                return Decision(True, f"the actor's own permission {granted}")
        allowed = _covering(self._allow, patterns)
        if permit := allowed.get(None) or allowed.get(resource):
            return permit
        if is_pending and allowed:
            return _decide_limited(allowed, refusals)
        on_resource = "" if resource is None else f" on {resource}"
        return Decision(False, f"needs the permission {permission}{on_resource}")


def _covering(table: _Table, patterns: Iterable[str]) -> _Decisions:
    """Return the decisions by the rules with one of these permissions."""
    found = [table[pattern] for pattern in patterns if pattern in table]
    if len(found) == 1:
        return found[0]
    return {resource: decision for each in reversed(found) for resource, decision in each.items()}


def _decide_limited(allowed: _Decisions, refusals: _Decisions) -> Decision:
    """Return the decision on a pending resource, where each rule is about one resource: yes if one is allowed and not
    denied."""
    left = [resource for resource in allowed if resource is not None and resource not in refusals]
    if not left:
        return refusals[next(iter(allowed))]
    return LimitedDecision(allowed[left[0]].reason, frozenset(left))


def decide_all(requests: Sequence[AccessRequest], held: HeldRoles) -> list[Decision]:
    """Return the decisions on requests of one actor."""
    return [held.decide(each) if needs_roles(each) else decide_without_roles(each) for each in requests]


def by_actor(requests: Iterable[AccessRequest]) -> Iterator[list[AccessRequest]]:
    """Yield the requests in their order, those of one actor that follow each other together."""
    for _, group in groupby(requests, key=lambda request: id(request.actor)):
        yield list(group)


def _rules(rules: Iterable[Rule | str]) -> tuple[Rule, ...]:
    if isinstance(rules, str):
        raise TypeError(f"a role takes a collection of rules, not the string {rules!r}")
    return tuple(rule if isinstance(rule, Rule) else Rule(rule) for rule in rules)
