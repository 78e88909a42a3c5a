"""The Alembic environment of actionengine's own migrations, as `upgrade` runs it."""

from alembic import context

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
    context.configure(connection=options["connection"], version_table=VERSION_TABLE, transactional_ddl=False)
    context.run_migrations()
