"""Approvals: those that were decided, that have expired, and that others have asked for should not matter."""

from __future__ import annotations

from actionengine import Actor
from actionengine.concurrency.run_sync import run_sync
from benchmarks.growth.backends import Backend, id_at, time_of
from benchmarks.growth.operation import Operation

CLARA = Actor.human("clara", permissions=["*"])
BOSS = Actor.human("boss", permissions=["*"])


def fill(backend: Backend) -> None:
    """As many approvals that were decided, and that have expired, as there are rows."""
    ask(backend)
    sample = backend.sample("ae_documents", collection="ae_approvals", tenant_id=str(backend.tenant.id))
    bob = {"requester": {"type": "human", "id": "bob", "roles": [], "permissions": []}, "requested_by": "human:bob"}
    for status, first in (("approved", 0), ("pending", backend.size)):
        expires_at = time_of(0).isoformat() if status == "pending" else time_of(10**9).isoformat()
        changed = {**bob, "status": status, "expires_at": expires_at}
        backend.clone_documents(
            sample, ((id := id_at(first + number), {**changed, "id": id}) for number in range(backend.size))
        )


def ask(backend: Backend) -> str:
    """Ask for an approval: its id."""
    return backend.ask("notes", "send", actor=CLARA)


def _decide(how: str) -> Operation:
    actor = CLARA if how == "cancel" else BOSS
    return Operation(
        f"approvals.{how} of what was asked for",
        lambda backend: backend.do("approvals", how, {"approval_id": ask(backend)}, actor=actor),
        (f"approvals.{how}",),
    )


def _list(about: str, actor: Actor = BOSS, **asked: object) -> Operation:
    return Operation(
        f"approvals.list, {about}",
        lambda backend: backend.do("approvals", "list", {"limit": 20, **asked}, actor=actor),
        ("approvals.list",),
    )


OPERATIONS = [
    _decide("approve"),
    _decide("reject"),
    _decide("cancel"),
    Operation(
        "approvals.get",
        lambda backend: backend.do("approvals", "get", {"approval_id": id_at(7)}, actor=BOSS),
        ("approvals.get",),
    ),
    _list("a page"),
    _list("pending", status="pending"),
    _list("rejected", status="rejected"),
    _list("expired", status="expired"),
    _list("of a requester", requested_by="human:clara"),
    _list("of a requester, pending", requested_by="human:clara", status="pending"),
    _list("by somebody who may see none", Actor.human("eve")),
    Operation(
        "backlog",
        lambda backend: run_sync(backend.storage.backlog("sync")),
        ("storage.backlog",),
        at_worst="grows",
        why="each number is counted to 10,000",
    ),
]
