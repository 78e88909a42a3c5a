"""Scopes: the savepoints that are open in one unit of work, and which task or thread works inside which.

While a savepoint is open, another task or thread of the same handler must not write: the write would be undone with the
savepoint, although it was answered. The current scope is kept in a context variable: the task that opens a savepoint is
inside it, with all tasks that it starts from there on. A thread that the handler starts by itself is outside, unless it
runs in a copy of the context (`asyncio.to_thread` does that).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from actionengine.storage.errors import StorageError

_CURRENT: ContextVar[Scope | None] = ContextVar("actionengine.scope", default=None)


class Scope:
    """One open savepoint. `mark` is what its backend rolls back to; `has_ended` tells of one that the handler has made
    by itself, whose end nobody reports."""

    __slots__ = ("has_ended", "is_open", "mark", "outer", "scopes")

    def __init__(self, scopes: Scopes, outer: Scope | None, mark: int, has_ended: Callable[[], bool] | None) -> None:
        self.scopes = scopes
        self.outer = outer
        self.mark = mark
        self.has_ended = has_ended
        self.is_open = True

    def step_in(self) -> None:
        """Make it the scope of the current task or thread."""
        _CURRENT.set(self)

    def step_out(self) -> None:
        """Leave it, in the current task or thread: what is open around it is current, of other units of work too."""
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
        """Open a scope inside the innermost one. Raises `StorageError` as `check` does."""
        self.check()
        scope = Scope(self, _open_one(_CURRENT.get()), mark, has_ended)
        self._open.append(scope)
        return scope

    def leave(self, scope: Scope | None = None) -> None:
        """Close a scope, and the ones inside it; all of them where none is given."""
        while self._open and (scope is None or scope.is_open):
            self._open.pop().is_open = False

    def check(self) -> None:
        """Raise `StorageError` where the caller is not inside the innermost open scope."""
        while self._open and (has_ended := self._open[-1].has_ended) is not None and has_ended():
            self._open.pop().is_open = False
        inside = _CURRENT.get()
        while inside is not None and (inside.scopes is not self or not inside.is_open):
            if inside.scopes is self and inside.has_ended is None:
                raise StorageError("the nested action that this task or thread belongs to is over")
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
