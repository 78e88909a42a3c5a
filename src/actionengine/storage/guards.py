"""The ports of guards, which check a handler's writes to documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from actionengine.context import Tenant
from actionengine.storage.port import UnitOfWork


class DocumentValidator(Protocol):
    """The rules of a collection. The methods that check raise `ActionError`: `invalid_input` for an invalid document,
    `conflict` for a new one in a collection that accepts none."""

    def check_new(self, data: Mapping[str, Any]) -> None:
        """Check a whole new document."""

    def fits(self, data: Mapping[str, Any]) -> bool:
        """Return whether a whole document is valid."""

    def check_change(self, data: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Check the fields of a document that differ from the stored one that it replaces."""


class DocumentGuard(Protocol):
    """A guard that is asked before a handler writes documents."""

    async def check(self, unit_of_work: UnitOfWork, tenant: Tenant, collection: str) -> DocumentValidator | None:
        """Return the validator of a collection, if it has one. Raise `ActionError` for a collection that accepts no
        documents."""


class RecordGuard(Protocol):
    """A guard that is asked before a handler changes or deletes a document."""

    async def check(self, unit_of_work: UnitOfWork, collection: str, id: str, holder: str | None) -> None:
        """Raise `ActionError(conflict)` when another holder than `holder` has locked the document."""
