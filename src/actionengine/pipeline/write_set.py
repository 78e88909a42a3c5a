"""The write set of an execution: the net effect of its writes and events, as people see it and as it is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json, to_json

from actionengine.context import Tenant
from actionengine.errors import conflict
from actionengine.pipeline.capture import Capture
from actionengine.pipeline.secrets import Secrets
from actionengine.storage.captured import CapturedWrite, WriteKind
from actionengine.storage.rows import EventRow

T = TypeVar("T")
Names = frozenset[str]

MAX_SHOWN_WRITES = 200
"""Writes, and events, that a preview shows at most. All of them are compared."""

MAX_SHOWN_BYTES = 256 * 1024
"""Bytes of JSON of the writes, and of the events, that a preview shows at most."""


_MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Write:
    """One write of a preview: what it does to a document or a row, masked.

    `target` is the collection or the table, `before` and `after` the whole document or row; None where there is none.
    The kind `"statement"` is SQL that is not captured row by row: it has its text and its parameters, and `before` and
    `after` are lists of the rows that it changes, where these are known.
    """

    kind: Annotated[WriteKind, Field(description="The kind of the write.")]
    target: Annotated[str, Field(description="The collection or the table.")]
    id: Annotated[str | None, Field(description="The id of the document or the row.")]
    before: Annotated[Any, Field(description="The whole document or row before; null where there is none.")] = None
    after: Annotated[Any, Field(description="The whole document or row after; null where there is none.")] = None
    statement: Annotated[str | None, Field(description="The text of an SQL statement.")] = None
    parameters: Annotated[Any, Field(description="The parameters of the statement.")] = None


@dataclass(frozen=True, slots=True)
class PreviewedEvent:
    """An event that an execution would emit, masked."""

    type: Annotated[str, Field(description="The type of the event.")]
    subject: Annotated[str | None, Field(description="The thing that it is about, such as jobs/17.")]
    payload: Annotated[Any, Field(description="The payload of the event.")]


class WriteSet(NamedTuple):
    """The net effect of an execution: its writes and events, masked and bounded, and a digest over all of them.

    `parts` has a label and a digest for each write and event, to name those that differ from another write set.
    """

    writes: tuple[Write, ...]
    events: tuple[PreviewedEvent, ...]
    omitted: int
    digest: str
    parts: tuple[tuple[str, str], ...]


class Effects(BaseModel):
    """The write set that an approval binds, in its stored form: an execution with this time and seed must equal it."""

    model_config = ConfigDict(frozen=True)

    now: datetime
    seed: str
    digest: str
    parts: tuple[tuple[str, str], ...]
    writes: tuple[Write, ...] = ()
    events: tuple[PreviewedEvent, ...] = ()
    omitted: int = 0

    @classmethod
    def of(cls, capture: Capture, writes: WriteSet) -> Self:
        """Return the effects of an execution with this capture."""
        return cls(
            now=capture.now,
            seed=capture.seed,
            digest=writes.digest,
            parts=writes.parts[:MAX_SHOWN_WRITES],
            writes=writes.writes,
            events=writes.events,
            omitted=writes.omitted,
        )

    def check_equal(self, name: str, writes: WriteSet) -> None:
        """Raise `ActionError(conflict)` for an execution of the action `name` with another write set."""
        if writes.digest == self.digest:
            return
        labels = differences(self.parts, writes.parts[:MAX_SHOWN_WRITES])[:_MAX_NAMED]
        named = ", ".join(labels) or "more than its first writes"
        raise conflict(
            f"{name} would not do what its preview showed, so that nothing was written: {named} differ", differs=labels
        )


def write_set(capture: Capture, events: Sequence[EventRow], secrets: Secrets, tenant: Tenant) -> WriteSet:
    """Return the write set of an execution with these events. `secrets` and `tenant` are those of the execution."""
    writes = net_effect(capture.journal)
    names = [each.names for each in capture.secrets]
    salt = capture.seed.encode() + b"/"
    parts = [(_label(write), _digest(salt, _compared(write))) for write in writes]
    parts += [(f"event {event.type}", _digest(salt, _compared_event(event))) for event in events]
    shown = _shown(list(_bounded(writes, _write_bytes)), secrets, names, tenant)
    shown_events = [_shown_event(event, secrets) for event in _bounded(events, lambda event: len(event.payload))]
    return WriteSet(
        writes=tuple(shown),
        events=tuple(shown_events),
        omitted=len(writes) + len(events) - len(shown) - len(shown_events),
        digest=_digest(salt, to_json(parts)),
        parts=tuple((secrets.scrub_text(label), digest) for label, digest in parts),
    )


def net_effect(journal: Iterable[CapturedWrite]) -> list[CapturedWrite]:
    """Return one write for each document and row, with its first state and its last one, and all statements.

    A row that was added and removed again is left out. The order does not depend on that of the rows' writes.
    """
    rows: dict[tuple[str, str | None, tuple[Any, ...]], CapturedWrite] = {}
    statements: list[CapturedWrite] = []
    for write in journal:
        if write.kind == "statement":
            statements.append(write)
            continue
        key = write.target, write.id, write.key
        first = rows.get(key)
        if first is not None:
            generated, made = {*first.generated, *write.generated}, {**dict(first.made), **dict(write.made)}
            write = write._replace(before=first.before, generated=tuple(generated), made=tuple(made.items()))
        rows[key] = write
    merged = [_renamed(write) for write in rows.values() if write.before is not None or write.after is not None]
    return [*sorted(merged, key=lambda write: (write.target, write.made_id or write.id or "")), *statements]


def differences(parts: Sequence[tuple[str, str]], others: Sequence[tuple[str, str]]) -> list[str]:
    """Return the labels of the writes and events that only one of two write sets has."""
    one, other = set(parts), set(others)
    return sorted({label for label, _ in one ^ other})


def _renamed(write: CapturedWrite) -> CapturedWrite:
    kind: WriteKind = "insert" if write.before is None else "delete" if write.after is None else "update"
    return write if write.kind == kind else write._replace(kind=kind)


def _label(write: CapturedWrite) -> str:
    return f"{write.target}/{write.made_id or write.id or '*'}"


def _compared(write: CapturedWrite) -> bytes:
    """Return all that two runs must agree on."""
    if not write.generated and not write.made:
        head = to_json([write.kind, write.target, write.id, write.statement])
        return b"%b\0%b\0%b\0%b" % (head, write.before or b"", write.after or b"", write.parameters or b"")
    before, after = _shared(write.before, write), _shared(write.after, write)
    id = write.id if write.made_id is None else write.made_id
    return to_json([write.kind, write.target, id, before, after, write.statement, write.parameters])


def _compared_event(event: EventRow) -> bytes:
    return to_json([event.type, event.version, event.subject, event.action]) + event.payload


def _shared(encoded: bytes | None, write: CapturedWrite) -> Any:
    """Return a row, or rows, with the values that two runs share."""
    value = from_json(encoded) if encoded is not None else None
    if isinstance(value, list):
        return [_shared_row(row, write) for row in value]
    return _shared_row(value, write) if isinstance(value, dict) else value


def _shared_row(row: dict[str, Any], write: CapturedWrite) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in write.generated}
    return kept | {name: value for name, value in write.made if name in row}


def _shown(writes: Sequence[CapturedWrite], secrets: Secrets, names: Sequence[Names], tenant: Tenant) -> list[Write]:
    """Return writes as people see them. They are masked in one piece."""
    documents = [each or b"null" for write in writes for each in (write.before, write.after, write.parameters)]
    encoded = b"[%b]" % b",".join(documents)
    if secrets.values or any(names):
        encoded = secrets.scrub_json(secrets.mask(encoded, *names))
    slug = to_json(tenant.slug)
    for id in (str(tenant.id), tenant.id.hex):
        # Rows of the host's tables name their tenant. Outside, a tenant is its slug.
        encoded = encoded.replace(b'"%b"' % id.encode(), slug)
    values = from_json(encoded)
    return [
        Write(
            write.kind,
            secrets.scrub_text(write.target),
            write.id and secrets.scrub_text(write.id),
            before,
            after,
            write.statement and secrets.scrub_text(write.statement),
            parameters,
        )
        for write, before, after, parameters in zip(writes, values[::3], values[1::3], values[2::3], strict=True)
    ]


def _shown_event(event: EventRow, secrets: Secrets) -> PreviewedEvent:
    (masked,) = secrets.scrub_events([event])
    return PreviewedEvent(masked.type, masked.subject, from_json(masked.payload))


def _bounded(items: Sequence[T], size: Callable[[T], int]) -> Iterable[T]:
    left = MAX_SHOWN_BYTES
    for item in items[:MAX_SHOWN_WRITES]:
        left -= size(item)
        if left < 0:
            return
        yield item


def _write_bytes(write: CapturedWrite) -> int:
    documents = len(write.before or b"") + len(write.after or b"") + len(write.parameters or b"")
    return documents + len(write.statement or "")


def _digest(salt: bytes, encoded: bytes) -> str:
    return sha256(salt + encoded).hexdigest()
