"""Secrets by type: the secret fields of a type, and the secret parts of a value.

Secret are `SecretStr`, `SecretBytes`, `Secret[…]`, and everything marked `Annotated[…, Sensitive()]`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import isfinite
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import (
    AliasChoices,
    AliasGenerator,
    AliasPath,
    BaseModel,
    GetCoreSchemaHandler,
    RootModel,
    Secret,
    SecretBytes,
    SecretStr,
    SerializationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema, from_json, to_json
from typing_extensions import is_typeddict

MASK = "**********"

MASKING = object()
"""The context of a serialization that masks fields marked `Sensitive()`."""

_SECRETS = (SecretStr, SecretBytes, Secret)
_SCALARS = frozenset({str, int, bool, type(None)})
_LEAVES = _SCALARS | {float}
CONTAINERS = frozenset({dict, list})
"""The types of JSON values that contain others."""


class Sensitive:
    """A mark of a secret field: `card: Annotated[str, Sensitive()]`. Only the handler gets the value."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema: Any = handler(source)
        schema["serialization"] = core_schema.wrap_serializer_function_ser_schema(_serialize_sensitive, info_arg=True)
        masking: CoreSchema = schema
        return masking

    def __repr__(self) -> str:
        return "Sensitive()"


def _serialize_sensitive(value: Any, serialize: Callable[[Any], Any], info: SerializationInfo) -> Any:
    return MASK if info.context is MASKING else serialize(value)


