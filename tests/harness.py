"""The harness that the folders' own harnesses extend, handlers that their hosts share, and assertions on answers."""

from __future__ import annotations

from typing import Any

from returns.result import Failure, Result, Success

from actionengine import ActionContext, ActionError, Actor, ErrorCode, testing

ANN = Actor.human("ann")
BOB = Actor.human("bob")
BOT = Actor.ai("bot")


class Harness(testing.Harness):
    """An engine on a backend, asked by `ANN` unless a test names another actor."""

    actor = ANN

    async def ask(self, name: str, payload: Any = None, **options: Any) -> Any:
        """Execute `service.action` and return its value, or the `ActionError`; `by` is the actor."""
        actor = options.pop("by", self.actor)
        result = await self.execute(name, payload, actor=actor, **options)
        return result.failure() if isinstance(result, Failure) else result.unwrap()


def keep_document(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Insert a document, or update the one of a version."""
    records = ctx.records(data["type"])
    if "version" in data:
        return Success(records.update(data["id"], data["document"], data["version"]).version)
    return Success(records.insert(data["document"], data.get("id")).id)


def remove_document(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Delete a document."""
    ctx.records(data["type"]).delete(data["id"], data["version"])
    return Success(None)


def run_steps(data: dict[str, Any], ctx: ActionContext) -> Result[Any, Any]:
    """Execute actions one after the other, ignore their failures, and fail only with `fails`."""
    outcomes: list[str] = []
    for name, payload in data["steps"]:
        service, action = name.split(".")
        answer: Result[Any, ActionError] = ctx.execute(service, action, payload)
        outcomes.append("succeeded" if isinstance(answer, Success) else answer.failure().code.value)
    return Failure("refused by the test") if data.get("fails") else Success(outcomes)


def expect(value: Any) -> Any:
    """Return a value, which must not be an error."""
    assert not isinstance(value, ActionError), value.to_dict()
    return value


def refused(answer: Any, code: ErrorCode, *words: str) -> ActionError:
    """Return an answer, which must be an error with this code and these words in its message."""
    assert isinstance(answer, ActionError), answer
    assert answer.code is code, answer.to_dict()
    for each in words:
        assert each in answer.message, answer.message
    return answer
