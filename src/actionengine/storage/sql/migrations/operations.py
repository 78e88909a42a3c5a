"""Alembic operations for a host's own tables: `op.protect_table("jobs")` and `op.unprotect_table("jobs")`.

Import this module in `env.py`. Autogenerate then writes the operations (`autogenerate`), and a table that is rebuilt in
a batch keeps its triggers (`batch`).
"""

from __future__ import annotations

from actionengine.storage.sql.migrations import autogenerate as autogenerate
from actionengine.storage.sql.migrations import batch as batch