class Everything(frozenset[str]):
    """The names of a type that is a secret as a whole: it contains every name."""

    def __contains__(self, name: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


NOTHING: frozenset[str] = frozenset()


def is_scalar(value: Any) -> bool:
    """Return whether a value is a text, a finite number, a boolean or None, of no subclass."""
    kind = type(value)
    return kind in _SCALARS or (kind is float and isfinite(value))


def is_plain(value: Any) -> bool:
    """Return whether a value equals itself after a round trip through JSON: only finite numbers, texts, booleans, None,
    lists, and dictionaries with texts as keys."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                return False
            kind = type(item)
            if kind not in _SCALARS and not (isfinite(item) if kind is float else is_plain(item)):
                return False
        return True
    if kind is list:
        return all(map(is_plain, value))
    return kind is float and isfinite(value)


class TypedSecrets(NamedTuple):
    """The secrets that the types of a value declare: the `names` of fields that no serializer masks, and all
    `values`."""

    names: frozenset[str]
    values: frozenset[str]


def typed_secrets(value: Any, annotation: Any = None) -> TypedSecrets:
    """Return the secrets declared by the classes of a value and of everything in it, and the keys that an annotation
    declares."""
    walk = _Walk()
    walk.visit(value)
    if annotation is not None and _has_secret_keys(annotation):
        walk.learn(value, with_keys=True)
    return TypedSecrets(frozenset(walk.names), frozenset(walk.values))


class _Walk:
    """A walk over a value that visits each object once."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.values: set[str] = set()
        self._seen: dict[int, Any] = {}

    def visit(self, value: Any) -> None:
        kind = type(value)
        if kind in _LEAVES or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if kind is dict:
            self._visit_mapping(value)
        elif kind is list:
            self._visit_items(value)
        elif isinstance(value, _SECRETS):
            self.learn(value)
        elif isinstance(value, BaseModel):
            self._visit_fields(kind, value.__dict__)
            if value.__pydantic_extra__ and _has_secret_extra(kind):
                self.learn(value.__pydantic_extra__)
            self.visit(value.__pydantic_extra__)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._visit_fields(kind, {item.name: getattr(value, item.name, None) for item in dataclasses.fields(value)})
            self.names |= class_names(kind)
        elif isinstance(value, tuple) and hasattr(value, "_fields"):
            self._visit_fields(kind, dict(zip(value._fields, value, strict=True)))
        elif isinstance(value, Mapping):
            self._visit_mapping(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            self._visit_items(value)

    def _visit_mapping(self, value: Mapping[Any, Any]) -> None:
        self._visit_items(value)
        self._visit_items(value.values())

    def _visit_items(self, items: Iterable[Any]) -> None:
        for item in items:
            if type(item) not in _LEAVES:
                self.visit(item)

    def _visit_fields(self, kind: type[Any], fields: Mapping[str, Any]) -> None:
        marked = _marked_fields(kind)
        for name, item in fields.items():
            if name in marked:
                self.learn(item, with_keys=marked[name])
            # The keys of a secret may be secrets.
            self.visit(item)

    def learn(self, secret: Any, with_keys: bool = False) -> None:
        """Add all texts and numbers of a value, and the keys of its dictionaries too, if they are secret."""
        self.values.update(leaves(from_json(searchable_json(secret)), with_keys))


def leaves(value: Any, with_keys: bool = False) -> list[str]:
    """Return the texts and numbers of a JSON value, and its keys on request."""
    found: list[str] = []
    waiting = [value]
    for each in waiting:
        kind = type(each)
        if kind is str:
            if each:
                found.append(each)
        elif kind is dict:
            if with_keys:
                waiting += each
            waiting += each.values()
        elif kind is list:
            waiting += each
        elif each is not None and kind is not bool:
            found.append(str(each))
    return found


def searchable_json(value: Any) -> bytes:
    """Return any value of a validation or a handler as JSON with its secrets, to find them; never stored."""
    plain = revealed(value)
    try:
        return to_json(plain, inf_nan_mode="null", serialize_unknown=True)
    except ValueError:
        # Bytes that are not UTF-8.
        return to_json(plain, inf_nan_mode="null", serialize_unknown=True, bytes_mode="base64")


def revealed(value: Any, by_alias: bool = True) -> Any:
    """Return a value of dictionaries, lists and scalars, with its secrets."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is list:
        return [item if type(item) in _LEAVES else revealed(item, by_alias) for item in value]
    if isinstance(value, _SECRETS):
        return revealed(value.get_secret_value(), by_alias)
    if isinstance(value, BaseModel):
        fields = value.model_dump(by_alias=by_alias, exclude_computed_fields=True, warnings=False)
        return revealed(fields, by_alias)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: revealed(getattr(value, item.name), by_alias) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {
            revealed(key) if isinstance(key, _SECRETS) else key: revealed(item, by_alias) for key, item in value.items()
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [revealed(item, by_alias) for item in value]
    return value


_class_names: WeakKeyDictionary[type[Any], frozenset[str]] = WeakKeyDictionary()
_fields_of_classes: WeakKeyDictionary[type[Any], Mapping[str, bool]] = WeakKeyDictionary()


def class_names(kind: type[Any]) -> frozenset[str]:
    """Return `sensitive_names` of a class with fields, cached."""
    names = _class_names.get(kind)
    if names is None:
        names = _class_names[kind] = sensitive_names(kind)
    return names


def _marked_fields(kind: type[Any]) -> Mapping[str, bool]:
    """Return the fields of a class that are secret as a whole, each with whether its keys are secret, too."""
    fields = _fields_of_classes.get(kind)
    if fields is None:
        fields = _fields_of_classes[kind] = dict(_find_marked(kind))
    return fields


def _find_marked(kind: type[Any]) -> Iterator[tuple[str, bool]]:
    if issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if any(map(_is_marker, field.metadata)) or _collect(field.annotation, set(), set()):
                yield name, _has_secret_keys(field.annotation)
        return
    for name, hint in _hints_of(kind).items():
        if _collect(hint, set(), set()):
            yield name, _has_secret_keys(hint)


def _has_secret_keys(annotation: Any) -> bool:
    """Return whether a type contains mappings with secret keys."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Mapping) and _collect(arguments[0], set(), set()):
        return True
    return any(map(_has_secret_keys, arguments))


def _has_secret_extra(model: type[BaseModel]) -> bool:
    """Return whether the fields that a model accepts beyond its named ones are secret."""
    if model.model_config.get("extra") != "allow":
        return False
    return _collect(_hints_of(model).get("__pydantic_extra__"), set(), set())


def sensitive_names(annotation: Any) -> frozenset[str]:
    """Return the names and aliases of the secrets in a type, or in a type inside it."""
    names: set[str] = set()
    if _collect(annotation, names, set()):
        return Everything()
    return frozenset(names) if names else NOTHING


def _collect(annotation: Any, names: set[str], seen: set[Any]) -> bool:
    """Add the sensitive names below an annotation; return whether the annotation is a secret itself."""
    if _is_secret(annotation):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _collect_model(annotation, names, seen)
    if isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or is_typeddict(annotation)):
        if annotation not in seen:
            seen.add(annotation)
            _collect_fields(annotation, names, seen)
        return False
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        # A named tuple becomes a list: there are no names to mask by.
        hints = [_collect(hint, names, seen) for hint in _hints_of(annotation).values()]
        return any(hints)
    for indirect in (getattr(annotation, "__value__", None), getattr(annotation, "__supertype__", None)):
        if indirect is not None:
            return _collect(indirect, names, seen)
    if any(
        getattr(item, "__name__", type(item).__name__) == "Json" for item in getattr(annotation, "__metadata__", ())
    ):
        # A secret inside a text of JSON makes the whole text secret.
        inside: set[str] = set()
        return _collect(get_args(annotation)[0], inside, set()) or bool(inside)
    origin = get_origin(annotation)
    if isinstance(origin, type) and (dataclasses.is_dataclass(origin) or is_typeddict(origin)):
        _collect(origin, names, seen)
    # A secret member makes a container or a union secret: no name distinguishes its members.
    members = [_collect(argument, names, seen) for argument in get_args(annotation) if not isinstance(argument, str)]
    return any(members)


def _collect_model(model: type[BaseModel], names: set[str], seen: set[Any]) -> bool:
    if model in seen:
        return False
    seen.add(model)
    is_root = issubclass(model, RootModel)
    if _has_secret_extra(model):
        # There are no names to mask by.
        seen.discard(model)
        return True
    for name, field in model.model_fields.items():
        if _collect(field.annotation, names, seen) or any(map(_is_marker, field.metadata)):
            if is_root:
                # Its JSON is that of its root, without a name before the secret.
                seen.discard(model)
                return True
            names.add(name)
            names.update(_aliases(field.alias), _aliases(field.validation_alias), _aliases(field.serialization_alias))
    return False


def _collect_fields(kind: type[Any], names: set[str], seen: set[Any]) -> None:
    """Add the sensitive names of a dataclass or a `TypedDict`."""
    fields = getattr(kind, "__pydantic_fields__", {})
    generator = getattr(kind, "__pydantic_config__", {}).get("alias_generator")
    for name, hint in _hints_of(kind).items():
        if _collect(hint, names, seen):
            names.add(name)
            names.update(_generated(generator, name))
            for item in (fields.get(name), *getattr(hint, "__metadata__", ())):
                if isinstance(item, FieldInfo):
                    names.update(_aliases(item.alias), _aliases(item.validation_alias))
                    names.update(_aliases(item.serialization_alias))


def _hints_of(kind: type[Any]) -> dict[str, Any]:
    try:
        return get_type_hints(kind, include_extras=True)
    except (NameError, TypeError, AttributeError):
        # An annotation has an unknown name, as in a class inside a function: the others are read one by one.
        return {
            name: _hint_of(base, name, hint)
            for base in kind.__mro__
            for name, hint in getattr(base, "__annotations__", {}).items()
        }


def _hint_of(kind: type[Any], name: str, hint: Any) -> Any:
    alone = type(kind.__name__, (), {"__annotations__": {name: hint}, "__module__": kind.__module__})
    try:
        return get_type_hints(alone, include_extras=True)[name]
    except (NameError, TypeError, AttributeError):
        # The text of the annotation is all there is.
        return Sensitive() if "Sensitive" in str(hint) or "Secret" in str(hint) else Any


def _is_secret(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, _SECRETS):
        return True
    origin = get_origin(annotation)
    if isinstance(origin, type) and issubclass(origin, _SECRETS):
        return True
    return _is_marker(annotation) or any(map(_is_marker, getattr(annotation, "__metadata__", ())))


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


def _generated(generator: Any, name: str) -> list[str]:
    if isinstance(generator, AliasGenerator):
        return [alias for given in generator.generate_aliases(name) for alias in _aliases(given)]
    return [generator(name)] if callable(generator) else []
