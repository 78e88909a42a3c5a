"""Callbacks that run when a storage is closed, so that background work on the storage ends first."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class CallsOnClose(Protocol):
    """A storage that calls back before it closes. The library's storages do; a host's own may."""

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Register a bound method, called at each close as long as its object exists."""


class CloseCallbacks:
    """The callbacks of one storage."""

    def __init__(self) -> None:
        self._callbacks: list[weakref.WeakMethod[Callable[[], Any]]] = []

    def call_on_close(self, callback: Callable[[], None]) -> None:
        """Register a bound method, called at each close as long as its object exists."""
        self._callbacks = [each for each in self._callbacks if each() not in (None, callback)]
        self._callbacks.append(weakref.WeakMethod(callback))

    def run(self) -> None:
        """Call the callbacks."""
        for reference in self._callbacks:
            callback = reference()
            if callback is not None:
                callback()

    async def run_off_loop(self) -> None:
        """Call the callbacks in another thread: they may wait for one."""
        if self._callbacks:
            await asyncio.to_thread(self.run)
