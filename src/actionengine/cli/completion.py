"""Words with which a shell completes a command."""

from __future__ import annotations

import os
from contextlib import redirect_stderr
from io import StringIO

import typer

from actionengine.cli.common import open_storage

MAX_COMPLETIONS = 100


def complete_tenant(context: typer.Context, incomplete: str) -> list[str]:
    """Return the slugs of tenants that begin with an incomplete word; none where the database cannot be read."""
    url = context.params.get("url") or os.environ.get("ACTIONENGINE_URL")
    signing_key = context.params.get("signing_key") or os.environ.get("ACTIONENGINE_SIGNING_KEY")
    if not url:
        return []
    # An error would be printed into the line that the shell completes.
    try:
        with redirect_stderr(StringIO()), open_storage(url, signing_key) as storage:
            page = storage.list_tenants(after=_before(incomplete), limit=MAX_COMPLETIONS)
    except Exception:
        return []
    return [tenant.slug for tenant in page if tenant.slug.startswith(incomplete)]


def _before(beginning: str) -> str | None:
    """Return a text that sorts after each slug that sorts before those with this beginning; None for no beginning."""
    return f"{beginning[:-1]}{chr(max(1, ord(beginning[-1]) - 1))}~" if beginning else None
