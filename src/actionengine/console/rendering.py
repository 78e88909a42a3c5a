"""Templates: everything is escaped, and characters that hide or reorder text are shown as codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic_core import to_jsonable_python

from actionengine.pipeline.write_set import Write

_INVISIBLE = (
    *range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), *range(0x7F, 0xA0), 0xAD, 0x034F, 0x061C, 0x115F, 0x1160,
    0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070),
    0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0, *range(0xFFF0, 0xFFFC), *range(0xE0000, 0xE1000),
)  # fmt: skip
"""Controls, invisible characters, and those that change the direction of a text: two texts that differ look different.
"""

_CODES = {code: f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in _INVISIBLE}
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


class FieldChange(NamedTuple):
    """A field of a document or a row, before and after a write; None where it is not there."""

    name: str
    before: Any
    after: Any


def visible(value: Any) -> Any:
    """Return a text with its invisible characters as codes such as `\\u202e`; other values as they are."""
    return value.translate(_CODES) if isinstance(value, str) and not isinstance(value, Markup) else value


def show_time(value: datetime | None) -> Markup:
    """Return a time as an element, in UTC to the second."""
    if value is None:
        return Markup("&ndash;")
    utc = value.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        utc.isoformat(timespec="milliseconds"), utc.strftime("%Y-%m-%d %H:%M:%S")
    )


def show_duration(value: timedelta | float) -> str:
    """Return a duration in its largest unit, such as `3 min`; a number is in seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), (1, "s"))
    return f"{max(0, seconds) / size:.0f} {unit}"


def show_json(value: Any) -> Markup:
    """Return a value as indented JSON in a `pre` element."""
    text = json.dumps(to_jsonable_python(value, fallback=str), indent=2, ensure_ascii=False)
    return Markup('<pre class="json" tabindex="0">{}</pre>').format(visible(text))


def show_value(value: Any) -> Markup:
    """Return a value as JSON in a line; a text without quotes."""
    if value is None:
        return Markup("&ndash;")
    text = value if isinstance(value, str) else json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False)
    return Markup("<code>{}</code>").format(visible(text))


def field_changes(write: Write) -> list[FieldChange]:
    """Return the fields that a write changes; one without a name for what is no document or row."""
    before, after = write.before, write.after
    if not all(isinstance(each, dict | None) for each in (before, after)):
        return [FieldChange("", before, after)]
    before, after = before or {}, after or {}
    return [
        FieldChange(name, before.get(name), after.get(name))
        for name in dict.fromkeys((*before, *after))
        if name not in before or name not in after or before[name] != after[name]
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("actionengine.console"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        time=show_time, duration=show_duration, json=show_json, value=show_value, field_changes=field_changes
    )
    return environment


def render(template: str, variables: Mapping[str, Any]) -> str:
    """Return the text of a page. Templates are compiled at their first use in this process."""
    return _environment().get_template(template).render(variables)
