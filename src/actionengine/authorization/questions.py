"""The questions that an execution asked the authorizer. They are stored with its result, and a replay asks them
again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from actionengine.context import Actor, chain_key

MAX_QUESTIONS = 100
"""Questions that are stored with a result."""

MAX_BYTES = 32 * 1024
"""Bytes of the stored questions as JSON."""


class Question(NamedTuple):
    """A question of `action` about its actor: is it one of the `allowed_actors` (any, if None), has it one of the
    `roles` (any, if empty), and the `permission` (none, if None) on the `resource`?"""

    action: str
    allowed_actors: tuple[str, ...] | None
    roles: tuple[str, ...]
    permission: str | None
    resource: str | None


class Questions:
    """The questions of one execution that were answered with yes, each once. With `for_actor`, only the actor with that
    `chain_key` may replay the result: there were too many questions to store, or some that no authorizer can answer
    again. With `for_principal`, only actors with that principal may: the `asker` acted for it."""

    __slots__ = ("_size", "asked", "for_actor", "for_principal", "secret")

    def __init__(self, asker: Actor | None = None) -> None:
        self.asked: dict[Question, None] = {}
        self.for_actor: str | None = None
        self.for_principal = str(asker.principal) if asker is not None and asker.on_behalf_of is not None else None
        self.secret: Sequence[str] = ()
        """The resources with a secret in their names; known of questions that were decoded."""
        self._size = 0

    def add(self, question: Question, actor: Actor) -> None:
        """Add a question that `actor` asked. Past the limits, bind the replay to the actor instead."""
        if question in self.asked:
            return
        size = len(json.dumps(question))
        if len(self.asked) == MAX_QUESTIONS or self._size + size > MAX_BYTES:
            self.keep_for(actor)
            return
        self._size += size
        self.asked[question] = None

    def keep_for(self, actor: Actor | None) -> None:
        """Let only this actor replay the result; only the first call counts."""
        if self.for_actor is None:
            self.for_actor = chain_key(actor)

    def encode(self, has_secret: Callable[[str], bool]) -> bytes | None:
        """Return the questions as JSON, in ASCII; None when a replay has nothing to ask. `has_secret` returns whether a
        resource is secret."""
        if not self.asked and self.for_actor is None and self.for_principal is None:
            return None
        stored: dict[str, object] = {"for_actor": self.for_actor, "asked": list(self.asked)}
        if self.for_principal is not None:
            stored["for_principal"] = self.for_principal
        resources = {question.resource for question in self.asked if question.resource is not None}
        if secret := sorted(filter(has_secret, resources)):
            stored["secret"] = secret
        return json.dumps(stored).encode()


def decode_questions(encoded: bytes) -> Questions:
    """Return the questions from their JSON."""
    stored = json.loads(encoded)
    questions = Questions()
    questions.for_actor = stored["for_actor"]
    questions.for_principal = stored.get("for_principal")
    questions.secret = stored.get("secret", ())
    for action, allowed_actors, roles, permission, resource in stored["asked"]:
        allowed = tuple(allowed_actors) if allowed_actors is not None else None
        questions.asked[Question(action, allowed, tuple(roles), permission, resource)] = None
    return questions
