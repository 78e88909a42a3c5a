"""The host application of the conformance suite: it keeps notes and makes payments."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from returns.result import Failure, Result, Success

from actionengine.action_context import ActionContext
from actionengine.actions import ApprovalPolicy, Service, create_action, create_service
from actionengine.context import Actor
from actionengine.pipeline.payload import Limits
from actionengine.testing.backend import Backend
from actionengine.testing.harness import Harness

CLERK = Actor.human("clerk", permissions=["payments.pay"])
MANAGER = Actor.human("manager", permissions=["payments.pay", "payments.approve"])
AGENT = Actor.ai("agent", permissions=["payments.pay", "payments.approve"])

Returned = Result[Any, Any]


class SampleHarness(Harness):
    """An engine with the services `notes` and `payments`. `runs` has the payload of each run of `put` and `pay`."""

    actor = CLERK

    def __init__(
        self, backend: Backend, limits: Limits | None = None, approvals_expire_after: timedelta | None = None
    ) -> None:
        self.runs: list[Any] = []
        self.is_open = True
        """While False, `pay` fails."""
        self.waiting = backend.event()
        """Set when `put_and_wait` has written and waits."""
        policy = ApprovalPolicy(
            when=lambda data, ctx: bool(data["amount"] > 1000),
            permission="payments.approve",
            expires_after=approvals_expire_after or timedelta(days=1),
        )
        super().__init__(backend, [_notes(self), _payments(self, policy)], limits=limits)


def _notes(harness: SampleHarness) -> Service:
    def put(data: dict[str, Any], ctx: ActionContext) -> Returned:
        harness.runs.append(data)
        record = ctx.records("notes").insert(data, data.get("id"))
        return Success({"id": record.id, "text": data.get("text")})

    async def put_async(data: dict[str, Any], ctx: ActionContext) -> Returned:
        harness.runs.append(data)
        record = await ctx.async_records("notes").insert(data, data.get("id"))
        return Success({"id": record.id, "text": data.get("text")})

    def change(data: dict[str, Any], ctx: ActionContext) -> Returned:
        record = ctx.records("notes").update(data["id"], data, data["expected_version"])
        return Success(record.version)

    def increment(data: dict[str, Any], ctx: ActionContext) -> Returned:
        notes = ctx.records("notes")
        record = notes.get(data["id"])
        if record is None:
            return Failure("there is nothing to increment")
        number = record.data["number"] + 1
        notes.update(record.id, {"number": number}, record.version)
        ctx.emit("note.incremented", {"number": number}, f"notes/{record.id}")
        return Success(number)

    def read(data: dict[str, Any], ctx: ActionContext) -> Returned:
        record = ctx.records("notes").get(data["id"])
        return Success(record and record.data)

    def write_after_all(data: dict[str, Any], ctx: ActionContext) -> Returned:
        ctx.records("notes").insert(data)
        return Success(None)

    def fail(data: dict[str, Any], ctx: ActionContext) -> Returned:
        ctx.records("notes").insert(data, data.get("id"))
        ctx.emit("note.failed", data)
        return Failure("refused by the test")

    def crash(data: dict[str, Any], ctx: ActionContext) -> Returned:
        ctx.records("notes").insert(data, data.get("id"))
        ctx.emit("note.crashed", data)
        raise RuntimeError("refused by the test")

    async def crash_async(data: dict[str, Any], ctx: ActionContext) -> Returned:
        await ctx.async_records("notes").insert(data, data.get("id"))
        ctx.emit("note.crashed", data)
        raise RuntimeError("refused by the test")

    def interrupt(data: dict[str, Any], ctx: ActionContext) -> Returned:
        ctx.records("notes").insert(data, data.get("id"))
        raise KeyboardInterrupt

    async def put_and_wait(data: dict[str, Any], ctx: ActionContext) -> Returned:
        await ctx.async_records("notes").insert(data, data.get("id"))
        harness.waiting.set()
        await asyncio.Event().wait()
        return Success(None)

    def report(data: dict[str, Any], ctx: ActionContext) -> Returned:
        for type in data["types"]:
            ctx.emit(type, {"said": data.get("text")}, data.get("subject"))
        return Success(None)

    def put_around_failures(data: dict[str, Any], ctx: ActionContext) -> Returned:
        answers = [
            ctx.execute("notes", "put", {"id": "before"}),
            ctx.execute("notes", "fail", {"id": "failed"}),
            ctx.execute("notes", "put", {"id": "after"}),
            ctx.execute("notes", "crash", {"id": "crashed"}),
        ]
        ctx.records("notes").insert({}, "own")
        return Success([isinstance(answer, Success) for answer in answers])

    async def put_around_failures_async(data: dict[str, Any], ctx: ActionContext) -> Returned:
        answers = [
            await ctx.execute_async("notes", "put_async", {"id": "before"}),
            await ctx.execute_async("notes", "fail", {"id": "failed"}),
            await ctx.execute_async("notes", "put", {"id": "after"}),
            await ctx.execute_async("notes", "crash_async", {"id": "crashed"}),
        ]
        await ctx.async_records("notes").insert({}, "own")
        return Success([isinstance(answer, Success) for answer in answers])

    def put_twice(data: dict[str, Any], ctx: ActionContext) -> Returned:
        ctx.authorize("notes.copy", f"note/{data['id']}")
        original = ctx.execute("notes", "edit", data).unwrap()
        return Success([original, ctx.records("notes").insert({}).version])

    def put_and_fail(data: dict[str, Any], ctx: ActionContext) -> Returned:
        ctx.execute("notes", "put", data)
        return Failure("refused by the test")

    return create_service(
        name="notes",
        description="Notes",
        actions=[
            create_action(name="put", description="Keep a note", handler=put),
            create_action(name="put_async", description="Keep a note", handler=put_async),
            create_action(name="put_with_key", description="Keep a note", handler=put, idempotency="required"),
            create_action(name="change", description="Change a note", handler=change),
            create_action(name="increment", description="Count up", handler=increment),
            create_action(name="read", description="Read a note", handler=read, read_only=True),
            create_action(name="write_after_all", description="Write wrongly", handler=write_after_all, read_only=True),
            create_action(name="fail", description="Write and fail", handler=fail),
            create_action(name="crash", description="Write and crash", handler=crash),
            create_action(name="crash_async", description="Write and crash", handler=crash_async),
            create_action(name="interrupt", description="Write and be interrupted", handler=interrupt),
            create_action(name="put_and_wait", description="Write and wait for ever", handler=put_and_wait),
            create_action(name="tell", description="Emit events", handler=report),
            create_action(name="put_around_failures", description="Nest", handler=put_around_failures),
            create_action(name="put_around_failures_async", description="Nest", handler=put_around_failures_async),
            create_action(name="put_twice", description="Nest and authorize", handler=put_twice),
            create_action(name="put_and_fail", description="Nest and fail", handler=put_and_fail),
            create_action(
                name="edit",
                description="Edit one note",
                handler=put,
                permission="notes.edit",
                resource=lambda data: f"note/{data['id']}",
            ),
            create_action(name="audit", description="For auditors", handler=put, access_control=["auditor"]),
        ],
    )


def _payments(harness: SampleHarness, policy: ApprovalPolicy) -> Service:
    def pay(data: dict[str, Any], ctx: ActionContext) -> Returned:
        harness.runs.append(data)
        if not harness.is_open:
            return Failure("payments are closed")
        record = ctx.records("payments").insert(data)
        return Success({"id": record.id, "amount": data["amount"]})

    def pay_all(data: dict[str, Any], ctx: ActionContext) -> Returned:
        ctx.records("batches").insert(data)
        for amount in data["amounts"]:
            answer = ctx.execute("payments", "pay", {"amount": amount})
            if isinstance(answer, Failure):
                return answer
        return Success(len(data["amounts"]))

    return create_service(
        name="payments",
        description="Payments; large ones need an approval",
        actions=[
            create_action(name="pay", description="Pay", handler=pay, permission="payments.pay", approval=policy),
            create_action(name="pay_all", description="Pay several", handler=pay_all, permission="payments.pay"),
            create_action(
                name="pay_all_carefully",
                description="Pay several, always with an approval",
                handler=pay_all,
                permission="payments.pay",
                approval=ApprovalPolicy(when=lambda data, ctx: True, permission="payments.approve"),
            ),
        ],
    )
