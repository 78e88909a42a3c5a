"""A handler's signature: what its annotations accept and return, compared with its declaration at boot."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import types
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import lru_cache, partial
from types import CodeType, FunctionType, SimpleNamespace
from typing import (
    Annotated,
    Any,
    ForwardRef,
    NamedTuple,
    Never,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import typing_extensions
from pydantic import BaseModel, RootModel, TypeAdapter
from returns.result import Failure, Result, ResultE, Success
from typing_extensions import is_protocol, is_typeddict

from actionengine.errors import ActionError, ConfigurationError

_CONTEXT_NAMES = frozenset({"ctx", "context"})
_CONTEXT_TYPE = ("actionengine.action_context", "ActionContext")
_MISSING = inspect.Parameter.empty
_FREE = frozenset({Any, object, BaseModel, _MISSING})
"""Annotations that do not restrict the input: the payload passes unchanged."""
_PLAIN = frozenset({dict, list, Mapping, MutableMapping, Sequence})
_KNOWN = {
    "Any": Any,
    "ActionError": ActionError,
    "Result": Result,
    "ResultE": ResultE,
    "Success": Success,
    "Failure": Failure,
}
"""Names that handlers' annotations often use, and that are often imported for a type checker only."""


class Signature(NamedTuple):
    """A handler as the pipeline calls it. `result` is the `T` of `Result[T, …]`, or None where the annotation names
    none."""

    takes_context: bool
    validation: Any
    result: Any


class _Target(NamedTuple):
    """Return the function behind a handler, and the names of the parameters that a call gives."""

    function: Any
    parameters: tuple[str, ...]
    annotations: Mapping[str, Any]
    is_wrapper: bool


def read_signature(handler: Callable[..., Any], validation: Any, name: str) -> Signature:
    """Return what a handler accepts and returns. Without a `validation`, its annotation is the validation.

    Raises `ConfigurationError`, naming the action and the correction, for a signature that cannot be called as
    `handler(data)` or `handler(data, ctx)`, and for annotations that contradict the declaration or do not resolve.
    """
    takes_context = _takes_context(handler, name)
    target = _target_of(handler)
    if target is None:
        return Signature(takes_context, validation, None)
    _check_order(target, takes_context, name)
    validation = _check_input(target, validation, name)
    return Signature(takes_context, validation, _check_returned(target, _validated(validation), name))


def _check_order(target: _Target, takes_context: bool, name: str) -> None:
    first, second_name, *_ = (*target.parameters, "", "")
    named = first in _CONTEXT_NAMES and takes_context and second_name not in _CONTEXT_NAMES
    if named or _is_context(target.annotations.get(first)):
        raise ConfigurationError(
            f"{name}: the handler takes the context as its first parameter, {first!r}: a handler is called as "
            f"handler(data, ctx), so write the input first"
        )
    second = target.annotations.get(second_name, _MISSING) if takes_context else _MISSING
    if second is _MISSING or _is_context(second):
        return
    try:
        resolved = _resolve(second, target, None)
    except Exception:
        # The argument is passed whatever its name; a type checker knows that.
        return
    kind = get_origin(resolved) or resolved
    if isinstance(kind, type) and not _is_context(kind) and (_is_data(kind) or kind in _PLAIN):
        raise ConfigurationError(
            f"{name}: the handler's second parameter, {second_name!r}, is annotated with {_shown(resolved)}, and gets "
            f"the ActionContext: write handler(data, ctx)"
        )


def _check_input(target: _Target, validation: Any, name: str) -> Any:
    parameter = target.parameters[0] if target.parameters else ""
    annotation = target.annotations.get(parameter, _MISSING)
    if annotation is _MISSING:
        return validation
    validated = _validated(validation)
    resolved = _resolved(annotation, target, name, parameter, validated)
    if validation is None:
        return None if _cached(_says_nothing, resolved) else resolved
    if not _cached(_fits, validated, resolved) and not _is_local(annotation, validated):
        raise ConfigurationError(
            f"{name}: the handler's input is annotated with {_shown(resolved)}, and its validation is "
            f"{_shown(validated)}: write validation={_shown(resolved)}, or annotate {parameter}: {_shown(validated)}"
        )
    return validation


