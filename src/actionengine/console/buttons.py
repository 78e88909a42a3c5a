"""Declarations of buttons: the governed actions that pages offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a button's form, which the operator fills in. An empty one is left out of the payload.

    Attributes:
        name: the field of the action's payload.
        label: its label.
        lines: the lines of its text; one makes an input, more a text area.
        required: whether the browser asks for a value before it sends the form.
        max_length: the most characters that the browser takes.
    """

    name: str
    label: str
    lines: int = 1
    required: bool = False
    max_length: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Button:
    """A governed action that a page offers.

    Attributes:
        action: the action, as `service.action`.
        label: the text on the button, a verb.
        done: the text that the operator sees after it.
        fields: the fields that the operator fills in.
        style: `primary`, `danger` or `plain`.
        has_preview: whether its form also shows what pressing it would write, and holds it to that.
    """

    action: str
    label: str
    done: str
    fields: tuple[Field, ...] = ()
    style: Literal["primary", "danger", "plain"] = "plain"
    has_preview: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A button that a view offers for one thing, if its caller may execute the action.

    Attributes:
        button: the button.
        payload: the payload that pressing it sends, without what the operator fills in.
        resource: the resource of the action for this payload, such as `run/17`; None where the action declares none.
        when: the rules that the action has beside the permission, such as the state of the thing.
        label: the text on the button, where it is not the button's own.
    """

    button: Button
    payload: Mapping[str, Any]
    resource: str | None = None
    when: bool = True
    label: str | None = None


@dataclass(frozen=True, slots=True)
class ShownButton:
    """A button that the caller may press.

    Attributes:
        button: the button.
        label: the text on it.
        payload: the payload as JSON.
        key: the idempotency key of this rendering: pressing it twice executes the action once.
        values: the operator's values by field, of a form that was refused or previewed.
        plan: the plan of the preview that the page shows: pressing writes what that showed, or nothing.
    """

    button: Button
    label: str
    payload: str
    key: str
    values: Mapping[str, str]
    plan: str | None
