"""The errors of backends."""

from __future__ import annotations


class StorageError(Exception):
    """A backend could not do its work."""


class StorageUnavailable(StorageError):
    """The backend is out of reach or exhausted: `unavailable`."""


class StorageTimeout(StorageUnavailable):
    """The backend did not answer in time. Do not ask again within the same execution."""


class SerializationFailure(StorageError):
    """The transaction lost against another one: run the unit of work again (SQLSTATE 40001, 40P01)."""
