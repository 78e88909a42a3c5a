"""`HttpRunner`: the client."""

from __future__ import annotations

import http.client
import json
import select
import threading
import time
from collections.abc import Iterable
from typing import Any, ClassVar
from urllib.parse import urlsplit

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.capabilities import CapabilityProfile
from actionengine.boundary.declarations import ModuleAction
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.boundary.runner import BoundaryRunner, cancelled_error, timeout_error
from actionengine.boundary.telemetry import Sink
from actionengine.errors import ActionError, ErrorCode
from examples.http_runner.signing import Keys

GRACE = 5.0
"""Seconds that the other side has beyond a request's timeout, to end the work and to say so."""

MAX_ANSWER_BYTES = 64 * 1024**2
_CANCEL_CHECK_INTERVAL = 0.05


class HttpRunner(BoundaryRunner):
    """A runner that sends work to a server of `create_app`, which has the modules.

    A cancellation closes the connection, and the server then ends the work. If the connection is lost after the request
    was sent, the result is `unavailable`, and the work may have been done: with an idempotency key, a retry is safe.

    Args:
        url: the server's address, such as `https://worker.example.org:8443`.
        keys: the keys that sign requests.
        profile: the capabilities that work may ask for on this side; the server has its own profile.
        actions: the module actions of the server.
        telemetry: sinks that get the events of the work in this process.

    Raises:
        ValueError: for a URL without `http` or `https`.
    """

    name: ClassVar[str] = "http"

    def __init__(
        self,
        url: str,
        keys: Keys,
        profile: CapabilityProfile,
        actions: Iterable[ModuleAction] = MODULE_ACTIONS,
        *,
        telemetry: Iterable[Sink] = (),
    ) -> None:
        super().__init__(profile, actions, telemetry)
        parsed = urlsplit(url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise ValueError(f"{url!r} is no URL of a server")
        self._is_secure = parsed.scheme == "https"
        self._host, self._port = parsed.hostname, parsed.port
        self._path = f"{parsed.path.rstrip('/')}/executions"
        self._keys = keys

    def run(self, admitted: AdmittedRequest, cancelled: threading.Event) -> ExecutionResult:
        """Send the work, and wait for its result."""
        request = admitted.request
        body = _order(request)
        connection = self._connection()
        deadline = time.monotonic() + request.timeout + GRACE
        try:
            headers = {"content-type": "application/json", **self._keys.sign("POST", self._path, body)}
            connection.request("POST", self._path, body, headers)
            _wait(connection, request, cancelled, deadline)
            response = connection.getresponse()
            status, content = response.status, response.read(MAX_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise ActionError(
                ErrorCode.UNAVAILABLE,
                f"the runner at {self._host} is out of reach: {error or type(error).__name__}",
                {"request_id": request.id},
            ) from error
        finally:
            connection.close()
        return self._result(request, status, content)

    def _connection(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_secure else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=GRACE)

    def _result(self, request: ExecutionRequest, status: int, content: bytes) -> ExecutionResult:
        try:
            answer: dict[str, Any] = json.loads(content)
            if "error" in answer:
                given = answer["error"]
                raise ActionError(ErrorCode(given["code"]), given["message"], given.get("details") or {})
            result = ExecutionResult.model_validate(answer["result"])
        except (ValueError, LookupError, TypeError) as error:
            raise ActionError(
                ErrorCode.UNAVAILABLE,
                f"the runner at {self._host} gave an invalid answer (status {status})",
                {"request_id": request.id, "status": status},
            ) from error
        return result.model_copy(update={"runner": self.name, "worker": result.worker or self._host})


def _order(request: ExecutionRequest) -> bytes:
    """Encode a request, without the local folder of its module."""
    document = request.model_dump(mode="json", exclude={"module": {"root"}})
    try:
        return json.dumps(document, allow_nan=False).encode()
    except ValueError as error:
        raise ActionError(ErrorCode.INVALID_INPUT, f"the request {request.id} has no JSON form: {error}") from None


def _wait(
    connection: http.client.HTTPConnection, request: ExecutionRequest, cancelled: threading.Event, deadline: float
) -> None:
    """Wait until the answer begins. Raises `ActionError` after a cancellation or the deadline."""
    while not select.select([connection.sock], [], [], _CANCEL_CHECK_INTERVAL)[0]:
        if cancelled.is_set():
            raise cancelled_error(request)
        if time.monotonic() > deadline:
            raise timeout_error(request)
