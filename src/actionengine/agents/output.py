"""The schema of a tool's structured result: the value of a success, or one of the other ordinary results."""

from __future__ import annotations

from typing import Any

from actionengine.agents.dialects.vocabulary import kinds_of, resolved
from actionengine.agents.results import PENDING_SCHEMA, PREVIEWED_SCHEMA, TRUNCATED_SCHEMA
from actionengine.catalogue.descriptions import ActionDescription


def result_schema(action: ActionDescription) -> tuple[dict[str, Any], bool | None]:
    """Return the schema of a tool's structured result, and whether a value becomes `{"result": value}`; None if that
    depends on the value, as its type is not declared.

    Handlers and hooks can execute actions that need an approval, so every action that is not read-only may have to
    wait.
    """
    given = action.output_schema
    if given is None:
        return {"type": "object"}, None
    definitions = given.get("$defs", {})
    schema = {key: value for key, value in given.items() if key not in ("$defs", "$schema")}
    is_wrapped = kinds_of(schema, definitions) != {"object"}
    if is_wrapped:
        success = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
    else:
        success = {"type": "object", **resolved(schema, definitions)}
    others = [PREVIEWED_SCHEMA, TRUNCATED_SCHEMA]
    if not action.read_only:
        others.insert(0, PENDING_SCHEMA)
    whole: dict[str, Any] = {"type": "object", "anyOf": [success, *map(dict, others)]}
    if definitions:
        whole["$defs"] = definitions
    return whole, is_wrapped
