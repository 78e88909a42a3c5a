"""The rules for tenants' slugs and names, and the errors of the backends' directories."""

from __future__ import annotations

import re

from actionengine.errors import ActionError, ErrorCode, bounded_text, storable_text

MAX_NAME_LENGTH = 500
"""Characters of a tenant's name."""

MAX_SLUG_LENGTH = 63
"""Characters of the slug of a tenant."""

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def check_tenant(slug: str, name: str) -> None:
    """Raise `ActionError(invalid_input)` for an empty name, and for a slug other than lower-case letters, digits and
    inner hyphens (63 at most)."""
    if not _SLUG.fullmatch(slug):
        given = bounded_text(slug, MAX_SLUG_LENGTH)
        raise ActionError(
            ErrorCode.INVALID_INPUT,
            f"{given!r} is not a slug: use 1 to {MAX_SLUG_LENGTH} of a-z, 0-9 and inner hyphens",
        )
    if not name.strip() or len(name) > MAX_NAME_LENGTH or storable_text(name) != name:
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"the tenant {slug!r} needs a name, of {MAX_NAME_LENGTH} characters at most"
        )


def tenant_deleted() -> ActionError:
    """Return the error for an execution of a deleted tenant."""
    return ActionError(ErrorCode.NOT_FOUND, "the tenant has been deleted")


def slug_taken(slug: str) -> ActionError:
    """Return the error for a slug that exists."""
    return ActionError(ErrorCode.CONFLICT, f"the tenant {slug!r} exists already")
