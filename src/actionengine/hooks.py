"""The view of hooks on their execution: the context, the hooks that ran before, and the result with their log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from actionengine.errors import ActionError


@dataclass(frozen=True, slots=True)
class HookLogEntry:
    """One hook run: its name (`service.action`), masked input and output, and whether it passed."""

    name: str
    input: Any
    output: Any
    passed: bool


@dataclass(slots=True)
class HookLog:
    """The hooks run so far, in order."""

    before: list[HookLogEntry] = field(default_factory=list)
    after: list[HookLogEntry] = field(default_factory=list)

    def __getitem__(self, phase: Literal["before", "after"]) -> list[HookLogEntry]:
        """`log["before"]` is `log.before`."""
        if phase not in ("before", "after"):
            raise KeyError(phase)
        return self.before if phase == "before" else self.after


@dataclass(slots=True)
class HookContext:
    """One execution as its hooks see it. The hooks share `state`, which ends with the execution."""

    action_name: str
    input: Any = None
    output: Any = None
    error: ActionError | None = None
    state: dict[str, Any] = field(default_factory=dict)
    log: HookLog = field(default_factory=HookLog)


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The result of an action with `ActionResultConfig(pipeline=True)`: the value and the hook log."""

    data: Any
    pipeline: HookLog