def _check_returned(target: _Target, validated: Any, name: str) -> Any:
    annotation = target.annotations.get("return", _MISSING)
    if annotation is _MISSING:
        return None
    resolved = _resolved(annotation, target, name, "return", validated)
    # A decorator shows the annotations of the function that it wraps, and may wrap its value in a Result.
    if not target.is_wrapper and not _cached(_is_result, resolved):
        shown = _shown(resolved)
        raise ConfigurationError(
            f"{name}: the handler is annotated to return {shown}; it has to return a Result: "
            f"write -> Result[{shown}, ActionError] and return Success(value)"
        )
    result = _cached(_value_type, resolved)
    if isinstance(result, type) and issubclass(result, BaseModel) and not result.__pydantic_complete__:
        try:
            result.model_rebuild(raise_errors=True, _types_namespace=_namespace(target))
        except NameError as error:
            raise ConfigurationError(f"{name}: the type of its result, {_shown(result)}: {_reason(error)}") from None
    return result


def _validated(validation: Any) -> Any:
    return validation._type if isinstance(validation, TypeAdapter) else validation


def _namespace(target: _Target) -> dict[str, Any]:
    return dict(getattr(target.function, "__globals__", {}))


# Where annotations come from


def _target_of(handler: Any) -> _Target | None:
    """Return the function that a handler is or calls; None for one without annotations, such as a built-in."""
    skip = 0
    given: set[str] = set()
    while isinstance(handler, partial):
        skip += len(handler.args)
        given.update(handler.keywords)
        handler = handler.func
    function = handler
    if not isinstance(handler, (FunctionType, type)) and isinstance(inspect.unwrap(handler), FunctionType):
        # A decorator that is an object, such as `lru_cache`, shows the function that it wraps.
        function = inspect.unwrap(handler)
        parameters = tuple(each for each in tuple(inspect.signature(handler).parameters)[skip:] if each not in given)
        return _Target(function, parameters, _annotations_of(function), is_wrapper=True)
    if inspect.ismethod(function):
        function = function.__func__
        skip += 1
    elif not isinstance(function, (FunctionType, type)) and not inspect.isbuiltin(function):
        function = type(function).__call__
        skip += 1
    if not isinstance(function, FunctionType):
        return None
    is_wrapper = hasattr(function, "__wrapped__")
    if is_wrapper:
        parameters = tuple(inspect.signature(function).parameters)
        names = inspect.unwrap(function)
    else:
        code = function.__code__
        parameters = code.co_varnames[: code.co_argcount]
        names = function
    if skip or given:
        parameters = tuple(each for each in parameters[skip:] if each not in given)
    return _Target(names, parameters, _annotations_of(function), is_wrapper)


def _annotations_of(function: FunctionType) -> Mapping[str, Any]:
    try:
        return function.__annotations__
    except NameError:
        # From Python 3.14 on, annotations are evaluated here; names imported for a type checker only are missing.
        return typing_extensions.get_annotations(function, format=typing_extensions.Format.FORWARDREF)


def _takes_context(handler: Callable[..., Any], name: str) -> bool:
    """Return whether a handler is called as `handler(data, ctx)`.

    A second parameter with a default is the context only if it is named so: `lambda data, number=number: …` binds a
    value.
    """
    if type(handler) is FunctionType:
        # The usual case, ten times as fast as inspect.signature: ten thousand actions boot.
        code = handler.__code__
        plain = not code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) and not code.co_kwonlyargcount
        if plain and not handler.__defaults__ and code.co_argcount in (1, 2):
            return code.co_argcount == 2
    try:
        parameters = tuple(inspect.signature(handler).parameters.values())
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name}: the handler {handler!r} has no signature to read") from None
    positional = [item for item in parameters if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD)]
    rest = any(item.kind is item.VAR_POSITIONAL for item in parameters)
    required = [item for item in parameters if item.default is item.empty and item.kind is not item.VAR_POSITIONAL]
    required = [item for item in required if item.kind is not item.VAR_KEYWORD]
    if not (positional or rest) or len(required) > 2 or any(item not in positional for item in required):
        raise ConfigurationError(
            f"{name}: a handler is called as handler(data) or handler(data, ctx), "
            f"which does not fit {getattr(handler, '__qualname__', handler)}{inspect.signature(handler)}"
        )
    if len(positional) < 2:
        return rest
    return positional[1] in required or positional[1].name in _CONTEXT_NAMES


# What they mean


def _cached(question: Callable[..., Any], *annotations: Any) -> Any:
    """Cache the answers about annotations: most of ten thousand actions repeat them."""
    try:
        return _asked(question, annotations)
    except TypeError:
        # Metadata need not be hashable.
        return question(*annotations)


