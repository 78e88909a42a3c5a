"""The base class of the parts of the suite, with their fixtures, and assertions on errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from returns.result import Failure, Result, Success

from actionengine.errors import ActionError, ErrorCode
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.port import Storage
from actionengine.testing.backend import AsyncBackend, Backend, SyncBackend
from actionengine.testing.sample import SampleHarness


class Conformance:
    """The base of each part: a subclass defines the fixture `storage`. Tests use `backend`, or `harness`, or
    `async_backend` where only an event loop makes sense."""

    @pytest.fixture
    def storage(self) -> Storage:
        """The storage under test."""
        raise NotImplementedError(f"{type(self).__name__} must define the fixture `storage`")

    @pytest.fixture(params=[SyncBackend, AsyncBackend], ids=["sync", "async"])
    def backend(self, request: pytest.FixtureRequest, storage: Storage) -> Iterator[Backend]:
        """The storage in both modes."""
        backend: Backend = request.param(storage)
        yield backend
        backend.close()

    @pytest.fixture
    def harness(self, backend: Backend) -> SampleHarness:
        """The sample application on the storage."""
        return SampleHarness(backend)

    @pytest.fixture
    def async_backend(self, storage: Storage) -> Iterator[AsyncBackend]:
        """The storage in async mode."""
        backend = AsyncBackend(storage)
        yield backend
        backend.close()


@contextmanager
def raises_action_error(*codes: ErrorCode) -> Iterator[None]:
    """Expect an `ActionError` with one of these codes."""
    with pytest.raises(ActionError) as caught:
        yield
    assert caught.value.code in codes, caught.value


def is_conflict(error: Exception) -> bool:
    """Return whether the error reports a conflict with another unit of work."""
    if isinstance(error, ActionError):
        return error.code is ErrorCode.CONFLICT
    return isinstance(error, SerializationFailure)


def is_not_found(error: Exception) -> bool:
    """Return whether the error reports a document that another unit of work has deleted."""
    return isinstance(error, ActionError) and error.code is ErrorCode.NOT_FOUND


def value_of(result: Result[Any, ActionError]) -> Any:
    """Return the value of a result, which must be a success."""
    assert isinstance(result, Success), result
    return result.unwrap()


def error_of(result: Result[Any, ActionError], code: ErrorCode) -> ActionError:
    """Return the error of a result, which must be a failure with this code."""
    assert isinstance(result, Failure), result
    error: ActionError = result.failure()
    assert error.code is code, error
    return error
