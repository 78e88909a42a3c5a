"""Stages 4 and 8, validate: the payload becomes the handler's input."""

from __future__ import annotations

from contextlib import suppress

from pydantic import ValidationError

from actionengine.errors import ActionError, ErrorCode, check_length
from actionengine.pipeline.authorization import Authorization
from actionengine.pipeline.execution import Execution
from actionengine.pipeline.payload import Limits, read_payload
from actionengine.pipeline.plan import ActionPlan
from actionengine.pipeline.user_code import call_user_code, log_crash
from actionengine.schemas.field_errors import field_errors, summarize
from actionengine.storage.rows import MAX_SUBJECT_LENGTH


class Validation:
    """Validates payloads. Where an action names its resource, asks the authorizer about that resource."""

    def __init__(self, authorization: Authorization) -> None:
        self._authorization = authorization

    async def validate(self, execution: Execution) -> None:
        """Run stage 4 or 8. Raises `ActionError`: `invalid_input` with each field's path and reason, or `forbidden`
        for a resource that the actor may not use."""
        plan, received = execution.plan, execution.incoming
        assert received is not None
        if plan.validator is None:
            execution.data = received.value
        else:
            try:
                if received.is_plain:
                    execution.data = plan.validator.validate_json(received.json)
                else:
                    execution.data = plan.validator.validate_python(received.value)
            except ValidationError as error:
                raise _invalid(plan, error) from None
            except ActionError:
                raise
            except Exception as error:
                log_crash(execution, "the validation", error)
                raise ActionError(
                    ErrorCode.INTERNAL, f"the validation of {plan.name} raised {type(error).__name__}"
                ) from None
            if plan.sensitive:
                execution.secrets.learn_validated(execution.data)
        if plan.action.resource is not None:
            resource = await call_user_code(execution, None, "resource()", plan.action.resource, False, execution.data)
            if not isinstance(resource, str) or not resource:
                raise ActionError(ErrorCode.INTERNAL, f"resource() of {plan.name} must return a name, not {resource!r}")
            check_length("the resource", resource, MAX_SUBJECT_LENGTH)
            execution.entry.add_subject(resource)
            execution.resource = resource
            await self._authorization.authorize_resource(execution, resource)


def accept_payload(execution: Execution, limits: Limits) -> None:
    """Accept the payload, once. Raises `ActionError(invalid_input)` as `read_payload` does."""
    try:
        execution.accept_payload(read_payload(execution.payload, execution.plan.model, limits))
    except ActionError:
        execution.is_refused = execution.received is None
        raise


def try_accept_payload(execution: Execution, limits: Limits) -> None:
    """Accept the payload early, if it is acceptable. Otherwise its own stage raises the error."""
    with suppress(Exception):
        if execution.received is None and not execution.is_refused:
            accept_payload(execution, limits)


def _invalid(plan: ActionPlan, error: ValidationError) -> ActionError:
    fields = field_errors(error, plan.sensitive)
    return ActionError(ErrorCode.INVALID_INPUT, f"{plan.name}: {summarize(fields)}", {"fields": fields})
