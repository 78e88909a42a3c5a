"""The runner without a process of its own: module actions run in the thread that asks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from time import monotonic
from typing import Any, ClassVar

from pydantic_core import from_json, to_json

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.capabilities import CapabilityProfile
from actionengine.boundary.commands.file_access import FilePolicy, absolute_paths
from actionengine.boundary.commands.processes import ProcessLimits
from actionengine.boundary.declarations import ModuleAction
from actionengine.boundary.idempotency.run_once import run_once
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.boundary.request import ExecutionResult
from actionengine.boundary.runner import BoundaryRunner, check_time
from actionengine.boundary.telemetry import Sink
from actionengine.errors import ActionError, ErrorCode
from actionengine.text.json_bounds import check_readable


class InProcessRunner(BoundaryRunner):
    """Runs module actions in this process. Commands that they run are processes of their own, within `limits`.

    Python code cannot be interrupted from outside: a handler that is late or cancelled goes on until it next calls its
    `ModuleHandle`, and one that never does goes on to its end; only then comes the answer `timeout` or `conflict`.
    Where that is not enough, `SubprocessRunner` is the one to use.

    Args:
        profile: the most that work may ask for.
        actions: the module actions that there are; those of this library by default.
        limits: what each command may use.
        telemetry: sinks that are told of the work.
        require_isolation: refuse commands where the system cannot keep them off the network.
        readable: paths of this host that commands may read and execute, besides their module and the system's.
        writable: paths of this host that commands of all tenants may change, such as a cache.
    """

    name: ClassVar[str] = "in_process"

    def __init__(
        self,
        profile: CapabilityProfile,
        actions: Iterable[ModuleAction] = MODULE_ACTIONS,
        *,
        limits: ProcessLimits | None = None,
        telemetry: Iterable[Sink] = (),
        require_isolation: bool = False,
        readable: Iterable[str | os.PathLike[str]] = (),
        writable: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        super().__init__(profile, actions, telemetry)
        self._limits = limits or ProcessLimits()
        self._require_isolation = require_isolation
        self._file_policy = FilePolicy(
            absolute_paths("readable", readable), absolute_paths("writable", writable), profile.require_file_isolation
        )

    def run(self, admitted: AdmittedRequest, cancelled: threading.Event) -> ExecutionResult:
        """Call the handler here; with an idempotency key, once in its module."""
        deadline = monotonic() + admitted.request.timeout

        def perform(admitted: AdmittedRequest) -> ExecutionResult:
            return self._perform(admitted, cancelled, deadline)

        return run_once(admitted, perform, cancelled=cancelled)

    def _perform(self, admitted: AdmittedRequest, cancelled: threading.Event, deadline: float) -> ExecutionResult:
        """The one place where a handler is called."""
        request = admitted.request
        started_at = datetime.now(UTC)
        started = monotonic()
        check_time(request, cancelled, deadline)
        with ModuleHandle(
            admitted,
            limits=self._limits,
            cancelled=cancelled,
            deadline=deadline,
            require_isolation=self._require_isolation,
            file_policy=self._file_policy,
        ) as work:
            output = _plain(admitted.action, admitted.action.handler(admitted.data, work))
        check_time(request, cancelled, deadline)
        return ExecutionResult(
            request_id=request.id,
            action=admitted.action.name,
            output=output,
            runner=self.name,
            network=work.network,
            file_isolation=work.file_isolation,
            started_at=started_at,
            duration=monotonic() - started,
        )


def _plain(action: ModuleAction, output: Any) -> Any:
    """What a handler returned, as plain JSON values."""
    try:
        encoded = to_json(output, inf_nan_mode="null")
        check_readable(encoded)
        return from_json(encoded)
    except Exception as error:
        # Whatever an object does while it is looked at.
        message = f"{action.name} returned something that has no JSON form: {error}"
        raise ActionError(ErrorCode.INTERNAL, message) from None
