"""Read the board of the office: the jobs of each day."""

from datetime import date

from pydantic import BaseModel, Field
from returns.result import Result, Success

from actionengine import ActionContext, ActionError, create_action
from examples.field_service.board import Card


class BoardReading(BaseModel):
    day: date | None = Field(default=None, description="Only jobs of this day; all by default.")


def _handler(data: BoardReading, ctx: ActionContext) -> Result[list[Card], ActionError]:
    wanted = {"day": data.day.isoformat()} if data.day else None
    cards = ctx.resources["views"]["board"].read(ctx).list(wanted, limit=1000)
    return Success([Card.model_validate(card.data) for card in cards])


board_action = create_action(
    name="board",
    title="Show the board",
    description="List the scheduled jobs, of one day or all",
    handler=_handler,
    validation=BoardReading,
    permission="jobs.read",
    read_only=True,
    examples=[{"day": "2030-01-31"}],
)
