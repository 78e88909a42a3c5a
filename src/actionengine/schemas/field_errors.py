"""Pydantic's errors as details of an `invalid_input`, one for each field."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pydantic import ValidationError

from actionengine.masking.secret_types import Everything


def field_errors(error: ValidationError, sensitive: Collection[str] = ()) -> list[dict[str, str]]:
    """Return the `path`, `reason` and `type` of each problem. Values are never included, and the reason for a field
    under a sensitive name, which may quote its value, is withheld."""
    found = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        path = [str(part) for part in item["loc"]]
        secret = next((index for index, part in enumerate(path) if part in sensitive), None)
        if secret is None:
            reason = item["msg"].removeprefix("Value error, ")
        else:
            # A key below a sensitive name may be a secret itself.
            path, reason = path[: secret + 1] if not isinstance(sensitive, Everything) else [], "is not valid"
        found.append({"path": ".".join(path), "reason": reason, "type": item["type"]})
    return found


def summarize(errors: Sequence[Mapping[str, str]], whole: str = "payload: ") -> str:
    """Return field errors in one line. `whole` introduces a problem that concerns no single field."""
    return "; ".join(f"{item['path']}: {item['reason']}" if item["path"] else whole + item["reason"] for item in errors)
