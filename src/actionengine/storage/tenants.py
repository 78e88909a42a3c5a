"""What the backends' directories of tenants share: which slugs and names are right, and the errors."""

from __future__ import annotations

import re

from actionengine.errors import ActionError, ErrorCode, bounded_text, storable_text

MAX_NAME_LENGTH = 500
"""Characters of a tenant's name."""

MAX_SLUG_LENGTH = 63
"""Characters of the slug of a tenant."""

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def check_tenant(slug: str, name: str) -> None:
    """Raises `ActionError(invalid_input)` for an empty name, and for a slug that is not made of lower-case letters,
    digits and inner hyphens (63 at most)."""
    if not _SLUG.fullmatch(slug):
        given = bounded_text(slug, MAX_SLUG_LENGTH)
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"{given!r} is no slug: use 1 to {MAX_SLUG_LENGTH} of a-z, 0-9 and inner hyphens"
        )
    if not name.strip() or len(name) > MAX_NAME_LENGTH or storable_text(name) != name:
        raise ActionError(
            ErrorCode.INVALID_INPUT, f"the tenant {slug!r} needs a name, of {MAX_NAME_LENGTH} characters at most"
        )


def tenant_deleted() -> ActionError:
    """The refusal of an execution for a tenant that was deleted."""
    return ActionError(ErrorCode.NOT_FOUND, "the tenant has been deleted")


def slug_taken(slug: str) -> ActionError:
    """The conflict of a slug that exists."""
    return ActionError(ErrorCode.CONFLICT, f"the tenant {slug!r} exists already")
