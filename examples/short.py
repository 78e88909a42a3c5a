"""Short forms of values for the demo: JSON, with only the end of each id, escaped for the console; and its colours."""

import json
import re
from typing import Any

from pydantic_core import to_jsonable_python
from rich.markup import escape

OUTCOME_COLOURS = {
    "succeeded": "green",
    "replayed": "cyan",
    "approval_required": "yellow",
    "denied": "red",
    "invalid": "red",
    "failed": "red",
}


def short(value: Any) -> str:
    """Return the short form of a value."""
    return short_ids(json.dumps(to_jsonable_python(value), ensure_ascii=False))


def short_ids(text: str) -> str:
    """Return the short form of a text."""
    return escape(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{23}([0-9a-f]{4})", r"…\1", text))