@lru_cache(maxsize=4096)
def _asked(question: Callable[..., Any], annotations: tuple[Any, ...]) -> Any:
    return question(*annotations)


def _resolved(annotation: Any, target: _Target, name: str, parameter: str, validated: Any) -> Any:
    try:
        return _resolve(annotation, target, validated)
    except Exception as error:
        shown = annotation if isinstance(annotation, str) else repr(annotation)
        what = "its return annotation" if parameter == "return" else f"the annotation of {parameter!r}"
        raise ConfigurationError(
            f"{name}: {what}, {shown}, does not resolve: {_reason(error)}. Import or define that name at the "
            f"top of the handler's module, outside of `if TYPE_CHECKING`, or leave the annotation out"
        ) from None


def _resolve(annotation: Any, target: _Target, validated: Any) -> Any:
    """Return the type of an annotation where the handler was defined, with forward references resolved.

    A class inside a function is found in no module: a name equal to that of the validation means the validation. Names
    of this library resolve even where they were imported for a type checker only. The error type of a `Result` need not
    resolve.
    """
    if annotation is None or annotation == "None":
        return type(None)
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation
    names = getattr(target.function, "__globals__", {})
    local = _locals_of(target.function, annotation)
    try:
        return _evaluated(annotation, names, local)
    except NameError:
        known = {**_KNOWN, validated.__name__: validated} if isinstance(validated, type) else _KNOWN
        local = {**{name: known[name] for name in known.keys() - names.keys()}, **local}
    try:
        return _evaluated(annotation, names, local)
    except NameError:
        if not isinstance(annotation, str):
            raise
        if isinstance(validated, type) and annotation.rpartition(".")[2] == validated.__name__:
            return validated
        tree = ast.parse(annotation.strip("\"' "), mode="eval").body
        if not isinstance(tree, ast.Subscript) or not isinstance(tree.slice, ast.Tuple):
            raise
        origin: Any = _evaluated(ast.unparse(tree.value), names, local)
        if origin is not Result:
            raise
        return origin[_evaluated(ast.unparse(tree.slice.elts[0]), names, local), Any]


def _evaluated(annotation: Any, names: dict[str, Any], local: dict[str, Any]) -> Any:
    if isinstance(annotation, str) and '"' not in annotation and "'" not in annotation:
        found = eval(_compiled(annotation), names, local)
        return type(None) if found is None else found
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    holder = SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(holder, names, local, include_extras=True)["it"]


@lru_cache(maxsize=1024)
def _compiled(text: str) -> CodeType:
    return compile(text.strip(), "<annotation>", "eval")


def _locals_of(function: Any, annotation: Any) -> dict[str, Any]:
    """Return the names that a function has from the scopes around it, as far as a text may use them."""
    found: dict[str, Any] = {each.__name__: each for each in getattr(function, "__type_params__", ())}
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not isinstance(annotation, str) or free in annotation:
            with suppress(ValueError):
                found[free] = cell.cell_contents
    return found


def _is_context(annotation: Any) -> bool:
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        return annotation.strip("\"' ").rpartition(".")[2] == "ActionContext"
    return isinstance(annotation, type) and (annotation.__module__, annotation.__name__) == _CONTEXT_TYPE


def _is_local(annotation: Any, validated: Any) -> bool:
    """Return whether a text names the validation's class, which was defined inside a function."""
    if not isinstance(annotation, str) or not isinstance(validated, type) or "<locals>" not in validated.__qualname__:
        return False
    return annotation.strip("\"' ") == validated.__name__


def _says_nothing(annotation: Any) -> bool:
    """Return whether an input of this annotation passes unchanged: any value, or JSON of any form."""
    annotation = _bare(annotation)
    if isinstance(annotation, TypeVar) or _is_in(annotation, _FREE) or _is_protocol(annotation):
        return True
    if _is_union(annotation):
        members = get_args(annotation)
        return all(member is type(None) or _says_nothing(member) for member in members)
    origin = get_origin(annotation) or annotation
    return _is_in(origin, _PLAIN) and all(each is str or _says_nothing(each) for each in get_args(annotation))


