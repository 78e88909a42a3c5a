"""The Alembic environment of actionengine's own migrations, as `upgrade` runs it."""

from typing import Any

from alembic import context
from alembic.migration import MigrationContext

from actionengine.storage.sql.migrations import VERSION_TABLE, schema_of

options = context.config.attributes
if context.is_offline_mode():
    context.configure(
        dialect_name=options["dialect"],
        version_table=VERSION_TABLE,
        version_table_schema=schema_of(options["dialect"]),
        output_buffer=options["output"],
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    connection = options["connection"]
    schema = schema_of(connection.dialect.name)
    where: dict[str, Any] = {"version_table": VERSION_TABLE, "version_table_schema": schema}
    found = MigrationContext.configure(connection, opts=where)
    if options["found"] is not None and found.get_current_revision() is None:
        # So far, a host's own environment has run the migrations.
        found.stamp(context.script, options["found"])
    context.configure(connection=connection, transactional_ddl=False, **where)
    context.run_migrations()
