"""The Alembic environment of actionengine's own migrations, as `upgrade` runs it."""

from alembic import context
from alembic.migration import MigrationContext

from actionengine.storage.sql.migrations import VERSION_TABLE

options = context.config.attributes
if context.is_offline_mode():
    context.configure(
        dialect_name=options["dialect"],
        version_table=VERSION_TABLE,
        output_buffer=options["output"],
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    connection = options["connection"]
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    if options["found"] is not None and found.get_current_revision() is None:
        # A host's own environment has run the migrations so far.
        found.stamp(context.script, options["found"])
    context.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=False)
    context.run_migrations()
