"""The events that a relay or a projection still needs."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from pydantic_core import from_json
from sqlalchemy import Connection, text

from actionengine.storage.sql.maintenance.work import bound_id, table_name

_CHECKPOINTS = "ae_projections"
"""The collection with the checkpoints of projections (`actionengine.events.projections.views`)."""

MAX_NAMED = 5


class Reader(NamedTuple):
    """A projection of a tenant, and the position of the newest event that it has applied."""

    name: str
    tenant_id: str
    position: int


def readers(connection: Connection, ignored: Collection[str], tenant_id: str | None = None) -> list[Reader]:
    """Return the projections that have a checkpoint in this database, of one tenant or of all open ones."""
    documents, tenants = table_name(connection, "ae_documents"), table_name(connection, "ae_tenants")
    condition = "" if tenant_id is None else " AND d.tenant_id = :tenant"
    values = {} if tenant_id is None else {"tenant": bound_id(connection, tenant_id)}
    rows = connection.execute(
        text(
            f"SELECT d.id, d.tenant_id, CAST(d.data AS text) FROM {documents} d WHERE d.collection = '{_CHECKPOINTS}'"
            f" AND NOT EXISTS (SELECT 1 FROM {tenants} t WHERE t.tenant_id = d.tenant_id AND t.deleted_at IS NOT NULL)"
            f"{condition} ORDER BY d.id, d.tenant_id"
        ),
        values,
    )
    found = []
    for id, tenant, data in rows:
        checkpoint = from_json(data)
        name, _, _ = id.partition("/")
        # A rebuild's checkpoint counts while its generation is being filled.
        if name not in ignored and checkpoint["phase"] in {"live", "filling"}:
            found.append(Reader(name, str(tenant), checkpoint["position"]))
    return found


def unread_events(connection: Connection, start: int, end: int, ignored: Collection[str]) -> list[str]:
    """Return a text for each queue that has not delivered events at the positions from `start` to before `end`, and for
    each projection that has not read them."""
    needed = [
        f"the queue {queue} has {number} that are not delivered (`actionengine relay status`, and redrive or skip dead "
        "letters)"
        for queue, number in connection.execute(
            text(
                f"SELECT queue, count(*) FROM {table_name(connection, 'ae_outbox')}"
                " WHERE NOT skipped AND position >= :start AND position < :end GROUP BY queue ORDER BY queue"
            ),
            {"start": start, "end": end},
        )
    ]
    behind: dict[str, int] = {}
    events = table_name(connection, "ae_events")
    for name, tenant, position in readers(connection, ignored):
        if (
            position < end
            and connection.execute(
                text(
                    f"SELECT EXISTS (SELECT 1 FROM {events}"
                    " WHERE tenant_id = :tenant AND position > :after AND position >= :start AND position < :end)"
                ),
                {"tenant": bound_id(connection, tenant), "after": position, "start": start, "end": end},
            ).scalar()
        ):
            behind[name] = behind.get(name, 0) + 1
    needed += [
        f"the projection {name} has not read those of {number} tenants (catch up, or give --ignore-projection {name})"
        for name, number in list(behind.items())[:MAX_NAMED]
    ]
    return needed
