"""The ports of guards: they check what a handler writes to its documents before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from actionengine.context import Tenant
from actionengine.storage.port import UnitOfWork


class DocumentValidator(Protocol):
    """What a collection takes. The methods that check raise `ActionError`: `invalid_input` for a document that does
    not fit, `conflict` for a new one where the collection takes none."""

    def check_new(self, data: Mapping[str, Any]) -> None:
        """Check all of a new document."""

    def fits(self, data: Mapping[str, Any]) -> bool:
        """Return whether all of a document is what the collection takes."""

    def check_change(self, data: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Check the fields of a document that differ from those of the stored one that it replaces."""


class DocumentGuard(Protocol):
    """What is asked before a handler's documents are written."""

    async def check(self, unit_of_work: UnitOfWork, tenant: Tenant, collection: str) -> DocumentValidator | None:
        """What checks the documents of a collection, if anything does. Raises `ActionError` for one that takes
        none."""


class RecordGuard(Protocol):
    """What is asked before a handler changes or deletes a document."""

    async def check(self, unit_of_work: UnitOfWork, collection: str, id: str, holder: str | None) -> None:
        """Raises `ActionError(conflict)` where somebody else than `holder` has locked the document."""
