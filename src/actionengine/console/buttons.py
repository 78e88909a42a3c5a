"""Declarations of buttons: the governed actions that pages offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    """

    action: str
    label: str
    done: str
    fields: tuple[Field, ...] = ()
    style: Literal["primary", "danger", "plain"] = "plain"


@dataclass(frozen=True, slots=True)
class OfferedButton:
    """A button with the payload that pressing it sends. `key` is the idempotency key of this rendering."""

    button: Button
    payload: str
    key: str
