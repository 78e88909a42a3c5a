"""Payloads as they come in: JSON or refused, within limits, with a fingerprint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from actionengine.errors import ActionException, ErrorCode, failing
from actionengine.masking import revealed_json


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what callers and handlers may ask for.

    `payload_bytes` (as JSON, UTF-8) and `payload_depth` (nested containers) bound a payload, `key_length` (characters)
    an idempotency key, `nested_depth` actions that execute actions. `idempotency_wait` (seconds) is how long a caller
    waits for the first one with its key, `idempotency_ttl` (seconds) how long a key is remembered. `reruns` is how
    often a unit of work that lost against another one runs again.
    """

    payload_bytes: int = 1024 * 1024
    payload_depth: int = 64
    key_length: int = 255
    nested_depth: int = 16
    idempotency_wait: float = 10.0
    idempotency_ttl: float = 24 * 60 * 60
    reruns: int = 5


class Received(NamedTuple):
    """A value on its way to a handler: its JSON, a copy of it that nobody else holds, and whether that copy is made of
    plain JSON values (otherwise it has Python objects in it)."""

    json: bytes
    value: Any
    is_plain: bool

    def again(self) -> Received:
        """The same with another copy of the value."""
        return self._replace(value=from_json(self.json) if self.is_plain else deepcopy(self.value))


def receive(payload: Any, model: Any, limits: Limits) -> Received:
    """A payload, copied: plain JSON values, or an instance of `model` (of any Pydantic model, where that is None).

    Raises `ActionException(invalid_input)` for one that JSON cannot carry, that is too large, or nested too deeply.
    """
    received = _read(payload, limits)
    if received.is_plain:
        return received
    if isinstance(payload, BaseModel) or _is_instance(payload, model):
        return _carried(payload, model)
    raise failing(
        ErrorCode.INVALID_INPUT,
        f"the payload is not JSON: it has to be made of dicts with string keys, lists, strings, finite numbers, "
        f"booleans and None, or be an instance of the action's model; this is a {type(payload).__name__} with "
        f"something else in it",
    )


def carry(value: Any, model: Any, limits: Limits) -> Received:
    """What one handler returned, copied for the next: anything that has a JSON form.

    Raises `ActionException(invalid_input)` as `receive` does.
    """
    received = _read(value, limits)
    return received if received.is_plain else _carried(value, model)


def fingerprint(received: Received) -> str:
    """SHA-256 over the canonical JSON of a payload (sorted keys, no white space, UTF-8), as hexadecimal digits."""
    value = received.value if received.is_plain else from_json(received.json)
    return sha256(to_json(_sorted(value))).hexdigest()


def _sorted(value: Any) -> Any:
    """A JSON value with the keys of its objects in order."""
    if type(value) is dict:
        return {key: _sorted(value[key]) for key in sorted(value)}
    if type(value) is list:
        return [_sorted(item) for item in value]
    return value


def _read(value: Any, limits: Limits) -> Received:
    """A value by way of its JSON: plain if it comes out as it went in."""
    try:
        encoded = to_json(value, inf_nan_mode="null")
        if len(encoded) > limits.payload_bytes:
            raise failing(
                ErrorCode.INVALID_INPUT,
                f"the payload has {len(encoded)} bytes; at most {limits.payload_bytes} are allowed",
            )
        # The length and the brackets bound the depth from above, so that few payloads need the walk.
        depth = limits.payload_depth
        if len(encoded) > 2 * depth and encoded.count(b"{") + encoded.count(b"[") > depth:
            _check_depth(encoded, limits.payload_depth)
        plain = from_json(encoded)
        return Received(encoded, plain, plain == value)
    except ActionException:
        raise
    except Exception as error:
        # Whatever a caller's object does while it is looked at: it is not JSON.
        raise failing(ErrorCode.INVALID_INPUT, f"the payload is not JSON: {_reason(error)}") from None


def _carried(value: Any, model: Any) -> Received:
    """A value with Python objects in it, secrets revealed; an instance of another model than the one that is wanted
    goes on as plain JSON values."""
    try:
        encoded = revealed_json(value)
        if isinstance(value, BaseModel) and model is not None and not _is_instance(value, model):
            return Received(encoded, from_json(encoded), True)
        return Received(encoded, deepcopy(value), False)
    except Exception as error:
        kind = type(value).__name__
        raise failing(ErrorCode.INVALID_INPUT, f"the payload, a {kind}, cannot be copied: {_reason(error)}") from None


def _is_instance(payload: Any, model: Any) -> bool:
    if not isinstance(model, type) or isinstance(payload, (str, int, float, list, Mapping, type(None))):
        return False
    try:
        return isinstance(payload, model)
    except TypeError:
        return False


def _check_depth(encoded: bytes, limit: int) -> None:
    depth = 0
    in_string = False
    position = 0
    while position < len(encoded):
        byte = encoded[position]
        if in_string:
            if byte == 0x5C:
                position += 1
            elif byte == 0x22:
                in_string = False
        elif byte == 0x22:
            in_string = True
        elif byte in b"{[":
            depth += 1
            if depth > limit:
                raise failing(ErrorCode.INVALID_INPUT, f"the payload is nested deeper than {limit} levels")
        elif byte in b"}]":
            depth -= 1
        position += 1


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def refusals(error: ValidationError, sensitive: Collection[str] = ()) -> list[dict[str, str]]:
    """What is wrong with an input, as details of an `invalid_input`: of each field `path`, `reason` and `type`; without
    what was in it, and without a reason that may quote what stands under a sensitive name."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = [str(part) for part in item["loc"]]
        secret = any(part in sensitive for part in path)
        reason = "is not valid" if secret else item["msg"].removeprefix("Value error, ")
        found.append({"path": ".".join(path), "reason": reason, "type": item["type"]})
    return found


def summary(refused: Sequence[Mapping[str, str]], whole: str = "payload: ") -> str:
    """The same in one line; `whole` stands before what is wrong with no field in particular."""
    return "; ".join(
        f"{item['path']}: {item['reason']}" if item["path"] else whole + item["reason"] for item in refused
    )
