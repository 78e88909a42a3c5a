"""The durable engine: DBOS Transact, embedded on SQLite or distributed on PostgreSQL.

Enqueued work is executed by one process, and by another one if that process is killed. It may be executed twice, so it
must take effect once. `actionengine.boundary.remote` and `actionengine.workflows` use it.
"""

try:
    from actionengine.durable.database import DurableUnavailable
    from actionengine.durable.host import upgrade
except ModuleNotFoundError as error:
    if (error.name or "").startswith("actionengine"):
        raise
    raise ImportError(f"the durable engine needs {error.name}: pip install 'actionengine[workflows]'") from error

__all__ = ["DurableUnavailable", "upgrade"]
