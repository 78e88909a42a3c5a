"""The errors of backends."""

from __future__ import annotations


class StorageError(Exception):
    """A backend could not do its work."""


class StorageUnavailable(StorageError):
    """The backend is out of reach or exhausted: `unavailable`."""


class StorageTimeout(StorageUnavailable):
    """The backend did not answer in time: it need not be asked again."""


class SerializationFailure(StorageError):
    """The transaction lost against another one; running the unit of work again may succeed (SQLSTATE 40001, 40P01)."""
