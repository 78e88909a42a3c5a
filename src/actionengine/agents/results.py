"""Results of tool calls, as a model gets them: a structured value, and a text that says what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json, to_json

from actionengine.agents.truncation import truncated
from actionengine.errors import ActionError, ErrorCode, ErrorCodeValue, bounded_text
from actionengine.masking.masking import mask, masked_json
from actionengine.pipeline.preview import Preview

ToolStatus = Literal["succeeded", "previewed", "pending_approval"] | ErrorCodeValue
"""The outcome of a call; of an error, its code."""

MAX_ERROR_LENGTH = 8_000
"""Characters of the text of an error, and of its message, at most."""

_MAX_DETAILS = 4_000
"""Bytes of an error's details that a structured result repeats, at most."""

_DO_AS_IT_SAYS = "Do not repeat the call unchanged. Do what the message says, or tell the person for whom you work."
_REPORT = "The fault is not in the arguments. Do not repeat the call, and report it to a person."

NEXT_STEPS: Mapping[str, str] = {
    "invalid_input": "Correct the arguments, and call the tool again.",
    "unauthenticated": "Do not repeat the call. A person has to sign in first.",
    "forbidden": "Do not repeat the call. Tell the person for whom you work, or ask one with the right to do it.",
    "not_found": "Check the ids, for example with a tool that lists them.",
    "timeout": "The call took too long. Call again later, or ask for less at once.",
    "conflict": "Read the present state, and decide anew whether to call again.",
    "idempotency_in_progress": "Wait, and repeat the call with its idempotency key to get the first result.",
    "idempotency_mismatch": "Use a new idempotency key for another request.",
    "unprocessable": _DO_AS_IT_SAYS,
    "hook_failed": _DO_AS_IT_SAYS,
    "handler_error": _REPORT,
    "internal": _REPORT,
    "unavailable": "Wait, and call again later.",
    "rate_limited": "Do not call again before that time.",
}
"""The next step after an error of each code."""

PENDING_SCHEMA: Mapping[str, Any] = {
    "title": "Pending approval",
    "description": "Nothing has been done yet: a person has to approve the call.",
    "type": "object",
    "properties": {
        "status": {"const": "pending_approval"},
        "action": {"type": "string"},
        "approval_id": {"type": "string"},
        "permission": {"type": "string", "description": "The permission of the person who can approve."},
        "expires_at": {"type": "string", "format": "date-time"},
        "message": {"type": "string"},
        "next": {"type": "string"},
    },
    "required": ["status", "approval_id"],
}

TRUNCATED_SCHEMA: Mapping[str, Any] = {
    "title": "Truncated result",
    "type": "object",
    "properties": {"status": {"const": "truncated"}, "note": {"type": "string"}, "result": {}},
    "required": ["status", "note", "result"],
}


PREVIEWED_SCHEMA: Mapping[str, Any] = {
    "title": "Preview",
    "description": "Nothing has been done: what the call would do.",
    "type": "object",
    "properties": {
        "status": {"const": "previewed"},
        "plan": {"type": "string", "description": "Holds a later call to this preview."},
    },
    "required": ["status", "plan"],
}


class ToolResult(NamedTuple):
    """The result of a tool call.

    `structured` is plain JSON: the value of a success (an object, or `{"result": value}`), else an object with the
    `status` and what to do next. `text` says the same for the model. A pending approval is no error.
    """

    is_error: bool
    status: ToolStatus
    structured: dict[str, Any]
    text: str


def succeeded(
    value: Any, encoded: bytes | None, secrets: frozenset[str], is_wrapped: bool | None, max_bytes: int
) -> ToolResult:
    """Return the result of a success.

    `encoded` is the JSON of the value, masked by its types, if it is there already. Members under the names in
    `secrets` are masked, too. A value of more than `max_bytes` as JSON is cut. `is_wrapped` says whether it becomes
    `{"result": value}`; None leaves that to the value.
    """
    if encoded is None:
        encoded = masked_json(value)
    if len(encoded) > max_bytes:
        return _truncated(encoded, secrets, max_bytes)
    plain = from_json(encoded)
    if secrets:
        plain = mask(plain, secrets)
        encoded = to_json(plain)
    structured = plain if isinstance(plain, dict) and not is_wrapped else {"result": plain}
    return ToolResult(False, "succeeded", structured, encoded.decode())


