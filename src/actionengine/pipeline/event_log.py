"""The events that an execution emits, until they are written."""

from __future__ import annotations

from uuid_utils import uuid7

from actionengine.context import MAX_ACTOR_ID_LENGTH, Actor
from actionengine.pipeline.action_log import LogRowBuilder, principals_behind
from actionengine.pipeline.stored_actor import StoredActor
from actionengine.storage.rows import EventRow


def _chain_of(actor: Actor | None) -> tuple[tuple[str, ...], bytes | None]:
    if actor is None or actor.on_behalf_of is None:
        return (), None
    return principals_behind(actor), StoredActor.of(actor).model_dump_json().encode()


class EventBuffer(list[EventRow]):
    """The events of an execution and of those that it executed."""

    __slots__ = ()

    def add(self, entry: LogRowBuilder, type: str, subject: str | None, payload: bytes, version: int = 1) -> None:
        """Add an event of the execution that has this entry on the action log."""
        entry.has_emitted = True
        actor, tenant = entry.request.actor, entry.request.tenant
        assert tenant is not None
        self.append(
            EventRow(
                str(uuid7()),
                tenant.id,
                type,
                subject,
                payload,
                entry.action,
                entry.id,
                actor.type if actor else None,
                actor.id[:MAX_ACTOR_ID_LENGTH] if actor else None,
                entry.started_at,
                version,
                *_chain_of(actor),
            )
        )

    def add_default(self, entry: LogRowBuilder, max_bytes: int) -> None:
        """Add the event of a command that emitted none: named after it, with its masked input and output. Where these
        are more than an event may have, it says how many bytes are left out."""
        subject = next(iter(entry.subjects)) if entry.subjects else None
        payload = b'{"input":%b,"output":%b}' % (entry.input or b"null", entry.output or b"null")
        if len(payload) > max_bytes:
            payload = b'{"input":null,"output":null,"omitted_bytes":%d}' % len(payload)
        self.add(entry, entry.action, subject, payload)
