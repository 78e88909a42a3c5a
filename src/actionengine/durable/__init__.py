"""The durable engine: DBOS Transact, embedded on SQLite or distributed on PostgreSQL, as the library uses it.

What is enqueued here is executed by some process, and by another one where that is killed. It may be executed twice, so
that it has to be work which takes effect once.

Module work goes through it in `actionengine.boundary.remote`, workflows in `actionengine.workflows`.
"""

try:
    from actionengine.durable.database import DurableUnavailable
    from actionengine.durable.host import upgrade
except ModuleNotFoundError as error:
    if (error.name or "").startswith("actionengine"):
        raise
    raise ImportError(f"the durable engine needs {error.name}: pip install 'actionengine[workflows]'") from error

__all__ = ["DurableUnavailable", "upgrade"]