def _truncated(encoded: bytes, secrets: frozenset[str], max_bytes: int) -> ToolResult:
    note = (
        f"The result has {len(encoded)} bytes, of which a tool shows at most {max_bytes}: lists and texts are cut. "
        f"Ask for less, for example with a filter, or for a smaller page."
    )
    cut = truncated(mask(from_json(encoded), secrets), max_bytes)
    structured = {"status": "truncated", "note": note, "result": cut}
    return ToolResult(False, "succeeded", structured, f"{note}\n{to_json(cut).decode()}")


def previewed(preview: Preview, secrets: frozenset[str], is_wrapped: bool | None, max_bytes: int) -> ToolResult:
    """Return the result of a preview. Its value, writes and events are cut together to `max_bytes` as JSON."""
    value = mask(from_json(masked_json(preview.value)), secrets)
    shown = {"result": value, "writes": preview.writes, "events": preview.events}
    encoded = masked_json(shown)
    plain = from_json(encoded)
    note = "Nothing has been done. To do exactly this, call the tool again with this plan."
    if len(encoded) > max_bytes:
        plain = truncated(plain, max_bytes)
        note += f" The preview has {len(encoded)} bytes: lists and texts are cut."
    approval = preview.approval and {"action": preview.approval.action, "permission": preview.approval.permission}
    structured = {"status": "previewed", "plan": preview.plan, "approval": approval, "note": note, **plain}
    return ToolResult(False, "previewed", structured, to_json(structured).decode())


def pending(error: ActionError, action: str, look_up: str | None) -> ToolResult:
    """Return the result of a call that waits for an approval. `look_up` is the tool that reads approvals, if the caller
    has it."""
    details = error.to_dict()["details"]
    asked = f"a person with the permission {details.get('permission')}"
    how = (
        f"Look at it later with {look_up}, approval_id {details.get('approval_id')}. Do not call the tool again."
        if look_up
        else "Do not call the tool again: tell the person for whom you work that the approval is waiting."
    )
    message = f"Nothing has been done yet: {action} waits for the approval of {asked}."
    until = details.get("expires_at")
    text = f"{message} The approval is {details.get('approval_id')}, and expires at {until}. {how}"
    structured = {**details, "status": "pending_approval", "action": action, "message": message, "next": how}
    return ToolResult(False, "pending_approval", structured, text)


def failed(error: ActionError, tool: str, shown: Callable[[str], str]) -> ToolResult:
    """Return the result of an error. `shown` gives the path of a field as the tool's arguments have it."""
    details = error.to_dict()["details"]
    structured: dict[str, Any] = {"status": error.code.value}
    following = NEXT_STEPS[error.code.value]
    lines = []
    if error.code is ErrorCode.INVALID_INPUT and isinstance(details.get("fields"), list):
        fields = [{"path": shown(item["path"]), "reason": item["reason"]} for item in details["fields"]]
        structured["message"] = f"The arguments of {tool} are not valid. Nothing has been done."
        structured["fields"] = fields
        lines = [f"- {item['path'] or 'the arguments'}: {item['reason']}" for item in fields]
    else:
        structured["message"] = bounded_text(error.message, MAX_ERROR_LENGTH)
        if details and len(to_json(details)) <= _MAX_DETAILS:
            structured["details"] = details
    retry_after = details.get("retry_after")
    if isinstance(retry_after, int | float):
        structured["retry_after"] = retry_after
        following = f"Wait {retry_after} seconds before you call again."
    structured["next"] = following
    head = structured["message"] if lines else f"{error.code.value}: {structured['message']}"
    return ToolResult(
        True, error.code.value, structured, bounded_text("\n".join([head, *lines, following]), MAX_ERROR_LENGTH)
    )


def unknown(name: object, nearest: str | None) -> ToolResult:
    """Return the result of a call of a tool that the caller does not have."""
    shown = bounded_text(name, 100)
    message = f"You have no tool {shown!r}."
    following = f"Did you mean {nearest!r}?" if nearest else "Use one of the tools that you have."
    structured = {"status": "not_found", "message": message, "next": following}
    return ToolResult(True, "not_found", structured, f"{message} {following}")
