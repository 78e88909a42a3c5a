"""Incoming payloads: JSON or refused, within limits, with a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.plugin._schema_validator import PluggableSchemaValidator
from pydantic_core import SchemaValidator, from_json, to_json

from actionengine.errors import ActionError, ErrorCode
from actionengine.masking.masking import masked_json, revealed_json
from actionengine.masking.secret_types import NOTHING, is_scalar
from actionengine.pipeline.stored_form import NotStorable, check_instance
from actionengine.text.json_bounds import MAX_JSON_DEPTH, check_readable, has_more_values, is_deeper

Validator = SchemaValidator | PluggableSchemaValidator


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what callers and handlers may ask for.

    `payload_bytes` (as JSON, UTF-8), `payload_values` (items of its lists and members of its objects, at any depth) and
    `payload_depth` (nested containers, 128 at most) bound a payload, `key_length` (characters) an idempotency key,
    `event_bytes` the payload of an event as JSON, `nested_depth` actions that execute actions. `idempotency_wait`
    (seconds) is how long a caller waits for the first one with its key, `idempotency_ttl` (seconds) how long a key is
    remembered. `reruns` is how often a unit of work that lost against another one runs again.
    """

    payload_bytes: int = 1024 * 1024
    payload_values: int = 20_000
    payload_depth: int = 64
    key_length: int = 255
    event_bytes: int = 4 * 1024 * 1024
    nested_depth: int = 16
    idempotency_wait: float = 10.0
    idempotency_ttl: float = 24 * 60 * 60
    reruns: int = 5


class Payload(NamedTuple):
    """A payload on its way to a handler.

    `value` is a copy that only this execution holds; `is_plain` says that the copy consists of plain JSON values,
    without Python objects. `masked` is the JSON without the values that the types of those objects declare secret, and
    `secrets` has these values.
    """

    json: bytes
    value: Any
    is_plain: bool
    masked: bytes | None = None
    secrets: frozenset[str] = NOTHING

    def copy(self) -> Payload:
        """Return the same payload with a new copy of the value."""
        return self._replace(value=from_json(self.json) if self.is_plain else deepcopy(self.value))


def read_payload(payload: Any, model: Any, limits: Limits) -> Payload:
    """Return a copy of a payload: plain JSON values, or an instance of `model` (of any Pydantic model, where `model` is
    None).

    Raises `ActionError(invalid_input)` for a payload that JSON cannot carry, that is too large, or that is nested too
    deeply.
    """
    received = _read(payload, limits)
    if received.is_plain:
        return received
    if isinstance(payload, BaseModel) or _is_instance(payload, model):
        return _carried(payload, model, limits)
    raise ActionError(ErrorCode.INVALID_INPUT, f"the payload is not JSON: {_misfit(payload)}")


def copy_payload(value: Any, model: Any, limits: Limits) -> Payload:
    """Return a copy of the value of one handler for the next. Any value with a JSON form will do.

    Raises `ActionError(invalid_input)` as `read_payload` does.
    """
    received = _read(value, limits)
    return received if received.is_plain else _carried(value, model, limits)


def fingerprint(received: Payload, *, equal_numbers: bool = False) -> str:
    """Return the SHA-256 over the canonical JSON of a payload (sorted keys, no white space, UTF-8), as hexadecimal
    digits. With `equal_numbers`, `2` and `2.0` are the same."""
    value = received.value if received.is_plain else from_json(received.json)
    return sha256(to_json(_sorted(_without_zeros(value) if equal_numbers else value))).hexdigest()


def check_claimable(received: Payload, validator: Validator | None) -> Payload:
    """Return an instance with the JSON that its key stores.

    Raises `ActionError(invalid_input)` for an instance that its own JSON does not restore: two such payloads could have
    one fingerprint.
    """
    if received.is_plain:
        return received
    validate_json = _validator_of(received, validator).validate_json
    try:
        check_instance(received.value, received.json, validate_json)
        return received
    except NotStorable as error:
        reason = error
    with suppress(ValueError):
        # The JSON has serialization aliases, which validation does not accept.
        encoded = revealed_json(received.value, by_alias=False)
        check_instance(received.value, encoded, partial(validate_json, by_alias=False, by_name=True), by_alias=False)
        return received._replace(json=encoded)
    raise _not_faithful(received, "an idempotency key", reason)


def check_approvable(received: Payload, validator: Validator | None) -> None:
    """Raise `ActionError(invalid_input)` for an instance that an approval could not keep whole: an approved action runs
    from JSON."""
    if received.is_plain:
        return
    if validator is None:
        raise _not_faithful(received, "an approval", "the action has no validation that would make it again")
    try:
        check_instance(received.value, received.json, validator.validate_json)
    except NotStorable as error:
        raise _not_faithful(received, "an approval", error) from None


