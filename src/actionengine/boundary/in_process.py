"""The runner without a process of its own: module actions run in the caller's thread."""

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
    """A runner that calls handlers in this process. Their commands are processes of their own, within `limits`.

    Python code cannot be interrupted from outside: a handler that is late or cancelled continues until it next calls
    its `ModuleHandle`, and one that never does continues to its end; only then the answer is `timeout` or `conflict`.
    If that is not enough, use `SubprocessRunner`.

    Args:
        profile: the most that work may ask for.
        actions: the module actions; those of this library by default.
        limits: the limits of each command.
        telemetry: sinks that receive events about the work.
        require_isolation: refuse commands if the system cannot keep them off the network.
        readable: paths of this host that commands may read and execute, besides their module and system paths.
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
        """Call the handler here. With an idempotency key, the work takes effect once in its module."""
        deadline = monotonic() + admitted.request.timeout

        def perform(admitted: AdmittedRequest) -> ExecutionResult:
            return self._perform(admitted, cancelled, deadline)

        return run_once(admitted, perform, cancelled=cancelled)

    def _perform(self, admitted: AdmittedRequest, cancelled: threading.Event, deadline: float) -> ExecutionResult:
        """Call the handler. No other code does."""
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
    """Return a handler's output as plain JSON values."""
    try:
        encoded = to_json(output, inf_nan_mode="null")
        check_readable(encoded)
        return from_json(encoded)
    except Exception as error:
        # The code of an object can raise anything while it is serialized.
        message = f"{action.name} returned a value that has no JSON form: {error}"
        raise ActionError(ErrorCode.INTERNAL, message) from None
