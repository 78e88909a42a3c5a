"""Templates: everything is escaped, and controls that reorder text are shown as codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic_core import to_jsonable_python

_CONTROLS = {
    code: f"\\u{code:04x}"
    for code in (
        *range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0),  # controls
        0x00AD, 0x061C, 0x180E, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF,
    )
}  # fmt: skip
"""Controls, invisible characters and those that change the direction of a text. Two different texts look different."""


def visible(value: Any) -> Any:
    """Return a text with its invisible characters as codes such as `\\u202e`; other values as they are."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return value.translate(_CONTROLS)


def show_time(value: datetime | None) -> Markup:
    """Return a time as an element, in UTC to the second."""
    if value is None:
        return Markup("&ndash;")
    utc = value.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        utc.isoformat(timespec="milliseconds"), utc.strftime("%Y-%m-%d %H:%M:%S")
    )


def show_json(value: Any) -> Markup:
    """Return a value as indented JSON in a `pre` element."""
    text = json.dumps(to_jsonable_python(value, fallback=str), indent=2, ensure_ascii=False)
    return Markup('<pre class="json" tabindex="0">{}</pre>').format(visible(text))


class Templates:
    """The templates of the console."""

    def __init__(self, shared: Mapping[str, Any]) -> None:
        """`shared` are variables of all templates."""
        self._environment = Environment(
            loader=PackageLoader("actionengine.console"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=visible,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(time=show_time, json=show_json)
        self._environment.globals.update(shared)

    def render(self, template: str, variables: Mapping[str, Any]) -> str:
        """Return the text of a page."""
        return self._environment.get_template(template).render(variables)
