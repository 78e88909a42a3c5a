"""What the boundary refuses: one error type for each reason."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, ClassVar

from actionengine.errors import ActionError, ErrorCode, storable_text


class BoundaryError(ActionError):
    """A refusal of the boundary: nothing has been run. `error.details["refusal"]` names the reason across a wire."""

    refusal: ClassVar[str] = "refused"
    default_code: ClassVar[ErrorCode] = ErrorCode.FORBIDDEN

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(self.default_code, message, {"refusal": self.refusal, **details})

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self.code, self.message, dict(self.details))


class MissingTenantError(BoundaryError):
    """The request, or its module, names no tenant."""

    refusal = "missing_tenant"
    default_code = ErrorCode.INVALID_INPUT


class MissingModuleError(BoundaryError):
    """The request names no module, or one that is not there."""

    refusal = "missing_module"
    default_code = ErrorCode.INVALID_INPUT


def no_root(root: str | os.PathLike[str]) -> MissingModuleError:
    """The refusal of a root that is no folder. Of its path no more than the last name is told: where modules lie is not
    for whoever asks."""
    name = storable_text(os.path.basename(os.fspath(root))[:200])
    return MissingModuleError(f"there is no folder {name!r} to be a module's root")


class TenantMismatchError(BoundaryError):
    """The module is another tenant's than the request."""

    refusal = "tenant_mismatch"


class CapabilityNotGrantedError(BoundaryError):
    """The profile lacks a capability that the request asks for, or the request one that its action needs."""

    refusal = "capability_not_granted"


class FileIsolationError(BoundaryError):
    """The profile requires that commands are kept off the files of others, and this system cannot do that."""

    refusal = "file_isolation_missing"


class PathEscapeError(BoundaryError):
    """A path that is absolute, is not normalised, or leads out of the module."""

    refusal = "path_escape"
    default_code = ErrorCode.INVALID_INPUT


def _again(kind: type[BoundaryError], code: ErrorCode, message: str, details: Mapping[str, Any]) -> BoundaryError:
    refusal = kind.__new__(kind)
    ActionError.__init__(refusal, code, message, details)
    return refusal
