"""Definitions of workflows: data, checked when they are defined.

A definition has an input (the fields that a run is started with), steps, and perhaps a trigger. The first step is where
a run begins; each step says what comes `next`, or the one after it does; `"end"` ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError, to_json

from actionengine.conditions.conditions import not_empty
from actionengine.errors import ActionError, ErrorCode
from actionengine.schemas.field_errors import field_errors, summarize
from actionengine.schemas.fields import SchemaDefinition
from actionengine.schemas.models import Whole
from actionengine.workflows.definitions.checks import check
from actionengine.workflows.definitions.steps import END, DefinitionPart, Step
from actionengine.workflows.definitions.triggers import STORED, Trigger

MAX_STEPS = 200
MAX_BYTES = 256 * 1024
"""Of its JSON."""


class Definition(DefinitionPart):
    """A workflow, as data. `input` has the fields that a run is started with; without it, any will do."""

    input: SchemaDefinition | None = None
    steps: Annotated[tuple[Step, ...], Field(max_length=MAX_STEPS), AfterValidator(not_empty)]
    trigger: Trigger | None = None
    max_steps: Whole = Field(default=1000, ge=1, le=100_000)
    """Steps that one run takes at most."""

    def step(self, name: str) -> Step:
        """The step of this name. Raises `KeyError`."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def next_step(self, name: str) -> str:
        """What comes after a step where it does not say: the next one, or the end."""
        names = [step.name for step in self.steps]
        after = names.index(name) + 1
        return names[after] if after < len(names) else END

    @model_validator(mode="after")
    def _check_consistency(self) -> Definition:
        check(self)
        return self


def parse_definition(given: Mapping[str, Any], *, stored: bool = False) -> Definition:
    """Return a definition. The schedule of a `stored` one is not judged again.

    Raises `ActionError(invalid_input)`, which says of each part what is wrong with it.
    """
    try:
        if len(to_json(given)) > MAX_BYTES:
            raise ActionError(
                ErrorCode.INVALID_INPUT, f"the definition is too long: it has at most {MAX_BYTES >> 10} KB"
            )
        return Definition.model_validate(given, context=STORED if stored else None)
    except ValidationError as error:
        fields = field_errors(error)
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"the definition: {summarize(fields, whole='')}", {"fields": fields}
        ) from None
    except (PydanticSerializationError, RecursionError):
        raise ActionError(ErrorCode.INVALID_INPUT, "the definition is nested too deeply, or is not JSON") from None


def document(definition: Definition) -> dict[str, Any]:
    """A definition as it is stored."""
    return definition.model_dump(mode="json", by_alias=True, exclude_unset=True)
