"""Documents: what else is in a collection, and in others, should not matter."""

from __future__ import annotations

from benchmarks.growth.backends import Backend
from benchmarks.growth.operation import Operation


def fill(backend: Backend) -> None:
    """A long collection of a tenant, and one of another tenant."""
    backend.do("notes", "put", idempotency_key="documents")
    backend.do("roles", "define", {"name": "first", "allow": [{"permission": "notes.*"}]})
    row = {**backend.sample("ae_documents", collection="ae_roles"), "data": '{"text": "hello"}'}
    for tenant in (backend.tenant, backend.other_tenant):
        own = {**row, "tenant_id": str(tenant.id)}
        backend.clone("ae_documents", {**own, "collection": "notes"}, lambda number: {"id": f"n{number:06}"})
        backend.clone("ae_documents", {**own, "collection": "others"}, lambda number: {"id": f"o{number:06}"})


OPERATIONS = [
    Operation("records.insert, update, delete", lambda backend: backend.do("notes", "put")),
    Operation("records.get", lambda backend: backend.do("notes", "get", {"id": "n000100"})),
    Operation("records.list, a page", lambda backend: backend.do("notes", "list")),
]
