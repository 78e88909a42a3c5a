"""Secrets stay out of everything that is written: fields of `SecretStr` and fields marked `Sensitive()`.

Three nets, because a secret travels. By name: a raw payload is masked where a sensitive field of the action's model
(or its alias) appears, at any depth, whether it validates or not. By type: a model that carries such a field masks it
in its own JSON. By value: what was found under a sensitive name is masked wherever it turns up again in the same
execution, in a text as well.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    GetCoreSchemaHandler,
    Secret,
    SecretBytes,
    SecretStr,
    SerializationInfo,
    TypeAdapter,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema, from_json, to_json
from typing_extensions import is_typeddict

MASK = "**********"

_MASKING = object()
_SECRETS = (SecretStr, SecretBytes, Secret)
_SHORTEST_IN_TEXT = 4
_SHORTEST_LINE = 8

_SURELY_READABLE_DEPTH = 100
"""JSON with no more brackets than this is read back without a look at its depth."""


class Sensitive:
    """Marks a field as secret: `card: Annotated[str, Sensitive()]`. The handler gets the value, nothing else does."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        schema["serialization"] = core_schema.wrap_serializer_function_ser_schema(_serialize_sensitive, info_arg=True)
        masking: CoreSchema = schema
        return masking

    def __repr__(self) -> str:
        return "Sensitive()"


def _serialize_sensitive(value: Any, serialize: Callable[[Any], Any], info: SerializationInfo) -> Any:
    return MASK if info.context is _MASKING else serialize(value)


_names_of_classes: WeakKeyDictionary[type[Any], frozenset[str]] = WeakKeyDictionary()


class Everything(frozenset[str]):
    """The names of a type that is a secret as a whole: each name is in it."""

    def __contains__(self, name: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


NOTHING: frozenset[str] = frozenset()


def masked_json(value: Any) -> bytes:
    """A value as JSON for the log: what its types say is secret is masked. Raises `ValueError` where JSON can't."""
    return to_json(value, context=_MASKING, inf_nan_mode="null")


def masked_finite_json(value: Any) -> bytes:
    """The same, for what has to be read back as it was: raises `ValueError` for a number that is not finite, too."""
    encoded = masked_json(value)
    _check_finite(value, encoded)
    check_readable(encoded)
    return encoded


def masked_json_of(adapter: TypeAdapter[Any], value: Any) -> bytes:
    """The same for a value of a type, which says what in it is secret where the value itself does not."""
    encoded = adapter.dump_json(value, context=_MASKING, by_alias=True)
    _check_finite(value, encoded)
    check_readable(encoded)
    return encoded


def _check_finite(value: Any, encoded: bytes) -> None:
    if b"null" in encoded and masked_json(value) != to_json(value, context=_MASKING, inf_nan_mode="constants"):
        raise ValueError("a number in it is not finite")


def check_readable(encoded: bytes) -> None:
    """Raises `ValueError` for JSON that is nested too deeply to be read back."""
    if encoded.count(b"{") + encoded.count(b"[") > _SURELY_READABLE_DEPTH:
        from_json(encoded)


def revealed_json(value: Any) -> bytes:
    """A value as JSON, secrets and all: for what must be run or given back again."""
    return to_json(_revealed(value), inf_nan_mode="null")


def searchable_json(value: Any) -> bytes:
    """`revealed_json` of whatever a validation has made, for finding the secrets in it: never stored."""
    return to_json(_revealed(value), inf_nan_mode="null", serialize_unknown=True)


def mask(value: Any, names: frozenset[str]) -> Any:
    """A copy of a JSON value with what stands under these names masked."""
    if isinstance(names, Everything):
        return MASK
    if isinstance(value, dict):
        return {key: MASK if key in names else mask(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item, names) for item in value]
    return value


def secrets_in(value: Any, names: frozenset[str]) -> Iterator[str]:
    """The texts and numbers of a JSON value that stand under these names."""
    if isinstance(names, Everything):
        yield from _leaves(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item) if key in names else secrets_in(item, names)
    elif isinstance(value, list):
        for item in value:
            yield from secrets_in(item, names)


def forms_of(secret: str) -> Iterator[str]:
    """A secret as it may turn up in a text: as it is, as Python or JSON quote it, trimmed, and line by line."""
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    if trimmed := secret.strip():
        yield trimmed
    lines = secret.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _SHORTEST_LINE)


def scrub_text(text: str, secrets: set[str]) -> str:
    """A text with these secrets masked, longest first, so that no part of one remains."""
    for secret in sorted(secrets, key=len, reverse=True):
        if text == secret:
            return MASK
        if len(secret) >= _SHORTEST_IN_TEXT:
            text = text.replace(secret, MASK)
    return text


