"""Scopes: the open savepoints of one unit of work, and the tasks and threads inside them.

While a savepoint is open, no other task or thread of the same handler may write: a rollback of the savepoint would undo
the write after it was answered. A context variable holds the current scope. The task that opens a savepoint is inside
it, with all tasks that it starts from then on. A thread that the handler starts is outside, unless it runs in a copy of
the context, as with `asyncio.to_thread`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from actionengine.storage.errors import StorageError

_CURRENT: ContextVar[Scope | None] = ContextVar("actionengine.scope", default=None)


class Scope:
    """One open savepoint. Its backend rolls back to `mark`. `has_ended` returns whether a savepoint of the handler's
    own SQL, whose end is not reported, is over."""

    __slots__ = ("has_ended", "is_open", "mark", "outer", "scopes")

    def __init__(self, scopes: Scopes, outer: Scope | None, mark: int, has_ended: Callable[[], bool] | None) -> None:
        self.scopes = scopes
        self.outer = outer
        self.mark = mark
        self.has_ended = has_ended
        self.is_open = True

    def step_in(self) -> None:
        """Make this the scope of the current task or thread."""
        _CURRENT.set(self)

    def step_out(self) -> None:
        """Leave the scope in the current task or thread, for the nearest open scope around it, also of other units of
        work."""
        current = _open_one(_CURRENT.get())
        _CURRENT.set(current)
        while current is not None:
            outer = current.outer = _open_one(current.outer)
            current = outer


class Scopes:
    """The open savepoints of one unit of work, innermost last. Its owner calls it one thread or task at a time."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: list[Scope] = []

    def enter(self, mark: int = 0, has_ended: Callable[[], bool] | None = None) -> Scope:
        """Open a scope inside the innermost one. Raise `StorageError` as `check` does."""
        self.check()
        scope = Scope(self, _open_one(_CURRENT.get()), mark, has_ended)
        self._open.append(scope)
        return scope

    def leave(self, scope: Scope | None = None) -> None:
        """Close a scope and those inside it; all scopes without an argument."""
        while self._open and (scope is None or scope.is_open):
            self._open.pop().is_open = False

    def check(self) -> None:
        """Raise `StorageError` when the caller is not inside the innermost open scope."""
        while self._open and (has_ended := self._open[-1].has_ended) is not None and has_ended():
            self._open.pop().is_open = False
        inside = _CURRENT.get()
        while inside is not None and (inside.scopes is not self or not inside.is_open):
            if inside.scopes is self and inside.has_ended is None:
                raise StorageError("the nested action of this task or thread has ended, and its use of the storage too")
            inside = inside.outer
        if inside is not (self._open[-1] if self._open else None):
            raise StorageError(
                "another task or thread of this handler is inside a nested action (ctx.execute) or a savepoint "
                "(session.begin_nested), which may still be undone: wait for its end before you use the storage"
            )


def _open_one(scope: Scope | None) -> Scope | None:
    """Return the scope, or the nearest open one around it."""
    while scope is not None and not scope.is_open:
        scope = scope.outer
    return scope
