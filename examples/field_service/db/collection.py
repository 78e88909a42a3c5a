"""What the models share: a collection of one type of document, where every call gives a `Result`."""

from typing import Any, Generic, TypeVar

from returns.result import Failure, Result, Success

from actionengine import ActionContext, ActionError, ActionException, ErrorCode, Record
from examples.field_service.db.schema import Stored

T = TypeVar("T", bound=Stored)


class Collection(Generic[T]):
    """The documents of one type."""

    def __init__(self, name: str, type: type[T], noun: str) -> None:
        self._name = name
        self._type = type
        self._noun = noun

    def insert(self, ctx: ActionContext, **fields: Any) -> Result[T, ActionError]:
        return Success(self._typed(ctx.records(self._name).insert(fields)))

    def get(self, ctx: ActionContext, id: str) -> Result[T, ActionError]:
        record = ctx.records(self._name).get(id)
        if record is None:
            return Failure(ActionError(ErrorCode.NOT_FOUND, f"there is no {self._noun} {id!r}"))
        return Success(self._typed(record))

    def list(self, ctx: ActionContext, after: str | None = None, **filter: Any) -> Result[list[T], ActionError]:
        return Success([self._typed(record) for record in ctx.records(self._name).list(filter, after=after)])

    def update(self, ctx: ActionContext, current: T, **changes: Any) -> Result[T, ActionError]:
        """Change a document that is as it was read; otherwise `conflict`."""
        fields = current.model_copy(update=changes).model_dump(mode="json", exclude={"id", "version"})
        try:
            return Success(self._typed(ctx.records(self._name).update(current.id, fields, current.version)))
        except ActionException as conflict:
            return Failure(conflict.error)

    def _typed(self, record: Record) -> T:
        return self._type(id=record.id, version=record.version, **record.data)
