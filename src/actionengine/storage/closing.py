"""Callbacks that a storage runs when it is closed: what works on the storage in the background ends first."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class CallsOnClose(Protocol):
    """A storage that calls back before it closes. The storages of the library do; a host's own may."""

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Call a bound method at each close, as long as its object exists."""


class CloseCallbacks:
    """The callbacks of one storage."""

    def __init__(self) -> None:
        self._callbacks: list[weakref.WeakMethod[Callable[[], Any]]] = []

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Call a bound method at each close, as long as its object exists."""
        known = [each for each in self._callbacks if each() is not None]
        self._callbacks = [*known, *({weakref.WeakMethod(callback)} - {*known})]

    def run(self) -> None:
        """Call them."""
        for reference in self._callbacks:
            callback = reference()
            if callback is not None:
                callback()

    async def run_off_loop(self) -> None:
        """Call them in another thread: they may wait for one."""
        if self._callbacks:
            await asyncio.to_thread(self.run)
