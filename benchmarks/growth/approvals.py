"""Approvals: those that were decided, that have expired, and that others have asked for should not matter."""

from __future__ import annotations

from actionengine import Actor
from actionengine.concurrency.run_sync import drive
from benchmarks.growth.operation import Operation
from benchmarks.growth.worlds import World, id_at, time_of

CLARA = Actor.human("clara", permissions=["*"])
BOSS = Actor.human("boss", permissions=["*"])


def fill(world: World) -> None:
    """As many approvals that were decided, and that have expired, as there are rows."""
    ask(world)
    sample = world.sample("ae_documents", collection="ae_approvals", tenant_id=str(world.tenant.id))
    bob = {"requester": {"type": "human", "id": "bob", "roles": [], "permissions": []}, "requested_by": "human:bob"}
    for status, first in (("approved", 0), ("pending", world.size)):
        expires_at = time_of(0).isoformat() if status == "pending" else time_of(10**9).isoformat()
        changed = {**bob, "status": status, "expires_at": expires_at}
        world.clone_documents(
            sample, ((id := id_at(first + number), {**changed, "id": id}) for number in range(world.size))
        )


def ask(world: World) -> str:
    """Ask for an approval: its id."""
    return world.ask("notes", "send", actor=CLARA)


def _decide(how: str) -> Operation:
    actor = CLARA if how == "cancel" else BOSS
    return Operation(
        f"approvals.{how} of what was asked for",
        lambda world: world.do("approvals", how, {"approval_id": ask(world)}, actor=actor),
        (f"approvals.{how}",),
    )


def _list(about: str, actor: Actor = BOSS, **asked: object) -> Operation:
    return Operation(
        f"approvals.list, {about}",
        lambda world: world.do("approvals", "list", {"limit": 20, **asked}, actor=actor),
        ("approvals.list",),
    )


OPERATIONS = [
    _decide("approve"),
    _decide("reject"),
    _decide("cancel"),
    Operation(
        "approvals.get",
        lambda world: world.do("approvals", "get", {"approval_id": id_at(7)}, actor=BOSS),
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
        lambda world: drive(world.storage.backlog("sync")),
        ("storage.backlog",),
        at_worst="grows",
        why="each number is counted to 10,000",
    ),
]
