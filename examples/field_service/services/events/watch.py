"""Check that an actor may watch the events, before a host opens a feed."""

from pydantic import BaseModel, Field
from returns.result import Result, Success

from actionengine import ActionError, create_action


class Watch(BaseModel):
    """The start of a feed: a position, and types of events (None for all)."""

    after: int = Field(default=0, ge=0, lt=2**63, description="The position after which the events begin.")
    types: list[str] | None = Field(default=None, description="Only events of these types; all by default.")


def _handler(data: Watch) -> Result[Watch, ActionError]:
    return Success(data)


watch_events_action = create_action(
    name="watch",
    title="Watch the events",
    description="Watch the live events",
    handler=_handler,
    validation=Watch,
    permission="events.watch",
    read_only=True,
    examples=[{"types": ["jobs.completed"]}],
)
