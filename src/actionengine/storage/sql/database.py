"""The database of a storage: its connections, and its values and errors as the port has them.

Each backend has one class for it. The storage, its units of work and its outbox share the object.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError

from actionengine.concurrency.run_sync import Mode
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
from actionengine.storage.errors import StorageError, StorageUnavailable
from actionengine.storage.sql.bridge import run
from actionengine.storage.sql.declared_protection import DeclaredProtection
from actionengine.storage.sql.pools import Pools

T = TypeVar("T")


class Database(ABC):
    """A database of one backend, for both modes. It opens a connection when one is first needed."""

    def __init__(self, pools: Pools, session_options: Mapping[str, Any] | None, protection: DeclaredProtection) -> None:
        self.pools = pools
        self.session_options = dict(session_options or {})
        self.protection = protection
        self.is_checked = False
        self._access_versions: dict[UUID, int] = {}
        self._access_lock = threading.Lock()
        _ALL.add(self)

    def drop_caches(self) -> None:
        """Start anew in a forked process: the connections and locks belong to the parent."""
        self._access_lock = threading.Lock()
        self.pools.forget()

    def access_version(self, tenant_id: UUID) -> int:
        """Return how many commits of this process have written to the tenant's roles."""
        return self._access_versions.get(tenant_id, 0)

    def access_changed(self, tenant_id: UUID) -> None:
        """Count such a commit."""
        with self._access_lock:
            self._access_versions[tenant_id] = self._access_versions.get(tenant_id, 0) + 1

    async def run(self, mode: Mode, function: Callable[..., T], *arguments: Any) -> T:
        """Run a plain function where it can wait for the driver, and translate its errors."""
        try:
            return await run(mode, function, *arguments)
        except (ActionError, ConfigurationError, StorageError):
            raise
        except Exception as error:
            translated = self.translate_error(error)
            if translated is error:
                raise
            raise translated from error

    def translate_error(self, error: Exception) -> Exception:
        """Return the port's error for one of the driver or of SQLAlchemy; any other error unchanged."""
        if isinstance(error, ConfigurationError):
            return StorageError(str(error))
        if isinstance(error, PoolTimeout):
            return StorageUnavailable("no connection became free in time: the pool is exhausted")
        if isinstance(error, StaleDataError):
            return ActionError(ErrorCode.CONFLICT, "a row has changed since it was read: read it again")
        original = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(original, Exception):
            known = self._to_storage_error(original)
            if known is not None:
                return known
        if isinstance(error, InvalidRequestError) and "greenlet" in str(error):
            return StorageError(f"the session was used in the wrong mode: {error}")
        return error

    @abstractmethod
    def _to_storage_error(self, error: Exception) -> Exception | None:
        """Return the port's error for one of the driver; None for an error of the handler's own statement."""

    @abstractmethod
    def bind_id(self, id: UUID) -> Any:
        """Return a tenant's id as the driver takes it."""

    @abstractmethod
    def bind_time(self, time: datetime) -> Any:
        """Return a time as the driver takes it."""

    @abstractmethod
    def load_time(self, time: Any) -> datetime:
        """Return a time, in UTC, that the driver has read."""

    @abstractmethod
    def check(self, mode: Mode) -> None:
        """Make the database ready for use. Raise `ConfigurationError` if it is not, with the remedy."""


_ALL: weakref.WeakSet[Database] = weakref.WeakSet()


def _drop_all_caches() -> None:
    for database in list(_ALL):
        database.drop_caches()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all_caches)
