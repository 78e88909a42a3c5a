"""Definitions of workflows: data that is checked when it is defined.

A definition has steps, and optionally an input (the fields that a run is started with) and a trigger. A run begins at
the first step. Each step names the step that follows it as `next`; by default that is the next one in the list, and
after the last one the run ends. `"end"` ends the run too.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from actionengine.conditions.conditions import not_empty
from actionengine.schemas.fields import SchemaDefinition
from actionengine.schemas.json_schemas import NOT_EMPTY
from actionengine.schemas.models import Whole
from actionengine.workflows.definitions.checks import check_consistency
from actionengine.workflows.definitions.steps import END, DefinitionPart, Step
from actionengine.workflows.definitions.triggers import Trigger

MAX_STEPS = 200
"""Steps of one definition."""


class Definition(DefinitionPart):
    """A workflow as data. `input` lists the fields that a run is started with; without it, a run takes any input."""

    input: SchemaDefinition | None = Field(
        default=None, description="The fields that a run is started with; null lets a run take any input."
    )
    steps: Annotated[tuple[Step, ...], Field(max_length=MAX_STEPS), AfterValidator(not_empty), NOT_EMPTY] = Field(
        description="The steps. A run begins at the first one."
    )
    trigger: Trigger | None = Field(
        default=None, description="The events or the schedule that start runs; null for a workflow without them."
    )
    max_steps: Whole = Field(default=1000, ge=1, le=100_000, description="The number of steps that one run may take.")

    def step(self, name: str) -> Step:
        """Return the step of this name. Raise `KeyError` if there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def next_step(self, name: str) -> str:
        """Return the step after this one in the list, or `"end"`: it follows where the step names no other."""
        after = [step.name for step in self.steps].index(name) + 1
        return self.steps[after].name if after < len(self.steps) else END

    @model_validator(mode="after")
    def _check_consistency(self) -> Definition:
        check_consistency(self.steps, self.input.fields if self.input else None, self.trigger)
        return self
