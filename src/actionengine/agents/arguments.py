"""Arguments of a tool call: from what a model sent to the payload of the action, or to the reason of a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import to_json

from actionengine.agents.dialects.compiler import WRAPPED, Compiled
from actionengine.agents.dialects.readers import MAX_PROBLEMS, Trail
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.plan import ActionPlan
from actionengine.schemas.field_errors import field_errors, summarize

KEY = "idempotency_key"
KEY_SCHEMA: Mapping[str, Any] = {
    "type": "string",
    "description": "Needed: a text of your own that stands for this request. Repeat it when you repeat the call, so "
    "that the action takes effect once; use a new one for each new request.",
}


class Read(NamedTuple):
    """A payload and an idempotency key, read from arguments; with an error, what the action log may show of them."""

    payload: Any
    key: str | None = None
    error: ActionError | None = None


class Arguments:
    """Reads the arguments of a tool. `key` is the property with the idempotency key, if there is one."""

    def __init__(self, action: str, compiled: Compiled, key: str | None, max_bytes: int) -> None:
        self._action = action
        self._read = compiled.reader
        self._is_wrapped = compiled.is_wrapped
        self._renamed = compiled.renamed
        self._key = key
        self._max_bytes = max_bytes
        self._plain = None if compiled.is_wrapped else compiled.reader.plain_names
        """The names of the properties, if the arguments are the payload."""

    def read(self, arguments: Any) -> Read:
        """Return the payload, or the error for arguments that are no object, too large, or have unknown properties."""
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            # Of a text, the log would not know what is secret in it.
            return Read(None, None, self._refusal([_problem("", _not_an_object(arguments), "dict_type")]))
        if type(arguments) is not dict:
            arguments = dict(arguments)
        key = None
        if self._key is not None and self._key in arguments:
            arguments = dict(arguments)
            key = arguments.pop(self._key)
            if not isinstance(key, str) or not key:
                reason = "it is a text that is not empty, such as 'refund-of-order-17'"
                return Read(arguments, None, self._refusal([_problem(self._key, reason, "string_type")]))
        if self._plain is not None and self._plain.issuperset(arguments):
            return Read(arguments, key)
        if self._read.is_deep and self._is_too_large(arguments):
            return Read(None, None, self._refusal([_problem("", self._bound(), "too_long")]))
        trail = Trail()
        try:
            payload = self._read(arguments, trail)
        except RecursionError:
            return Read(None, None, self._refusal([_problem("", "they are nested too deeply", "recursion_loop")]))
        if self._is_wrapped and isinstance(payload, dict):
            payload = payload.get(WRAPPED)
        return Read(payload, key, self._refusal(trail.problems) if trail.problems else None)

    def without_key(self, error: ActionError | None) -> ActionError:
        """Return the error for a call without the key that the action requires, with what else is wrong."""
        reason = "it is required: a text of your own for this request, the same when you repeat the call"
        missing = _problem(self._key or KEY, reason, "missing")
        others = [] if error is None else error.details["fields"]
        if error is not None and any(each["path"] == missing["path"] for each in others):
            return error
        return self._refusal([*others, missing])

    def complete(self, error: ActionError, payload: Any, plan: ActionPlan) -> ActionError:
        """Return the error with what validation finds too, so that the model corrects everything at once."""
        given = error.details.get("fields")
        if error.code is not ErrorCode.INVALID_INPUT or not isinstance(given, list) or not isinstance(payload, dict):
            return error
        if plan.validator is None or plan.before:
            return error
        problems = [dict(each) for each in given]
        refused = {each["path"] for each in problems}
        try:
            plan.validator.validate_json(to_json(payload))
        except ValidationError as invalid:
            found = [{**each, "path": self.shown(each["path"])} for each in field_errors(invalid, plan.sensitive)]
            problems += [each for each in found if each["path"] not in refused]
        except Exception:
            return error  # A validator of the host's crashed on a payload that is refused anyway.
        return self._refusal(problems[:MAX_PROBLEMS])

    def shown(self, path: str) -> str:
        """Return the path of a field of the payload as the arguments have it."""
        if self._renamed:
            path = ".".join(self._renamed.get(part, part) for part in path.split("."))
        if not self._is_wrapped or path == self._key:
            return path
        return f"{WRAPPED}.{path}" if path else WRAPPED

    def _is_too_large(self, arguments: dict[str, Any]) -> bool:
        try:
            return len(to_json(arguments, inf_nan_mode="null")) > self._max_bytes
        except ValueError:
            return False  # The pipeline says what is not JSON.

    def _bound(self) -> str:
        return f"they have more than {self._max_bytes} bytes: send less at once"

    def _refusal(self, problems: list[dict[str, str]]) -> ActionError:
        return ActionError(
            ErrorCode.INVALID_INPUT,
            f"{self._action}: {summarize(problems, 'the arguments: ')}",
            {"fields": problems},
        )


def _problem(path: str, reason: str, type: str) -> dict[str, str]:
    return {"path": path, "reason": reason, "type": type}


def _not_an_object(arguments: object) -> str:
    if isinstance(arguments, str | bytes):
        return "they are a text: give an object, and parse JSON text before the call"
    return f"they are of the type {type(arguments).__name__}: give an object with a member for each field"
