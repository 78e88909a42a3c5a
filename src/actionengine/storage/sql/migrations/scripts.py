"""SQL scripts, one for each dialect, as a migration runs them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from importlib.resources import files

from alembic import context, op

from actionengine.storage.sql.migrations import schema_version
from actionengine.storage.sql.migrations.own_triggers import own_triggers


def run_script(name: str) -> None:
    """Run `versions/<name>_<dialect>.sql` in the running migration; print it in offline mode.

    Nothing runs where the schema has that version: `actionengine db upgrade`, or a storage, has made it before a host's
    own environment came.
    """
    dialect = op.get_context().dialect.name
    if not context.is_offline_mode() and (schema_version(op.get_bind()) or 0) >= int(name):
        return
    for statement in statements(read_script(name, dialect), dialect):
        if context.is_offline_mode():
            context.get_context().impl.static_output(f"{statement}\n")
        else:
            op.get_bind().execution_options(no_parameters=True).exec_driver_sql(statement)


def read_script(name: str, dialect: str) -> str:
    """Return the text of a script, with the generated triggers of SQLite."""
    text = files(__package__).joinpath("versions", f"{name}_{dialect}.sql").read_text()
    return text.replace("-- The triggers of own_triggers.py come here", f"{own_triggers()}\n--")


def statements(script: str, dialect: str) -> Iterator[str]:
    """Yield the statements of a script. Each ends with a semicolon at the end of a line, outside of a function's
    body."""
    is_complete = sqlite3.complete_statement if dialect == "sqlite" else _is_complete
    statement = ""
    for line in script.splitlines():
        if not statement and (not line.strip() or line.startswith("--")):
            continue
        statement += f"{line}\n"
        if is_complete(statement):
            yield statement.strip()
            statement = ""
    assert not statement, f"an unfinished statement: {statement}"


def _is_complete(statement: str) -> bool:
    end = "\nEND;" if "BEGIN ATOMIC" in statement else ";"
    return statement.rstrip().endswith(end) and statement.count("$$") % 2 == 0