def _validator_of(received: Payload, validator: Validator | None) -> Validator:
    if validator is not None:
        return validator
    own: Validator = type(received.value).__pydantic_validator__
    return own


def _not_faithful(received: Payload, keeper: str, reason: object) -> ActionError:
    return ActionError(
        ErrorCode.INVALID_INPUT,
        f"{keeper} keeps the JSON of a payload, and that of this {type(received.value).__name__} is not all of it: "
        f"{reason}. Send plain JSON values",
    )


def _sorted(value: Any) -> Any:
    """Return a JSON value with the keys of its objects sorted."""
    if type(value) is dict:
        return {key: _sorted(value[key]) for key in sorted(value)}
    if type(value) is list:
        return [_sorted(item) for item in value]
    return value


def _without_zeros(value: Any) -> Any:
    """Return a JSON value whose whole numbers have no decimals."""
    if type(value) is dict:
        return {key: _without_zeros(item) for key, item in value.items()}
    if type(value) is list:
        return [_without_zeros(item) for item in value]
    return int(value) if type(value) is float and value.is_integer() else value


def _read(value: Any, limits: Limits) -> Payload:
    """Return a value that passed through its JSON. It is plain where the JSON restores it unchanged."""
    try:
        encoded = to_json(value, inf_nan_mode="null")
        _check_bounds(encoded, limits)
        depth = min(limits.payload_depth, MAX_JSON_DEPTH)
        if is_deeper(encoded, depth):
            raise ActionError(ErrorCode.INVALID_INPUT, f"the payload is nested deeper than {depth} levels")
        plain = from_json(encoded)
        return Payload(encoded, plain, plain == value)
    except ActionError:
        raise
    except Exception as error:
        # A caller's object raised while it was read: it is not JSON.
        raise ActionError(ErrorCode.INVALID_INPUT, f"the payload is not JSON: {_reason(error)}") from None


def _check_bounds(encoded: bytes, limits: Limits) -> None:
    """Raise `ActionError(invalid_input)` for too many bytes or too many values. Each value is copied and visited
    several times, which takes a hundred times as long as a byte of a text."""
    if len(encoded) > limits.payload_bytes:
        raise ActionError(
            ErrorCode.INVALID_INPUT,
            f"the payload has {len(encoded)} bytes; at most {limits.payload_bytes} are allowed",
        )
    if has_more_values(encoded, limits.payload_values):
        raise ActionError(
            ErrorCode.INVALID_INPUT,
            f"the payload has more than {limits.payload_values} values in its lists and objects: send them in several "
            f"payloads, or raise Limits(payload_values=...)",
        )


def _carried(value: Any, model: Any, limits: Limits) -> Payload:
    """Return a value that contains Python objects, secrets revealed. An instance of another model than the expected one
    becomes plain JSON values."""
    try:
        encoded = revealed_json(value)
        _check_bounds(encoded, limits)
        check_readable(encoded)
        secrets: set[str] = set()
        masked = masked_json(value, secrets.update)
        if isinstance(value, BaseModel) and model is not None and not _is_instance(value, model):
            return Payload(encoded, from_json(encoded), True, masked, frozenset(secrets))
        return Payload(encoded, deepcopy(value), False, masked, frozenset(secrets))
    except ActionError:
        raise
    except Exception as error:
        kind = type(value).__name__
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"the payload, a {kind}, cannot be copied: {_reason(error)}"
        ) from None


def _is_instance(payload: Any, model: Any) -> bool:
    if not isinstance(model, type) or isinstance(payload, (str, int, float, list, Mapping, type(None))):
        return False
    try:
        return isinstance(payload, model)
    except TypeError:
        return False


def _misfit(value: Any, path: str = "") -> str | None:
    """Return the place and the type of the first value that JSON would not restore; None where JSON restores all."""
    place = path or "the payload"
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                return f"{place} has a key of the type {_kind(key)}; keys are texts"
            if not is_scalar(item) and (found := _misfit(item, f"{path}.{key}" if path else key)):
                return found
        return None
    if type(value) is list:
        for index, item in enumerate(value):
            if not is_scalar(item) and (found := _misfit(item, f"{path}[{index}]")):
                return found
        return None
    if is_scalar(value):
        return None
    if isinstance(value, float):
        return f"{place} is {value!r}; JSON has finite numbers only"
    return (
        f"{place} is of the type {_kind(value)}; a payload is made of dicts with texts as keys, lists, texts, "
        f"finite numbers, booleans and None, or is an instance of the action's model: give the JSON form of it"
    )


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _reason(error: Exception) -> str:
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
