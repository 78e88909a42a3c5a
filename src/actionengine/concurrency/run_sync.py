"""One flow, two modes: run a coroutine to its end without an event loop."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

Mode = Literal["sync", "async"]
"""The mode of an execution: `sync` never suspends, `async` runs under an event loop."""
T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the value of a coroutine that never suspends.

    Raise the error of the coroutine, and `RuntimeError` if it suspends: then it waits for an event loop, and the caller
    has none.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError(
        "a synchronous execution cannot wait for an event loop: call execute_action_async, or make the function a def"
    )
