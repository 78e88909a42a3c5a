"""Stored forms: a value is kept as JSON that restores it exactly, or it is refused before it is kept.

The result of an idempotency key is stored in a form that a retry reads. The first caller gets the value read from it
too, so that both get the same value of the same type.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, PydanticUserError, RootModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from typing_extensions import is_typeddict

from actionengine.hooks import HookLog, HookLogEntry, PipelineResult
from actionengine.masking.masking import check_finite, masked_json, revealed_json
from actionengine.masking.secret_types import MASK, is_plain

Form = Literal["json", "typed", "named"]
"""The way to read a stored result: as plain JSON values, or as the annotated type by aliases or field names."""

Dump = Callable[[Any], bytes]

_TYPE_ERRORS = (PydanticUserError, TypeError, NameError, AttributeError)
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_PLAIN_TYPES: Final = frozenset({Any, object, None, dict, list, *_SCALARS})
_PHASES = ("before", "after")
_MASK = MASK.encode()


class NotStorable(ValueError):
    """Raised for a value that its stored form would not restore. The message names the place, never the value."""


class ResultForm:
    """The stored form of the results of one handler, by the type that its annotation names, if any."""

    __slots__ = ("_adapter", "is_plain")

    def __init__(self, value_type: Any) -> None:
        self._adapter: TypeAdapter[Any] | None = None
        if value_type is not None and not _gives_plain(value_type):
            with suppress(*_TYPE_ERRORS):
                self._adapter = TypeAdapter(value_type)
        self.is_plain = self._adapter is None
        """True if every result is read as plain JSON values."""

    def store(self, value: Any, masked: bytes, is_own: bool = True) -> tuple[bytes, Any]:
        """Return the stored form of a result, and the value that its first caller and every retry get. `masked` is the
        result's JSON, masked.

        Raises `NotStorable` for a value that its JSON does not restore. A value made by a hook (not `is_own`) may be of
        another type than the annotation: then it is restored as plain JSON values.
        """
        if isinstance(value, PipelineResult):
            encoded, data = self.store(value.data, masked, is_own)
            return b'%b,"pipeline":%b}' % (encoded[:-1], to_json(value.pipeline)), PipelineResult(data, value.pipeline)
        if self._adapter is not None:
            try:
                return self._store_typed(self._adapter, value, masked)
            except NotStorable:
                if is_own:
                    raise
        if is_plain(value):
            return store_plain(masked), value
        decoded = from_json(masked)
        _check_same(value, decoded, masked_json)
        return store_plain(masked), decoded

    def load(self, encoded: bytes) -> tuple[Any, bytes | None, bytes | None]:
        """Return the value of a stored result, and the input and the output stored with it, if any."""
        stored = from_json(encoded)
        value = stored["value"]
        if self._adapter is not None and stored["form"] != "json":
            # The annotation may have changed since.
            with suppress(ValidationError):
                value = _read(self._adapter, to_json(value), stored["form"])
        input, output = (to_json(stored[name]) if name in stored else None for name in ("input", "output"))
        if "pipeline" not in stored:
            return value, input, output
        log = {phase: [HookLogEntry(**entry) for entry in stored["pipeline"][phase]] for phase in _PHASES}
        return PipelineResult(value, HookLog(**log)), input, output

    def _store_typed(self, adapter: TypeAdapter[Any], value: Any, masked: bytes) -> tuple[bytes, Any]:
        has_secrets = _MASK in masked
        reasons: list[str] = []
        for form, dump in _SECRET_DUMPS if has_secrets else _DUMPS:
            try:
                if has_secrets:
                    encoded = dump(value)
                elif form == "typed":
                    encoded = masked
                else:
                    encoded = adapter.dump_json(value, by_alias=False, round_trip=True, warnings=False)
                decoded = _read(adapter, encoded, form)
                _check_same(value, decoded, dump)
                if not has_secrets or masked_json(decoded) == masked:
                    return b'{"form":"%b","value":%b}' % (form.encode(), encoded), decoded
                reasons.append("it has a secret that comes back in a place where nothing masks it")
            except ValidationError as error:
                reasons.append(f"its JSON is not valid as the annotated type ({_misfits(error)})")
            except (ValueError, TypeError, AttributeError) as error:
                reasons.append(str(error) if isinstance(error, NotStorable) else "it is not of the annotated type")
        raise NotStorable(reasons[0])


def store_plain(encoded: bytes) -> bytes:
    """Return the stored form of a result that is read as plain JSON values, from its JSON."""
    return b'{"form":"json","value":%b}' % encoded


def with_shown(encoded: bytes, input: bytes | None, output: bytes | None) -> bytes:
    """Return a stored result together with the logged input and output."""
    if input is not None:
        encoded = b'%b,"input":%b}' % (encoded[:-1], input)
    if output is not None:
        encoded = b'%b,"output":%b}' % (encoded[:-1], output)
    return encoded


def check_instance(value: Any, encoded: bytes, decode: Callable[[bytes], Any], by_alias: bool = True) -> None:
    """Raise `NotStorable` for an instance that differs from what its JSON, secrets included, restores."""
    try:
        _check_same(value, decode(encoded), _exact_dump if by_alias else _exact_named_dump)
    except ValidationError as error:
        raise NotStorable(f"its JSON is not valid: {_misfits(error)}") from None


def _read(adapter: TypeAdapter[Any], encoded: bytes, form: Form) -> Any:
    if form == "named":
        return adapter.validate_json(encoded, by_alias=False, by_name=True)
    return adapter.validate_json(encoded)


def _named_dump(value: Any) -> bytes:
    return to_json(value, by_alias=False, round_trip=True, inf_nan_mode="null")


def _exact_dump(value: Any, by_alias: bool = True) -> bytes:
    """Return the JSON of a text or a number. Raises `NotStorable` for any other value, whose JSON may tell less than
    a handler sees."""
    if not isinstance(value, (str, int, float)):
        raise NotStorable(f"a {type(value).__name__} has no JSON of its own")
    return revealed_json(value, by_alias)


_exact_named_dump = partial(_exact_dump, by_alias=False)
_revealed_named_dump = partial(revealed_json, by_alias=False)
_DUMPS: Sequence[tuple[Form, Dump]] = (("typed", to_json), ("named", _named_dump))
_SECRET_DUMPS: Sequence[tuple[Form, Dump]] = (
    ("typed", revealed_json),
    ("named", _revealed_named_dump),
    ("typed", masked_json),
)


def _check_same(value: Any, decoded: Any, dump: Dump, path: str = "") -> None:
    """Raise `NotStorable` where a value differs from the value that its JSON restores.

    Instances must be restored as equal instances of their class. A value restored as plain JSON may have had another
    form (a tuple, a date), provided its JSON is the same.
    """
    kind = type(decoded)
    if kind in _SCALARS:
        if type(value) is not kind and not (kind is float and type(value) is int):
            _check_json(value, decoded, dump, path)
        elif value != decoded:
            raise NotStorable(f"{_at(path)} comes back as another {kind.__name__}")
    elif kind is list:
        if type(value) is list:
            _check_items(value, decoded, dump, path)
        else:
            _check_json(value, decoded, dump, path)
    elif kind is dict:
        if type(value) is dict and (all(type(key) is str for key in value) or _keys(value) == _keys(decoded)):
            _check_fields(value, decoded, dump, path)
        else:
            _check_json(value, decoded, dump, path)
    elif type(value) is not kind:
        raise NotStorable(f"{_at(path)} is a {type(value).__name__} and comes back as a {kind.__name__}")
    else:
        _check_instance(value, decoded, dump, path)


def _keys(value: Mapping[Any, Any]) -> set[tuple[type, Any]]:
    return {(type(key), key) for key in value}


def _check_instance(value: Any, decoded: Any, dump: Dump, path: str) -> None:
    if isinstance(value, BaseModel):
        if isinstance(value, RootModel):
            _check_same(value.root, decoded.root, dump, path)
        else:
            names = list(type(value).model_fields)
            before, after = ({name: each.__dict__.get(name) for name in names} for each in (value, decoded))
            _check_fields(before, after, dump, path)
            _check_fields(value.__pydantic_extra__ or {}, decoded.__pydantic_extra__ or {}, dump, path)
        if not _is_equal(value.__pydantic_private__, decoded.__pydantic_private__):
            raise NotStorable(f"{_at(path)} has private attributes, which JSON leaves out")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [item.name for item in dataclasses.fields(value)]
        before, after = ({name: getattr(each, name, None) for name in names} for each in (value, decoded))
        _check_fields(before, after, dump, path)
    elif isinstance(value, tuple):
        _check_items(value, decoded, dump, path)
    elif isinstance(value, dict):
        _check_fields(value, decoded, dump, path)
    elif not _is_equal(value, decoded):
        raise NotStorable(f"{_at(path)} comes back as another {type(value).__name__}")


def _check_items(value: Sequence[Any], decoded: Sequence[Any], dump: Dump, path: str) -> None:
    if len(value) != len(decoded):
        raise NotStorable(f"{_at(path)} comes back with {len(decoded)} items instead of {len(value)}")
    for index, (before, after) in enumerate(zip(value, decoded, strict=True)):
        _check_same(before, after, dump, f"{path}[{index}]")


def _check_fields(value: Mapping[Any, Any], decoded: Mapping[Any, Any], dump: Dump, path: str) -> None:
    for name in value.keys() ^ decoded.keys():
        change = "is not there any more" if name in value else "is there in addition"
        raise NotStorable(f"{_at(_joined(path, name))} {change} when it comes back")
    for name, item in value.items():
        _check_same(item, decoded[name], dump, _joined(path, name))


def _check_json(value: Any, decoded: Any, dump: Dump, path: str) -> None:
    try:
        encoded = dump(value)
        check_finite(value, encoded)
        is_same = encoded == to_json(decoded)
    except (ValueError, TypeError):
        is_same = False
    if not is_same:
        raise NotStorable(f"{_at(path)} is a {type(value).__name__} that does not come back from its JSON")


def _is_equal(value: Any, decoded: Any) -> bool:
    try:
        return bool(value == decoded)
    except Exception:
        # A class may raise anything when it compares.
        return False


def _joined(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _at(path: str) -> str:
    return path or "the value"


def _misfits(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'the value'}: {item['type']}" for item in found)


def _gives_plain(annotation: Any) -> bool:
    """Return whether a type is read from JSON as plain JSON values."""
    try:
        if annotation in _PLAIN_TYPES:
            return True
    except TypeError:
        return False
    if is_typeddict(annotation):
        try:
            return all(map(_gives_plain, get_type_hints(annotation).values()))
        except (NameError, RecursionError):
            return False
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return all(type(each) in _SCALARS for each in arguments)
    if origin in (dict, Mapping):
        return arguments[0] in (str, Any) and _gives_plain(arguments[1])
    if origin in (list, Sequence, Union, types.UnionType):
        return all(map(_gives_plain, arguments))
    return False
