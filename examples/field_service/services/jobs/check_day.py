"""A before hook: no work on Sundays."""

from datetime import date

from pydantic import BaseModel, ConfigDict, Field
from returns.result import Failure, Result, Success

from actionengine import ActionError, ErrorCode, create_action

_SUNDAY = 6


class WorkingDay(BaseModel):
    """A payload with a day; other fields pass unchanged."""

    model_config = ConfigDict(extra="allow")

    day: date = Field(description="The day to check.")


def _handler(data: WorkingDay) -> Result[WorkingDay, ActionError]:
    if data.day.weekday() == _SUNDAY:
        return Failure(ActionError(ErrorCode.UNPROCESSABLE, f"{data.day} is a Sunday", {"day": data.day.isoformat()}))
    return Success(data)


check_day_action = create_action(
    name="check_day",
    title="Check a working day",
    description="Check that a day is a working day",
    handler=_handler,
    validation=WorkingDay,
    read_only=True,
    examples=[{"day": "2030-01-31"}],
)
