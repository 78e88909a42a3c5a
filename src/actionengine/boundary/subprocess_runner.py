"""The runner with a process for each piece of work. It ends the process with everything that the process started."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import ClassVar

from returns.result import Failure

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.capabilities import Capability, CapabilityProfile
from actionengine.boundary.child import actions_at
from actionengine.boundary.commands.file_access import absolute_paths
from actionengine.boundary.commands.processes import CompletedCommand, ProcessLimits, run_process
from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.boundary.runner import BoundaryRunner, answer_from_text, cancelled_error, timeout_error
from actionengine.boundary.telemetry import Sink
from actionengine.errors import ActionError, ErrorCode

logger = logging.getLogger("actionengine")

ANSWER_BYTES = 64 * 1024**2
"""The largest answer, in bytes, in addition to the prints of the work."""

_START = "import sys; sys.path[:] = sys.argv[1:]; from actionengine.boundary.child import main; main()"


class SubprocessRunner(BoundaryRunner):
    """A runner with a process for each piece of work, which checks the boundary again.

    The handler and its commands are one tree of processes: kept off the network together unless the request has
    `net:http`, and ended together at the timeout, which includes the start of the process, and when the work is
    cancelled. The logger `actionengine` gets the prints of the handler.

    Args:
        profile: the most that work may ask for.
        actions: the import path of the module actions for both processes, `module:attribute`.
        limits: the limits of the process and of each command. `output_bytes` does not count the answer itself, which
            has at most 64 MiB.
        telemetry: sinks that receive events about the work, in this process.
        environment: environment variables for handlers, in addition to those of commands (see `run_process`); commands
            do not get them.
        require_isolation: refuse work if the system cannot keep it off the network.
        readable: paths of this host that commands may read and execute, besides their module and system paths. The
            handler itself is the host's code, and may reach all files.
        writable: paths of this host that commands of all tenants may change, such as a cache.

    Raises:
        ConfigurationError: if `actions` does not name module actions.
    """

    name: ClassVar[str] = "subprocess"

    def __init__(
        self,
        profile: CapabilityProfile,
        actions: str = "actionengine.boundary.module_actions:MODULE_ACTIONS",
        *,
        limits: ProcessLimits | None = None,
        telemetry: Iterable[Sink] = (),
        environment: Mapping[str, str] | None = None,
        require_isolation: bool = False,
        readable: Iterable[str | os.PathLike[str]] = (),
        writable: Iterable[str | os.PathLike[str]] = (),
    ) -> None:
        super().__init__(profile, actions_at(actions), telemetry)
        self._actions = actions
        self._limits = limits or ProcessLimits()
        self._environment = dict(environment or {})
        self._require_isolation = require_isolation
        self._readable = absolute_paths("readable", readable)
        self._writable = absolute_paths("writable", writable)

    def run(self, admitted: AdmittedRequest, cancelled: threading.Event) -> ExecutionResult:
        """Run the work in a process of its own and return its result."""
        request = admitted.request
        # With -I, Python has no import paths of its own: the process gets those of this one.
        paths = [path or os.getcwd() for path in sys.path]
        try:
            finished = run_process(
                (sys.executable, "-I", "-c", _START, *paths),
                folder="/",
                environment=self._environment,
                stdin=self._order(admitted),
                limits=replace(self._limits, output_bytes=self._limits.output_bytes + ANSWER_BYTES),
                timeout=request.timeout,
                network=Capability.NET_HTTP in request.capabilities,
                require_isolation=self._require_isolation,
                cancelled=cancelled,
            )
        except ActionError as error:
            raise _described_work(error, request) from None
        if finished.stderr:
            printed = finished.stderr[-10_000:].decode("utf-8", "replace")
            logger.info("the work %s (%s) printed: %s", request.id, request.action, printed)
        return _result(finished, request).model_copy(update={"runner": self.name, "network": finished.network})

    def _order(self, admitted: AdmittedRequest) -> bytes:
        module = admitted.module.model_copy(update={"root": admitted.module.root.absolute()})
        request = admitted.request.model_copy(update={"module": module})
        profile = self.boundary.profile
        try:
            order = {
                "profile": profile.name,
                "capabilities": sorted(profile.capabilities),
                "require_file_isolation": profile.require_file_isolation,
                "actions": self._actions,
                "limits": asdict(self._limits),
                "require_isolation": self._require_isolation,
                "readable": self._readable,
                "writable": self._writable,
                "request": request.model_dump(mode="json"),
            }
            return json.dumps(order).encode()
        except ValueError as error:
            raise ActionError(ErrorCode.INVALID_INPUT, f"the request {request.id} has no JSON form: {error}") from None


def _described_work(error: ActionError, request: ExecutionRequest) -> ActionError:
    """Return the error of a process as the error of its work."""
    code = error.code
    if code is ErrorCode.TIMEOUT:
        return timeout_error(request)
    if code is ErrorCode.CONFLICT:
        return cancelled_error(request)
    if code is ErrorCode.UNPROCESSABLE and "stdout" in error.details:
        return ActionError(code, f"the work {request.id} ({request.action}) exceeded its limit of output")
    return error


def _result(finished: CompletedCommand, request: ExecutionRequest) -> ExecutionResult:
    """Return the result in an answer. Raise the error in it, and `handler_error` if there is no answer."""
    try:
        answer = answer_from_text(finished.stdout)
    except ValueError:
        why = "at its limit of CPU time" if finished.limit == "cpu" else f"with exit code {finished.exit_code}"
        raise ActionError(
            ErrorCode.HANDLER_ERROR,
            f"{request.action} ended its process {why} instead of returning",
            {
                "request_id": request.id,
                "exit_code": finished.exit_code,
                "stderr": finished.stderr[-4096:].decode("utf-8", "replace"),
            },
        ) from None
    if isinstance(answer, Failure):
        raise answer.failure()
    return answer.unwrap()
