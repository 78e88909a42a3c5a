"""Rows as the pipeline writes them, for tests of the port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils import uuid7

from actionengine.context import Tenant
from actionengine.storage.rows import Claim, EventRow, IdempotentResult, LogRow

START = datetime(2024, 2, 29, 23, 59, 58, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)


def id_at(time: datetime, number: int = 0) -> str:
    """Return the id of a row that began at a time; ids of one time sort by their number."""
    return str(UUID(int=(int(time.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | number))


def log_row(tenant: Tenant, **fields: Any) -> LogRow:
    """Return a row of the action log in which all fields are set, with `fields` replaced."""
    row = LogRow(
        id=str(uuid7()),
        parent_id=None,
        tenant_id=tenant.id,
        actor_type="ai",
        actor_id="agent",
        approved_by="human:manager",
        approval_id=str(uuid7()),
        source="mcp",
        reason="the customer “Ünal & Söhne” asked",
        action="notes.put",
        subjects=("notes/1", "notes/2"),
        input=b'{"text": "gr\xc3\xbc\xc3\x9fe"}',
        output=b'[1,2.5,null,"\xf0\x9f\x98\x80"]',
        outcome="succeeded",
        error=b'{"code":"conflict","message":"","details":{}}',
        decision="role clerk allows notes.*",
        started_at=START,
        latency=0.012345,
        idempotency_key="key",
        request_id="request",
        model="model",
        prompt_version="v7",
        input_tokens=1200,
        output_tokens=34,
        cost_usd=0.0625,
        on_behalf_of=("ai:lead", 'human:Ünal "Söhne"'),
    )
    return row._replace(**fields)


def bare_log_row(tenant: Tenant) -> LogRow:
    """Return a row of the action log without its optional fields."""
    nothing: dict[str, Any] = dict.fromkeys(LogRow._fields)
    required: dict[str, Any] = {
        "id": str(uuid7()),
        "tenant_id": tenant.id,
        "source": "http",
        "action": "notes.put",
        "subjects": (),
        "outcome": "denied",
        "started_at": START,
        "latency": 0.0,
        "on_behalf_of": (),
    }
    return LogRow(**{**nothing, **required})


def event_row(tenant: Tenant, **fields: Any) -> EventRow:
    """Return an event in which all fields are set, with `fields` replaced."""
    row = EventRow(
        id=str(uuid7()),
        tenant_id=tenant.id,
        type="note.put",
        subject="notes/1",
        payload=b'{"text": "gr\xc3\xbc\xc3\x9fe"}',
        action="notes.put",
        action_id=str(uuid7()),
        actor_type="human",
        actor_id="clerk",
        occurred_at=START,
        on_behalf_of=("ai:lead", 'human:Ünal "Söhne"'),
    )
    return row._replace(**fields)


def result(
    claim: Claim, value: bytes | None = b'{"id":1}', *, expired: bool = False, **fields: Any
) -> IdempotentResult:
    """Return a stored result of a key."""
    now = datetime.now(UTC)
    return IdempotentResult(claim, value, None, now - HOUR if expired else now + HOUR)._replace(**fields)
