"""The stages of an execution: their names, in their order, and their type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from returns.result import Result

from actionengine.errors import ActionError
from actionengine.pipeline.execution import Execution

Stage = Callable[[Execution], Awaitable[None]]
"""A stage takes the execution, and refuses by raising `ActionError`."""
Observer = Callable[[str, Stage], Stage]
"""Takes the name of a stage and the stage; returns what runs in its place."""
ActionResult = Result[Any, ActionError]

STAGES = (
    "guard",
    "authorize",
    "validate",
    "claim",
    "before_hooks",
    "approval",
    "handler",
    "after_hooks",
    "record",
    "commit",
    "after",
)
