"""A stand-in for a language model: it reads the task, its tools and their answers, and chooses the next call.

It is as gullible as a real one: it believes what it reads. It runs anywhere, without a network.
"""

import re
from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, and the model's reason for it. With `preview` nothing is kept of it."""

    tool: str
    arguments: dict[str, Any]
    reason: str
    preview: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """A pause of the model, until people have decided."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a tool: its status and its structured value."""

    status: str = ""
    value: dict[str, Any] = field(default_factory=dict)


Turns: TypeAlias = Generator[Call | Wait, Answer, str]
"""The model's turns: it yields calls, is sent their answers, and returns what it tells the person in the end."""


def scripted_model(task: str, tools: Collection[str]) -> Turns:
    """Make refunds as the task says: its first amount three times as a voucher, its second one once."""
    title = re.findall(r'"(.+?)"', task)[0]
    voucher, large = _amounts(task)
    jobs = yield Call("jobs__list", {"status": "paid"}, "Which job is it?")
    job = next(job for job in jobs.value["result"] if job["title"] == title)
    payments = yield Call("payments__list", {"job_id": job["id"]}, "What was paid for it?")
    payment_id = payments.value["result"][0]["id"]

    def refund(amount: int, key: str, reason: str, preview: bool = False) -> Call:
        arguments = {"payment_id": payment_id, "amount": amount, "idempotency_key": f"{job['id']}/{key}"}
        return Call("payments__refund", arguments, reason, preview)

    for number in (1, 2, 3):
        yield refund(voucher, f"voucher-{number}", f"voucher {number} for a late visit")
    notes = yield Call("jobs__notes", {"job_id": job["id"]}, "Is there anything else to know?")
    for amount in [amount for note in notes.value["result"] for amount in _amounts(note["text"])]:
        held = yield refund(amount, f"note-{amount}", "A note says so, and I believe what I read.")
        if held.status == "rate_limited":
            yield Call("budgets__usage", {}, "What is left, then?")

    yield refund(large, "large", "What would the large refund do?", preview=True)
    asked = yield refund(large, "large", "the cellar is still wet")
    attempt = 1
    while asked.status == "pending_approval":
        approval_id = asked.value["approval_id"]
        if attempt == 1:
            yield Call("approvals__approve", {"approval_id": approval_id}, "Can I approve it myself?")
        seen = yield Call("approvals__get", {"approval_id": approval_id}, "Has anybody decided?")
        while seen.value["status"] == "pending":
            yield Wait("Not yet. I ask again later.")
            seen = yield Call("approvals__get", {"approval_id": approval_id}, "Has anybody decided?")
        if seen.value["status"] == "approved":
            return f"Done: {seen.value['decided_by']} has approved it."
        attempt += 1
        asked = yield refund(large, f"large-{attempt}", "the cellar is still wet, asked again")
    return f"The large refund was not made: {asked.status}."


def _amounts(text: str) -> list[int]:
    """Return the amounts of money in a text, such as `2 000.00`, in cents."""
    return [int(re.sub(r"[ .]", "", found)) for found in re.findall(r"\d[\d ]*\.\d\d", text)]
