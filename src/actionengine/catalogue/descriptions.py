"""Descriptions of actions for people and agents, made of their declarations at boot."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from actionengine.actions import ApprovalPolicy, Idempotency, always
from actionengine.catalogue.schemas import input_schema, output_schema
from actionengine.errors import ConfigurationError
from actionengine.masking.masking import mask, revealed_json
from actionengine.pipeline.plan import ActionPlan
from actionengine.schemas.field_errors import field_errors, summarize

ApprovalNeed = Literal["never", "depends", "always"]
"""The need for a second person's approval. `"depends"`: the policy's condition decides."""

_BETWEEN_WORDS = re.compile(r"[_-]+|(?<=[a-z0-9])(?=[A-Z])")

T = TypeVar("T")


class _Copied(Generic[T]):
    """A field with a JSON value, or with a function that makes it on the first read. Each read returns a new copy."""

    def __init__(self, kind: Callable[[Any], Any] = lambda value: value) -> None:
        self._kind = kind

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type) -> T:
        if instance is None:
            raise AttributeError(self._name)  # For a dataclass, the field then has no default.
        value = instance.__dict__[self._name]
        if callable(value):
            value = instance.__dict__[self._name] = to_json(value())
        copy: T = self._kind(from_json(value))
        return copy

    def __set__(self, instance: object, value: T | Callable[[], T]) -> None:
        instance.__dict__[self._name] = value if callable(value) else to_json(value)


@dataclass(frozen=True, kw_only=True)
class ActionDescription:
    """An action as the catalogue describes it.

    `name` is `service.action`. `input_schema` and `output_schema` are JSON Schema 2020-12: `{}` admits any JSON, and
    `output_schema` is None where no annotation names the type of the result. `destructive` says that the action may
    delete or overwrite what cannot be got back: what the declaration says, else True for every action that is not
    `read_only`. `approval` looks at the action's own policy, not at those of its hooks and of the actions that it
    executes. `examples` are payloads. Secrets in examples, and in the defaults of schemas, are masked or left out.

    Descriptions are made once for an engine. Schemas are made on the first read, and each read returns a new copy.
    """

    name: str
    title: str
    description: str
    input_schema: _Copied[dict[str, Any]] = _Copied()
    output_schema: _Copied[dict[str, Any] | None] = _Copied()
    read_only: bool
    destructive: bool
    idempotency: Idempotency
    approval: ApprovalNeed
    emits: tuple[str, ...]
    examples: _Copied[tuple[Any, ...]] = _Copied(tuple)

    def __hash__(self) -> int:
        return hash(self.name)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process gets: the JSON of each field, made now."""
        return {name: to_json(value()) if callable(value) else value for name, value in self.__dict__.items()}


def describe(plan: ActionPlan) -> ActionDescription:
    """Return the description of an action."""
    action = plan.action
    return ActionDescription(
        name=plan.name,
        title=action.title or _title_of(plan),
        description=action.description,
        input_schema=partial(input_schema, plan),
        output_schema=partial(output_schema, plan),
        read_only=action.read_only,
        destructive=not action.read_only if action.destructive is None else action.destructive,
        idempotency=action.idempotency,
        approval=approval_need(action.approval),
        emits=action.emits,
        examples=_masked_examples(plan),
    )


def approval_need(policy: ApprovalPolicy | None) -> ApprovalNeed:
    """Return the need for an approval by an action's own policy."""
    if policy is None:
        return "never"
    return "always" if policy.when is always else "depends"


def _title_of(plan: ActionPlan) -> str:
    """Return a title made of a name: "Work orders: add item" of `work_orders.addItem`."""
    service = _in_words(plan.service)
    return f"{service[:1].upper()}{service[1:]}: {_in_words(plan.action.name)}"


def _in_words(name: str) -> str:
    words = _BETWEEN_WORDS.sub(" ", name).split()
    return " ".join(words) if name.islower() else " ".join(word if word.isupper() else word.lower() for word in words)


def check_examples(plan: ActionPlan) -> None:
    """Raise `ConfigurationError` for an example that is no payload of the action."""
    for number, example in enumerate(plan.action.examples):
        try:
            encoded = revealed_json(example)
            if plan.validator is not None:
                plan.validator.validate_json(encoded)
            continue
        except ValidationError as error:
            reason = summarize(field_errors(error, plan.sensitive))
        except Exception as error:
            reason = f"it is not JSON, or its validation raised {type(error).__name__}"
        raise ConfigurationError(f"{plan.name}: examples[{number}] is no payload of the action: {reason}")


def _masked_examples(plan: ActionPlan) -> tuple[Any, ...]:
    return tuple(mask(from_json(revealed_json(example)), plan.sensitive) for example in plan.action.examples)
