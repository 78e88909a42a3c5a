"""Operations on the outbox: its status and its dead letters, for operators."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from actionengine.concurrency.run_sync import Mode
from actionengine.errors import ConfigurationError
from actionengine.storage.outbox import QUEUES, DeadLetter, Outbox, OutboxStatus
from actionengine.storage.port import Storage

T = TypeVar("T")


class OutboxOperations:
    """The operations of one storage in one mode."""

    def __init__(self, storage: Storage, mode: Mode) -> None:
        self._storage = storage
        self._mode = mode

    async def status(self, queue: str) -> OutboxStatus:
        """Return the status of a queue."""
        (status,) = await self._ask(queue, lambda outbox: outbox.status())
        return status

    async def dead_letters(self, after: str | None, limit: int, queue: str | None) -> list[DeadLetter]:
        """Return dead letters by event id, of one queue or of all."""
        pages = await self._ask(queue, lambda outbox: outbox.dead_letters(after=after, limit=limit))
        found = sorted((letter for page in pages for letter in page), key=lambda letter: letter.event.id)
        # An event that is dead in several queues is on one page, since the next one begins after its id.
        return [letter for letter in found if letter.event.id <= found[:limit][-1].event.id]

    async def redrive(self, ids: Iterable[str] | None, queue: str | None) -> int:
        """Return the number of dead letters that are tried again: those with these ids, or all."""
        named = None if ids is None else _as_list(ids)
        return sum(await self._ask(queue, lambda outbox: outbox.redrive(named)))

    async def skip(self, ids: Iterable[str], reason: str, queue: str | None) -> int:
        """Return the number of dead letters that are given up."""
        named = _as_list(ids)
        return sum(await self._ask(queue, lambda outbox: outbox.skip(named, reason)))

    async def _ask(self, queue: str | None, ask: Callable[[Outbox], Coroutine[Any, Any, T]]) -> list[T]:
        """Ask one queue, or all of them."""
        answers: list[T] = []
        for name in QUEUES if queue is None else (check_queue(queue),):
            outbox = self._storage.outbox(self._mode, name)
            try:
                answers.append(await ask(outbox))
            finally:
                await outbox.close()
        return answers


def check_queue(queue: str) -> str:
    """Return a queue of the outbox. Raise `ConfigurationError` if there is none of this name."""
    if queue not in QUEUES:
        raise ConfigurationError(f"there is no queue {queue!r}: the outbox has {', '.join(QUEUES)}")
    return queue


def _as_list(ids: Iterable[str]) -> list[str]:
    return [ids] if isinstance(ids, str) else list(ids)
