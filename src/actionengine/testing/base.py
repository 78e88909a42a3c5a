"""What the parts of the suite share: the fixtures, and how a test says what it expects of an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.port import Storage
from actionengine.testing.worlds import AsyncBackend, Backend, SyncBackend


class Conformance:
    """The fixtures: `storage`, which a backend's test class gives, and `world`, in which a test runs; `async_world` is
    for what has no meaning without an event loop."""

    @pytest.fixture
    def storage(self) -> Storage:
        """The storage under test."""
        raise NotImplementedError(f"{type(self).__name__} has to define the fixture `storage`")

    @pytest.fixture(params=[SyncBackend, AsyncBackend], ids=["sync", "async"])
    def backend(self, request: pytest.FixtureRequest, storage: Storage) -> Iterator[Backend]:
        """The storage, without an event loop and under one."""
        backend: Backend = request.param(storage)
        yield backend
        backend.close()

    @pytest.fixture
    def async_backend(self, storage: Storage) -> Iterator[AsyncBackend]:
        """The storage under an event loop."""
        backend = AsyncBackend(storage)
        yield backend
        backend.close()


@contextmanager
def raises_action_error(*codes: ErrorCode) -> Iterator[None]:
    """Expects an `ActionError` of one of these codes."""
    with pytest.raises(ActionError) as caught:
        yield
    assert caught.value.code in codes, caught.value


def is_conflict(error: Exception) -> bool:
    """Return whether this is how a unit of work loses against another one."""
    if isinstance(error, ActionError):
        return error.code is ErrorCode.CONFLICT
    return isinstance(error, SerializationFailure)


def is_not_found(error: Exception) -> bool:
    """Return whether this is how a unit of work finds that another one has deleted the document."""
    return isinstance(error, ActionError) and error.code is ErrorCode.NOT_FOUND


def value_of(result: Result[Any, ActionError]) -> Any:
    """The value of an execution that has to have succeeded."""
    assert isinstance(result, Success), result
    return result.unwrap()


def error_of(result: Result[Any, ActionError], code: ErrorCode) -> ActionError:
    """The error of an execution that has to have failed with this code."""
    assert isinstance(result, Failure), result
    error: ActionError = result.failure()
    assert error.code is code, error
    return error
