"""The `_meta` of a call: facts that the client's program adds to the arguments of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcp.types import RequestId
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from actionengine.context import AIUsage, RequestContext
from actionengine.errors import ActionError, ErrorCode

PREFIX = "actionengine/"
"""The prefix of the keys in `_meta` that this server reads."""


class UsageOfCall(BaseModel):
    """The model that made the call, with its tokens and cost, as the client reports them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    prompt_version: str | None = None
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cost_usd: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class CallMeta(BaseModel):
    """The keys of `_meta` with the prefix `actionengine/`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    idempotency_key: str | None = None
    reason: str | None = None
    request_id: str | None = None
    plan: str | None = None
    preview: bool = False
    ai_usage: UsageOfCall | None = None

    def complete(self, context: RequestContext, request_id: RequestId | None) -> RequestContext:
        """Return the context with the values of the client where the host has set none."""
        usage = self.ai_usage
        return replace(
            context,
            idempotency_key=_first(context.idempotency_key, self.idempotency_key),
            reason=_first(context.reason, self.reason),
            request_id=_first(context.request_id, self.request_id, None if request_id is None else str(request_id)),
            plan=_first(context.plan, self.plan),
            ai_usage=context.ai_usage or (AIUsage(**usage.model_dump()) if usage else None),
        )


def read_meta(meta: Mapping[str, Any] | None) -> CallMeta:
    """Return the keys of this server in a `_meta`. Raises `ActionError` for an unknown key or a wrong type."""
    ours = {name.removeprefix(PREFIX): value for name, value in (meta or {}).items() if name.startswith(PREFIX)}
    try:
        return CallMeta.model_validate(ours)
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])[:100]
        known = ", ".join(PREFIX + each for each in CallMeta.model_fields)
        message = f"_meta: {PREFIX}{name}: {first['msg']}. Expected keys: {known}"
        raise ActionError(ErrorCode.INVALID_INPUT, message) from None


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)
