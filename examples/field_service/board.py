"""The job board: a projection that is derived only from events, and can be rebuilt."""

from datetime import date

from pydantic import BaseModel

from actionengine import Engine, Event, Projection, Record, Records
from actionengine.events.projections.views import View
from examples.field_service.db.schema import JobStatus
from examples.field_service.events import job_completed, job_scheduled, payment_captured


class Card(BaseModel):
    """A job on the board."""

    job_id: str
    title: str
    day: date
    status: JobStatus


def create_board(engine: Engine) -> Projection:
    """Return the projection of the boards. Actions read it; a background process runs it."""
    types = [declared.type for declared in (job_scheduled, job_completed, payment_captured)]
    return Projection(engine, name="board", apply=_apply, types=types)


def _apply(event: Event, view: View) -> None:
    cards = view.records()
    if event.type == job_scheduled.type:
        scheduled = event.read(job_scheduled)
        card = Card(job_id=scheduled.job_id, title=scheduled.title, day=scheduled.day, status="scheduled")
        _put(cards, card, cards.get(card.job_id))
    elif event.type == job_completed.type:
        _move(cards, event.read(job_completed).id, "completed")
    elif event.type == payment_captured.type:
        _move(cards, event.read(payment_captured).job_id, "paid")


def _move(cards: Records, job_id: str, status: JobStatus) -> None:
    known = cards.get(job_id)
    if known is not None:
        _put(cards, Card.model_validate({**known.data, "status": status}), known)


def _put(cards: Records, card: Card, known: Record | None) -> None:
    document = card.model_dump(mode="json")
    if known is None:
        cards.insert(document, id=card.job_id)
    else:
        cards.update(card.job_id, document, known.version)