def _fits(given: Any, wanted: Any) -> bool:
    """Return whether a value validated as `given` can be an instance of the handler's annotation. Only a certain
    mismatch returns False."""
    given, wanted = _bare(given), _bare(wanted)
    if given is _MISSING or wanted is _MISSING or _is_in(wanted, _FREE) or given in (Any, object) or given == wanted:
        return True
    if isinstance(given, TypeVar) or isinstance(wanted, TypeVar) or _is_protocol(wanted):
        return True
    if _is_union(given):
        return all(_fits(member, wanted) for member in get_args(given))
    if _is_union(wanted):
        return any(_fits(given, member) for member in get_args(wanted))
    given_arguments, wanted_arguments = _arguments(given), _arguments(wanted)
    one, other = get_origin(given) or given, get_origin(wanted) or wanted
    if not isinstance(one, type) or not isinstance(other, type) or not _is_known(one):
        return True
    if is_typeddict(one) and is_typeddict(other):
        return other.__annotations__.keys() <= one.__annotations__.keys()
    if is_typeddict(other) and one is dict:
        return False
    one, other = (dict if is_typeddict(each) else _generic(each) for each in (one, other))
    try:
        if not (issubclass(one, other) or (other is float and one is int) or _is_protocol(other)):
            return False
    except TypeError:
        return True
    # Nothing is known of a class whose arguments differ from those of the class around it.
    return len(given_arguments) != len(wanted_arguments) or all(map(_fits, given_arguments, wanted_arguments))


def _is_known(kind: type) -> bool:
    """Return whether validation as this class returns instances of it. A class with a validator of its own may return
    others."""
    if issubclass(kind, (BaseModel, Enum)) or is_typeddict(kind):
        return True
    return not hasattr(kind, "__get_pydantic_core_schema__") and not hasattr(kind, "__get_validators__")


def _is_data(kind: type) -> bool:
    return (
        is_typeddict(kind)
        or dataclasses.is_dataclass(kind)
        or issubclass(kind, (BaseModel, RootModel, str, int, float, bool, list, dict))
    )


def _arguments(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        arguments: tuple[Any, ...] = annotation.__pydantic_generic_metadata__["args"]
        return arguments
    return tuple(each for each in get_args(annotation) if each is not ...)


def _generic(kind: type) -> type:
    """Return the generic model that a model with arguments was made of."""
    if issubclass(kind, BaseModel):
        origin = kind.__pydantic_generic_metadata__["origin"]
        return kind if origin is None else origin
    return kind


def _bare(annotation: Any) -> Any:
    """Return an annotation without aliases and metadata; `_MISSING` where the metadata may change its type."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *metadata = get_args(annotation)
            if any(hasattr(item, "__get_pydantic_core_schema__") and _converts(item) for item in metadata):
                return _MISSING
            continue
        indirect = getattr(annotation, "__value__", None) or getattr(annotation, "__supertype__", None)
        if indirect is None or isinstance(annotation, type):
            return annotation
        annotation = indirect


def _converts(item: Any) -> bool:
    return type(item).__name__ != "Sensitive"


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_protocol(annotation: Any) -> bool:
    return isinstance(annotation, type) and is_protocol(annotation)


def _is_in(annotation: Any, kinds: frozenset[Any]) -> bool:
    try:
        return annotation in kinds
    except TypeError:
        return False


def _is_result(annotation: Any) -> bool:
    annotation = _bare(annotation)
    if _is_in(annotation, _RETURNS_ANYTHING) or isinstance(annotation, TypeVar):
        return True
    if _is_union(annotation):
        return all(map(_is_result, get_args(annotation)))
    origin = get_origin(annotation) or annotation
    if not isinstance(origin, type) or issubclass(origin, Result) or _is_protocol(origin):
        return True
    if issubclass(origin, Awaitable):
        return origin.__module__ == "collections.abc" and all(map(_is_result, get_args(annotation)[-1:]))
    return False


_RETURNS_ANYTHING = frozenset({Any, object, Never, NoReturn, typing_extensions.Never, typing_extensions.NoReturn})


def _value_type(returned: Any) -> Any:
    """Return the `T` of `Result[T, …]`; None where the annotation names no type."""
    returned = _bare(returned)
    origin = get_origin(returned)
    if isinstance(origin, type) and issubclass(origin, Awaitable) and get_args(returned):
        return _value_type(get_args(returned)[-1])
    if not (isinstance(origin, type) and issubclass(origin, Result)):
        return None
    value_type = get_args(returned)[0]
    return None if value_type is Any or value_type is object else value_type


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _shown(annotation: Any) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return "None" if annotation is type(None) else annotation.__qualname__.rpartition("<locals>.")[2]
    return repr(annotation).replace("typing.", "")
