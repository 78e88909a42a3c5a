"""Notes on jobs. They need no table: they are documents, in the same transaction."""

from actionengine import ActionContext, Record
from examples.field_service.db.schema import Note
from examples.field_service.db.tables import JobRow


def add_note(ctx: ActionContext, job: JobRow, text: str) -> Note:
    by = f"{ctx.actor.type}:{ctx.actor.id}" if ctx.actor else ""
    return _note(ctx.records("notes").insert({"job_id": job.id, "text": text, "by": by}))


def notes_on(ctx: ActionContext, job: JobRow) -> list[Note]:
    return [_note(record) for record in ctx.records("notes").list({"job_id": job.id})]


def _note(record: Record) -> Note:
    return Note(id=record.id, version=record.version, **record.data)
