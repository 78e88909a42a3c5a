"""Modules, requests and work for tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID

import pytest
from returns.result import Failure, Success

from actionengine import ActionError, Actor, ErrorCode, Tenant
from actionengine.boundary.boundary import AdmittedRequest, Boundary
from actionengine.boundary.capabilities import SYSTEM_PRIVILEGED
from actionengine.boundary.commands.processes import ProcessLimits
from actionengine.boundary.declarations import ModuleAction
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.boundary.request import ExecutionRequest, ExecutionResult, ModuleContext
from actionengine.boundary.runner import RunnerResult

ACME = Tenant(UUID(int=1), "acme")
EVERYTHING = ("fs:read", "fs:write", "cmd:run", "git:diff")


def asking(root: Path, action: str, *capabilities: str, **changes: Any) -> ExecutionRequest:
    """Return a request. Keywords that are not fields of a request are its input."""
    input = {name: changes.pop(name) for name in list(changes) if name not in ExecutionRequest.model_fields}
    module = ModuleContext(id="site", root=root, tenant=ACME)
    asked = {"tenant": ACME, "module": module, "actor": Actor.ai("helper"), "input": input}
    return ExecutionRequest.model_validate({**asked, "action": action, "capabilities": capabilities, **changes})


def result(answer: RunnerResult) -> ExecutionResult:
    """Return the result in an answer."""
    assert isinstance(answer, Success), answer
    found: ExecutionResult = answer.unwrap()
    return found


def error(answer: RunnerResult) -> ActionError:
    """Return the error in an answer."""
    assert isinstance(answer, Failure), answer
    found: ActionError = answer.failure()
    return found


def code_of(call: Callable[[], object]) -> ErrorCode:
    """Return the code of the error that a call raises."""
    with pytest.raises(ActionError) as caught:
        call()
    return caught.value.code


def admit(
    root: Path,
    action: str = "read",
    input: dict[str, Any] | None = None,
    *,
    capabilities: Iterable[str] | None = None,
    actions: Iterable[ModuleAction] = MODULE_ACTIONS,
    **of_request: Any,
) -> AdmittedRequest:
    """Return an admitted request, by default with the capabilities of its action."""
    module = ModuleContext(id="site", root=root, tenant=ACME)
    boundary = Boundary(SYSTEM_PRIVILEGED, actions)
    asked = boundary.actions[action].capabilities if capabilities is None else capabilities
    request = ExecutionRequest(
        tenant=ACME, module=module, action=action, input=input or {}, capabilities=asked, **of_request
    )
    return boundary.admit(request)


def work_in(
    root: Path, *capabilities: str, seconds: float = 60.0, cancelled: threading.Event | None = None
) -> ModuleHandle:
    """Return a handle of a module with these capabilities."""
    admitted = admit(root, "run", {"argv": ["true"]}, capabilities={"cmd:run", *(capabilities or EVERYTHING)})
    request = admitted.request.model_copy(update={"capabilities": frozenset(capabilities or EVERYTHING)})
    return ModuleHandle(
        replace(admitted, request=request),
        limits=ProcessLimits(),
        cancelled=cancelled or threading.Event(),
        deadline=monotonic() + seconds,
    )


def perform(admitted: AdmittedRequest) -> ExecutionResult:
    """Do work as a runner does."""
    with ModuleHandle(
        admitted, limits=ProcessLimits(), cancelled=threading.Event(), deadline=monotonic() + admitted.request.timeout
    ) as work:
        output = admitted.action.handler(admitted.data, work)
    return ExecutionResult(
        request_id=admitted.request.id,
        action=admitted.action.name,
        output=output,
        runner="test",
        network=work.network,
        started_at=datetime.now(UTC),
        duration=0.0,
    )


def do(root: Path, action: str, /, **input: Any) -> Any:
    """Return the output of a module action."""
    return perform(admit(root, action, input)).output


def tree(root: Path) -> dict[str, tuple[str, int | None, bytes | str | None]]:
    """Return the contents of a folder."""
    found: dict[str, tuple[str, int | None, bytes | str | None]] = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder, name)
            key = os.path.relpath(path, root)
            if path.is_symlink():
                found[key] = ("link", None, os.readlink(path))
            elif path.is_dir():
                found[key] = ("folder", path.stat().st_mode & 0o777, None)
            elif path.is_file():
                found[key] = ("file", path.stat().st_mode & 0o777, path.read_bytes())
            else:
                found[key] = ("special", None, None)
    return found
