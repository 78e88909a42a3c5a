"""One flow, two drivers: run a coroutine to its end without an event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

Mode = Literal["sync", "async"]
"""The mode of an execution: `sync` never suspends, `async` runs under an event loop."""
T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The value of a coroutine that never suspends.

    Raises what the coroutine raises, and `RuntimeError` if it does suspend: then something in it waits for an event
    loop, and the caller is in a synchronous world.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError(
        "a synchronous execution was asked to wait on an event loop; use execute_action_async, or make it a def"
    )
