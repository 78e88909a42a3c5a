"""What crosses the queue between `QueueRunner` and `RunnerWorker`: an order and its answer, each a text of JSON."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from returns.result import Failure, Success

from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.boundary.runner import RunnerResult
from actionengine.errors import ActionError, ErrorCode

QUEUE = "actionengine.modules"
EXECUTE = "actionengine.execute"


class WorkMessage(BaseModel):
    """A request, and how many seconds it may wait for a worker. It is not begun later, even where nobody is there any
    more to withdraw it."""

    model_config = ConfigDict(frozen=True)

    request: ExecutionRequest
    wait_seconds: float = Field(gt=0)

    def to_text(self) -> str:
        """As text. Raises `ActionError`, `invalid_input`, for a request without a JSON form."""
        try:
            return json.dumps(self.model_dump(mode="json"))
        except ValueError as error:
            raise ActionError(
                ErrorCode.INVALID_INPUT, f"the request {self.request.id} has no JSON form: {error}"
            ) from None

    @staticmethod
    def of_text(text: Any) -> WorkMessage:
        """The order in a text. Raises `ActionError`, `invalid_input`, where it is none."""
        try:
            return WorkMessage.model_validate(json.loads(text))
        except ValidationError as error:
            reason = f"{len(error.errors(include_url=False))} of its fields are wrong"
        except (ValueError, TypeError, RecursionError):
            reason = "it is no JSON"
        raise ActionError(ErrorCode.INVALID_INPUT, f"what stands in the queue is no request: {reason}")


def answer_to_text(answer: RunnerResult) -> str:
    """An answer as text."""
    if isinstance(answer, Success):
        return json.dumps({"result": answer.unwrap().model_dump(mode="json")})
    return json.dumps({"error": answer.failure().to_dict()})


def answer_of_text(text: Any) -> RunnerResult:
    """The answer in a text; `internal` where it is none."""
    try:
        form = json.loads(text)
        if "error" in form:
            return Failure(ActionError(**form["error"]))
        return Success(ExecutionResult.model_validate(form["result"]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return Failure(ActionError(ErrorCode.INTERNAL, "the worker's answer cannot be understood"))
