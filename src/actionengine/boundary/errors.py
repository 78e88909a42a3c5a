"""The refusals of the boundary: one error type for each reason."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, ClassVar

from actionengine.errors import ActionError, ErrorCode, storable_text


class BoundaryError(ActionError):
    """A refusal of the boundary: nothing was run. `error.details["refusal"]` names the reason across a wire."""

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
    """The request names no module, or one that does not exist."""

    refusal = "missing_module"
    default_code = ErrorCode.INVALID_INPUT


def no_root(root: str | os.PathLike[str]) -> MissingModuleError:
    """Return the refusal of a root that is not a folder. It shows only the last name of the path: callers do not learn
    where modules are stored."""
    name = storable_text(os.path.basename(os.fspath(root))[:200])
    return MissingModuleError(f"the module's root {name!r} is not a folder")


class TenantMismatchError(BoundaryError):
    """The module belongs to another tenant than the request."""

    refusal = "tenant_mismatch"


class CapabilityNotGrantedError(BoundaryError):
    """The profile lacks a capability that the request asks for, or the request lacks one that its action needs."""

    refusal = "capability_not_granted"


class FileIsolationError(BoundaryError):
    """The profile requires that commands reach only their module's files, and this system cannot enforce that."""

    refusal = "file_isolation_missing"


class PathEscapeError(BoundaryError):
    """A path is absolute, is not normalised, or leads out of the module."""

    refusal = "path_escape"
    default_code = ErrorCode.INVALID_INPUT


def os_refusal(error: OSError, message: str, codes: Mapping[int, ErrorCode], **details: Any) -> ActionError:
    """Return an error of the system as an `ActionError`: its code in `codes` or `unavailable`, its name as `reason`."""
    number = error.errno or 0
    text = f"{message}: {error.strerror or str(error) or type(error).__name__}"
    reason = errno.errorcode.get(number, "unknown")
    return ActionError(codes.get(number, ErrorCode.UNAVAILABLE), text, {**details, "reason": reason})


def _again(kind: type[BoundaryError], code: ErrorCode, message: str, details: Mapping[str, Any]) -> BoundaryError:
    refusal = kind.__new__(kind)
    ActionError.__init__(refusal, code, message, details)
    return refusal
