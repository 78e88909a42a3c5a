"""The schema's migrations: packaged Alembic revisions, and the functions that run them.

A host with an Alembic environment of its own can include them there: `VERSIONS` is the folder for its
`version_locations`, and `include_name` keeps its autogenerate from touching what is not its own.
"""

from __future__ import annotations

import io
from importlib.resources import files
from typing import Any

from sqlalchemy import Connection, inspect

HEAD = 1
"""The version of the schema that this library works with."""

HEAD_REVISION = "ae_0001"
"""The same as an Alembic revision."""

VERSION_TABLE = "ae_migrations"
"""Where Alembic keeps the revision, unless a host's own environment runs the migrations."""

VERSIONS = str(files(__name__).joinpath("versions"))
"""The folder of the revisions."""


def schema_version(connection: Connection) -> int | None:
    """The version of the schema in a database; None where there is none."""
    if not inspect(connection).has_table("ae_schema"):
        return None
    version: int | None = connection.exec_driver_sql("SELECT max(version) FROM ae_schema").scalar()
    return version


def upgrade(connection: Connection) -> None:
    """Bring the schema to `HEAD`, in the connection's transaction, which the caller commits.

    Where it is there already, nothing happens. The role has to be the one that owns the tables.
    """
    if schema_version(connection) == HEAD:
        return
    _run("upgrade", connection=connection)


def upgrade_sql(dialect: str = "postgresql") -> str:
    """The same as a SQL script, for an empty database."""
    output = io.StringIO()
    _run("upgrade", dialect=dialect, output=output)
    return output.getvalue()


def include_name(name: str | None, type: str, parent_names: Any = None) -> bool:
    """For `context.configure(include_name=…)` of a host: whether autogenerate should look at it."""
    return not (type == "table" and name is not None and name.startswith("ae_"))


def _run(command: str, **attributes: Any) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(files(__name__)))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    script = ScriptDirectory.from_config(config)

    def steps(revision: Any, context: Any) -> Any:
        return script._upgrade_revs("heads", revision)

    with EnvironmentContext(config, script, fn=steps, as_sql="output" in attributes):
        script.run_env()
