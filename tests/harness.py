"""The harness that the folders' own harnesses extend, and assertions on its answers."""

from __future__ import annotations

from typing import Any

from returns.result import Failure

from actionengine import ActionError, Actor, ErrorCode, testing

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
