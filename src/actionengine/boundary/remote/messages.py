"""`WorkMessage`: a request as it stands in the queue between `QueueRunner` and `RunnerWorker`, a text of JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actionengine.boundary.request import ExecutionRequest
from actionengine.errors import ActionError, ErrorCode

QUEUE = "actionengine.modules"
EXECUTE = "actionengine.execute"


class WorkMessage(BaseModel):
    """A request, and the seconds that it may wait for a worker. No worker begins it later, even if its caller is gone
    and does not withdraw it."""

    model_config = ConfigDict(frozen=True)

    request: ExecutionRequest
    wait_seconds: float = Field(gt=0)

    def to_text(self) -> str:
        """Return the message as text. Raises `ActionError`, `invalid_input`, for a request without a JSON form."""
        try:
            return json.dumps(self.model_dump(mode="json"))
        except ValueError as error:
            raise ActionError(
                ErrorCode.INVALID_INPUT, f"the request {self.request.id} has no JSON form: {error}"
            ) from None

    @staticmethod
    def from_text(text: Any) -> WorkMessage:
        """Return the message in a text. Raises `ActionError`, `invalid_input`, for any other text."""
        try:
            return WorkMessage.model_validate(json.loads(text))
        except ValidationError as error:
            reason = f"{len(error.errors(include_url=False))} of its fields are wrong"
        except (ValueError, TypeError, RecursionError):
            reason = "it is not JSON"
        raise ActionError(ErrorCode.INVALID_INPUT, f"the queue has an entry that is not a request: {reason}")
