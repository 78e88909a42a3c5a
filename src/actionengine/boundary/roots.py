"""`ModuleRoots`: the folders of the modules of all tenants on this machine."""

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

# Names that begin with a dot are the journals beside the modules.
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}").fullmatch


class ModuleRoots:
    """Modules in folders: `<base>/<id of the tenant>/<id of the module>`.

    A worker finds modules by it, and ignores the paths in requests. A module's id has 1 to 200 ASCII letters, digits,
    `_`, `-` and `.`, and does not begin with `-` or `.`.
    """

    def __init__(self, base: str | os.PathLike[str]) -> None:
        self.base = Path(os.path.abspath(base))

    def context(self, tenant: Tenant, module_id: str) -> ModuleContext:
        """Return a module. Raises `MissingModuleError` if it does not exist, or its id is invalid."""
        if _SAFE(module_id):
            root = self._root(tenant, module_id)
            if root.is_dir():
                return ModuleContext(id=module_id, root=root, tenant=tenant)
        shown = module_id[:200]
        raise MissingModuleError(f"this tenant has no module {shown!r} here", module=shown)

    def create(self, tenant: Tenant, module_id: str) -> ModuleContext:
        """Return a module, after creating it if it does not exist.

        Raises `ActionError`: `invalid_input` for an invalid id, `unavailable` if the folder cannot be created.
        """
        if not _SAFE(module_id):
            raise ActionError(
                ErrorCode.INVALID_INPUT,
                f"{module_id[:200]!r} is not a module's id: use 1 to 200 of A-Z, a-z, 0-9, '_', '-' and '.', the first "
                "not '-' or '.'",
                {"module": module_id[:200]},
            )
        root = self._root(tenant, module_id)
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ActionError(
                ErrorCode.UNAVAILABLE, f"the module {module_id!r} cannot be created: {reason}", {"module": module_id}
            ) from error
        return ModuleContext(id=module_id, root=root, tenant=tenant)

    def remove(self, tenant: Tenant, module_id: str) -> None:
        """Remove a module with its contents and its journal, so that a later module of the same id starts empty. If the
        module is a link, only the link is removed. No work may run in it. Raises `MissingModuleError` as `context`
        does, and `ActionError`."""
        root = self.context(tenant, module_id).root
        if root.is_symlink():
            remove_own_tree(root)
            return
        # In the other order, the journal could apply work to a module that is half removed.
        remove_own_tree(Journal(root).folder)
        remove_own_tree(root)

    def _root(self, tenant: Tenant, module_id: str) -> Path:
        return self.base / str(tenant.id) / module_id
