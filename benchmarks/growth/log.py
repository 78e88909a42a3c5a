"""The action log: what other executions, actors, subjects and tenants have in it should not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from actionengine import Actor
from benchmarks.growth.approvals import ask
from benchmarks.growth.backends import Backend, id_at, time_of
from benchmarks.growth.operation import Operation

RARE = 10
"""Executions that have failed, by an AI, before all the others."""

_KEYS = count()


def fill(backend: Backend) -> None:
    """One long log of one hot subject, one of another tenant, and a short one of a third."""
    backend.do("notes", "pass")
    row = backend.sample("ae_action_log")
    for tenant, rows in (
        (backend.tenant, backend.size),
        (backend.other_tenant, backend.size),
        (backend.small_tenant, RARE),
    ):
        backend.clone("ae_action_log", row, partial(_row, tenant.id), rows)
        backend.clone("ae_action_log_subjects", {}, partial(_subject, tenant.id), rows)
        backend.clone("ae_action_log_principals", {}, partial(_principal, tenant.id), rows)
        backend.clone("ae_action_log_words", {}, partial(_word, tenant.id, "refund"), rows)
        backend.clone("ae_action_log_words", {}, partial(_word, tenant.id, "first"), RARE)


def _row(tenant: Any, number: int) -> dict[str, Any]:
    is_rare = number < RARE
    return {
        "tenant_id": tenant,
        "id": id_at(number),
        "actor_type": "ai" if is_rare else "human",
        "actor_id": "agent" if is_rare else "clara",
        "action": "notes.first" if is_rare else "notes.put",
        "outcome": "failed" if is_rare else "succeeded",
        "subjects": '["notes/hot"]',
        "on_behalf_of": '["human:carla"]',
        "reason": "the first refund" if is_rare else "a refund",
        "parent_id": id_at(0) if is_rare else id_at(1),
        "approval_id": "rare" if is_rare else "hot",
        "request_id": "rare" if is_rare else "hot",
        "idempotency_key": "rare" if is_rare else "hot",
        "started_at": time_of(number),
    }


def _subject(tenant: Any, number: int) -> dict[str, Any]:
    return {"tenant_id": tenant, "subject": "notes/hot", "log_id": id_at(number)}


def _principal(tenant: Any, number: int) -> dict[str, Any]:
    return {"tenant_id": tenant, "principal": "human:carla", "log_id": id_at(number)}


def _word(tenant: Any, word: str, number: int) -> dict[str, Any]:
    return {"tenant_id": tenant, "word": word, "log_id": id_at(number)}


def _listing(name: str, **query: Any) -> Operation:
    def call(backend: Backend) -> object:
        tenant = backend.small_tenant if query.get("small") else backend.tenant
        asked = {key: value for key, value in query.items() if key != "small"}
        return backend.do("action_log", "list", {"limit": 20, **asked}, tenant=tenant)

    return Operation(f"action_log.list, {name}", call, ("action_log.list",))


def _counted(name: str, **query: Any) -> Operation:
    """A listing by several filters that many rows have."""
    return replace(_listing(name, **query), at_worst="grows", why="the rows of each filter are counted, up to 5,000")


def _tree(name: str, field: str, id_of: Callable[[Backend], str]) -> Operation:
    return Operation(
        f"action_log.tree, {name}",
        lambda backend: backend.do("action_log", "tree", {field: id_of(backend)}),
        ("action_log.tree",),
    )


def _repeated(backend: Backend) -> object:
    key = f"again-{next(_KEYS)}"
    for _ in range(2):
        answer = backend.do("notes", "put", idempotency_key=key, actor=Actor.system())
    return answer


OPERATIONS = [
    Operation("action_log.get", lambda backend: backend.do("action_log", "get", {"id": id_at(7)}), ("action_log.get",)),
    _tree("of an execution in a wide tree", "id", lambda backend: id_at(7)),
    _tree("of an event of an execution with many", "event_id", lambda backend: id_at(3)),
    _tree("of an approval", "approval_id", lambda backend: ask(backend)),
    _tree("of a run", "run_id", lambda backend: str(backend.notes["run"])),
    Operation("an action that does nothing", lambda backend: backend.do("notes", "pass")),
    Operation("an action and its replay", _repeated),
    _listing("the newest page"),
    _listing("by subject", subject="notes/hot"),
    replace(
        _listing("by subject and outcome, which few have", subject="notes/hot", outcome="failed"),
        at_worst="logarithmic",
        why="each of the 1,000 rows that it looks at is found from the root of the log's key",
    ),
    _listing("by principal", principal="human:carla"),
    replace(
        _listing("by principal and outcome, which few have", principal="human:carla", outcome="failed"),
        at_worst="logarithmic",
        why="each of the 1,000 rows that it looks at is found from the root of the log's key",
    ),
    _counted("by principal and subject", principal="human:carla", subject="notes/hot"),
    *(
        _listing(f"by {name}, which {few} have", **{name: value})
        for name in ("approval_id", "request_id", "idempotency_key")
        for few, value in (("few", "rare"), ("most", "hot"))
    ),
    _listing("by parent, which few have", parent_id=id_at(0)),
    _counted("by parent and outcome, which none has", parent_id=id_at(1), outcome="denied"),
    _counted("by request and subject", request_id="hot", subject="notes/hot"),
    _listing("by a word that few have", text="FIRST"),
    _listing("by a word that most have", text="refund"),
    _listing("by words of which few have one", text="refund first"),
    _listing(
        "by subject, principal and a word that few have", subject="notes/hot", principal="human:carla", text="first"
    ),
    replace(
        _listing("by a word and outcome, which few have", text="refund", outcome="failed"),
        at_worst="logarithmic",
        why="each of the 1,000 rows that it looks at is found from the root of the log's key",
    ),
    _listing("by actor", actor_id="agent"),
    _counted("by actor and outcome, which none has", actor_id="clara", outcome="failed"),
    _listing("by action", action="notes.first"),
    _listing("by action and outcome, which none has", action="notes.put", outcome="denied"),
    _listing("by outcome, which few have", outcome="failed"),
    _listing("by outcome, which most have", outcome="succeeded"),
    _listing("by actor type", actor_type="ai"),
    _counted("by actor type and actor, which none has", actor_type="ai", actor_id="clara"),
    _listing("until long ago", until=(time_of(100)).isoformat()),
    _listing("since long ago", since=(time_of(100)).isoformat()),
    _listing("of ten old minutes", since=time_of(0).isoformat(), until=time_of(600).isoformat()),
    _listing("a page in the middle", before=id_at(500)),
    _listing("of a small tenant", small=True),
    _listing("of a small tenant, by outcome, which none has", small=True, outcome="denied"),
    _listing("of a small tenant, by time", small=True, since=time_of(0).isoformat()),
]
