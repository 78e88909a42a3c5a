"""`ModuleRoots`: where the modules of all tenants lie on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from actionengine.boundary.errors import MissingModuleError
from actionengine.boundary.idempotency.journal import Journal
from actionengine.boundary.idempotency.working_copy import remove_own_tree
from actionengine.boundary.request import ModuleContext
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode

# Names that begin with a dot are those of what lies beside modules.
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}").fullmatch


class ModuleRoots:
    """Modules in folders: `<base>/<id of the tenant>/<id of the module>`.

    With it, a worker says itself where a module lies for it, whatever the machine that asks says. An id of a module is
    1 to 200 letters and digits of ASCII, `_`, `-` and `.`, the first not being `-` or `.`.
    """

    def __init__(self, base: str | os.PathLike[str]) -> None:
        self.base = Path(os.path.abspath(base))

    def context(self, tenant: Tenant, module_id: str) -> ModuleContext:
        """A module that is there. Raises `MissingModuleError` for one that is not, or that can never be."""
        if _SAFE(module_id):
            root = self._root(tenant, module_id)
            if root.is_dir():
                return ModuleContext(id=module_id, root=root, tenant=tenant)
        shown = module_id[:200]
        raise MissingModuleError(f"there is no module {shown!r} of this tenant here", module=shown)

    def create(self, tenant: Tenant, module_id: str) -> ModuleContext:
        """A module, made where it is not there yet.

        Raises `ActionError`: `invalid_input` for an id that none can have, `unavailable` where it cannot be made.
        """
        if not _SAFE(module_id):
            raise ActionError(
                ErrorCode.INVALID_INPUT,
                f"a module's id is 1 to 200 of A-Z, a-z, 0-9, '_', '-' and '.', and does not begin with '-' or '.'; "
                f"{module_id[:200]!r} is none",
                {"module": module_id[:200]},
            )
        root = self._root(tenant, module_id)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ActionError(
                ErrorCode.UNAVAILABLE, f"the module {module_id!r} cannot be made: {reason}", {"module": module_id}
            ) from error
        return ModuleContext(id=module_id, root=root, tenant=tenant)

    def remove(self, tenant: Tenant, module_id: str) -> None:
        """Remove a module with all that is in it, and its journal, so that one that is made under its id later begins
        anew. Of one that is a link, only the link goes. No work may be going on in it. Raises `MissingModuleError` as
        `context` does, and `ActionError`."""
        root = self.context(tenant, module_id).root
        if root.is_symlink():
            remove_own_tree(root)
            return
        # The other way round, a module of which half is gone could have work carried out in it.
        remove_own_tree(Journal(root).folder)
        remove_own_tree(root)

    def _root(self, tenant: Tenant, module_id: str) -> Path:
        return self.base / str(tenant.id) / module_id
