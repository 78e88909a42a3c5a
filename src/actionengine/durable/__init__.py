"""The durable engine: DBOS Transact, embedded on SQLite or distributed on PostgreSQL, as the library uses it.

What is enqueued here is executed by some process, and by another one where that is killed. It may be executed twice, so
that it has to be work which takes effect once.
"""