def scrub(value: Any, secrets: set[str]) -> Any:
    """A copy of a JSON value with these secrets masked, in keys and in values."""
    if isinstance(value, str):
        return scrub_text(value, secrets)
    if isinstance(value, dict):
        return {scrub_text(key, secrets): scrub(item, secrets) for key, item in value.items()}
    if isinstance(value, list):
        return [scrub(item, secrets) for item in value]
    if isinstance(value, (int, float)) and len(str(value)) >= _SHORTEST_IN_TEXT and str(value) in secrets:
        return MASK
    return value


def scrub_json(encoded: bytes, secrets: set[str]) -> bytes:
    """`scrub` for JSON that is encoded already."""
    return to_json(scrub(from_json(encoded), secrets))


def sensitive_names_of_class(kind: type[Any]) -> frozenset[str]:
    """`sensitive_names` of a value's own class, where that has fields."""
    names = _names_of_classes.get(kind)
    if names is None:
        names = _names_of_classes[kind] = _class_names(kind)
    return names


def _class_names(kind: type[Any]) -> frozenset[str]:
    if dataclasses.is_dataclass(kind) or issubclass(kind, BaseModel):
        return sensitive_names(kind)
    return NOTHING


def sensitive_names(annotation: Any) -> frozenset[str]:
    """The names (and aliases) under which a type, or a type inside it, carries a secret."""
    names: set[str] = set()
    if _collect(annotation, names, set()):
        return Everything()
    return frozenset(names) if names else NOTHING


def _collect(annotation: Any, names: set[str], seen: set[Any]) -> bool:
    """Add the sensitive names below an annotation; whether the annotation is a secret itself."""
    if _is_secret(annotation):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation not in seen:
            seen.add(annotation)
            for name, model_field in annotation.model_fields.items():
                marked = any(_is_marker(item) for item in model_field.metadata)
                if _collect(model_field.annotation, names, seen) or marked:
                    names.add(name)
                    names.update(_aliases(model_field.alias), _aliases(model_field.validation_alias))
                    names.update(_aliases(model_field.serialization_alias))
        return False
    if isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or is_typeddict(annotation)):
        if annotation not in seen:
            seen.add(annotation)
            fields = getattr(annotation, "__pydantic_fields__", {})
            for name, hint in get_type_hints(annotation, include_extras=True).items():
                if _collect(hint, names, seen):
                    names.add(name)
                    for item in (fields.get(name), *getattr(hint, "__metadata__", ())):
                        if isinstance(item, FieldInfo):
                            names.update(_aliases(item.alias), _aliases(item.validation_alias))
        return False
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        # A named tuple comes as a list: there are no names to mask by.
        hints = [_collect(hint, names, seen) for hint in get_type_hints(annotation, include_extras=True).values()]
        return any(hints)
    for indirect in (getattr(annotation, "__value__", None), getattr(annotation, "__supertype__", None)):
        if indirect is not None:
            return _collect(indirect, names, seen)
    if any(
        getattr(item, "__name__", type(item).__name__) == "Json" for item in getattr(annotation, "__metadata__", ())
    ):
        # A secret inside a text of JSON makes the whole text one.
        inside: set[str] = set()
        return _collect(get_args(annotation)[0], inside, set()) or bool(inside)
    origin = get_origin(annotation)
    if isinstance(origin, type) and (dataclasses.is_dataclass(origin) or is_typeddict(origin)):
        _collect(origin, names, seen)
    # A container or a union is a secret where one of its members is: there is no name to tell them apart by.
    members = [_collect(argument, names, seen) for argument in get_args(annotation) if not isinstance(argument, str)]
    return any(members)


def _is_secret(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, _SECRETS):
        return True
    return _is_marker(annotation) or any(_is_marker(item) for item in getattr(annotation, "__metadata__", ()))


def _is_marker(item: Any) -> bool:
    return isinstance(item, Sensitive)


def _aliases(alias: str | AliasPath | AliasChoices | None) -> list[str]:
    if isinstance(alias, str):
        return [alias]
    if isinstance(alias, AliasPath):
        return [part for part in alias.path if isinstance(part, str)][-1:]
    if isinstance(alias, AliasChoices):
        return [name for choice in alias.choices for name in _aliases(choice)]
    return []


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _revealed(value: Any) -> Any:
    if isinstance(value, _SECRETS):
        return _revealed(value.get_secret_value())
    if isinstance(value, BaseModel):
        return _revealed(value.model_dump(by_alias=True, exclude_computed_fields=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _revealed(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _revealed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_revealed(item) for item in value]
    return value
