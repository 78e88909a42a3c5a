"""The durable engine: DBOS Transact, embedded on SQLite or distributed on PostgreSQL.

Enqueued work is executed by one process, and by another one if that process is killed. It may be executed twice, so it
must take effect once. `actionengine.boundary.remote` and `actionengine.workflows` use it.
"""

from actionengine._lazy import attach

__getattr__, __dir__ = attach(__name__)
