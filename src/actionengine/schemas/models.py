"""Base models for the inputs and outputs of the library's services, and the types of the fields that they share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import to_json

from actionengine.schemas.json_schemas import SchemaExtra, SchemaOf
from actionengine.storage.records import MAX_ID_LENGTH
from actionengine.text.names import nfc, spelled

_MAX_SHOWN_LENGTH = 60
"""Characters of a value that an error shows."""


def to_nfc(given: Any) -> Any:
    """Return a text in Unicode's form NFC, in which its characters are counted; any other value as it is."""
    return nfc(given) if isinstance(given, str) else given


def shorten(given: Any) -> str:
    """Return a value as JSON, cut to what an error shows."""
    text = to_json(given, fallback=str).decode()
    return text if len(text) <= _MAX_SHOWN_LENGTH else f"{text[:_MAX_SHOWN_LENGTH]}…"


def _flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise ValueError(f"it is true or false, not {shorten(given)}")
    return given


def _number(given: Any) -> Any:
    if isinstance(given, str | bool):
        raise ValueError(f"it is a number, not {shorten(given)}")
    return given


VISIBLE_PATTERN = r"^\S+( \S+)*$"
"""The regular expression of a name: no spaces at its ends or in a row."""

_VISIBLE = SchemaExtra(pattern=VISIBLE_PATTERN)

Id = Annotated[str, Field(max_length=MAX_ID_LENGTH)]
"""The id of a document or a row, or the cursor of a page."""

Reference = Annotated[str, Field(max_length=MAX_ID_LENGTH), AfterValidator(nfc)]
"""The name of an existing thing."""

Name = Annotated[str, Field(min_length=1, max_length=100), BeforeValidator(to_nfc), AfterValidator(spelled), _VISIBLE]
"""The name of a field, or a key: 1 to 100 visible characters, in Unicode's form NFC."""

UniqueName = Annotated[
    str, Field(min_length=1, max_length=200), BeforeValidator(to_nfc), AfterValidator(spelled), _VISIBLE
]
"""A name that no other thing of the kind has, in Unicode's form NFC."""

Title = Annotated[str, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=10_000)]

Flag = Annotated[bool, BeforeValidator(_flag)]
"""True or false: neither a text nor a number."""

NUMERIC = BeforeValidator(_number)
"""Refuses texts, true and false in the place of a number."""

Whole = Annotated[int, NUMERIC]
"""A whole number: neither a text nor true or false."""

Number = Annotated[float, NUMERIC]
"""A number: neither a text nor true or false."""


class Input(BaseModel):
    """Base of inputs. They refuse unknown fields, and the one character that no database stores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _check_no_nul(cls, value: Any) -> Any:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it has the character \\u0000 in it")
        return value


class Output(BaseModel):
    """Base of outputs."""

    model_config = ConfigDict(frozen=True)


class ErrorOutput(Output):
    """An error, as `ActionError.to_dict` gives it."""

    code: str = Field(description="The code of the error, such as `conflict`.")
    message: str = Field(description="The text of the error.")
    details: dict[str, Any] = Field(description="The details of the error, by its code.")


ErrorDict = Annotated[dict[str, Any], SchemaOf(ErrorOutput)]
"""An error in its JSON form."""


class Page(Input):
    """A page of a list: at most `limit` items, those after the id `after`."""

    after: Id | None = Field(default=None, description="The id after which the page begins; null for the first page.")
    limit: int = Field(default=100, ge=1, le=1000, description="The most items of the page.")
