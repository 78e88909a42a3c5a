"""The checks of a request before any of its work runs. Both sides of a wire make the same checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from actionengine.boundary.capabilities import CapabilityProfile
from actionengine.boundary.declarations import ModuleAction, by_name
from actionengine.boundary.errors import (
    CapabilityNotGrantedError,
    MissingModuleError,
    MissingTenantError,
    TenantMismatchError,
)
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from actionengine.errors import ActionError, ConfigurationError, ErrorCode, storable_text
from actionengine.schemas.field_errors import field_errors, summarize
from actionengine.text.names import hint, nearest_of


@dataclass(frozen=True, slots=True)
class AdmittedRequest:
    """A request that has passed the checks, with its module, its action, and its input as that action's model."""

    request: ExecutionRequest
    module: ModuleContext
    action: ModuleAction
    data: Any


class Boundary:
    """The checks for one profile and its module actions.

    Raises `ConfigurationError` if two actions have one name, or if `profile` is not a `CapabilityProfile`.
    """

    def __init__(self, profile: CapabilityProfile, actions: Iterable[ModuleAction]) -> None:
        if not isinstance(profile, CapabilityProfile):
            raise ConfigurationError(f"a boundary needs a CapabilityProfile, such as READ_ONLY, not {profile!r}")
        self.profile = profile
        self.actions: Mapping[str, ModuleAction] = MappingProxyType(by_name(actions))

    def admit(self, request: ExecutionRequest) -> AdmittedRequest:
        """Return the request after its checks, in this order: tenant, module, the module's tenant, capabilities,
        action, and input with its paths.

        Raises a `BoundaryError` of its own type for each, and `ActionError`: `not_found` for an unknown action,
        `invalid_input` for an input that does not fit the action.
        """
        module = validate_module(request)
        lacking = request.capabilities - self.profile.capabilities
        if lacking:
            raise CapabilityNotGrantedError(
                f"the profile {self.profile.name} does not grant {', '.join(sorted(lacking))}",
                profile=self.profile.name,
                capabilities=sorted(lacking),
            )
        action = self._action(request.action)
        needed = action.capabilities - request.capabilities
        if needed:
            raise CapabilityNotGrantedError(
                f"{action.name} needs {', '.join(sorted(needed))}, which the request does not ask for",
                action=action.name,
                capabilities=sorted(needed),
            )
        try:
            data = action.validation.model_validate(dict(request.input))
        except ValidationError as error:
            fields = field_errors(error)
            raise ActionError(
                ErrorCode.INVALID_INPUT, f"{action.name}: {summarize(fields)}", {"fields": fields}
            ) from None
        return AdmittedRequest(request, module, action, data)

    def _action(self, name: str) -> ModuleAction:
        action = self.actions.get(name)
        if action is None:
            shown = storable_text(name[:200])
            nearest = nearest_of(shown, self.actions)
            message = f"there is no module action {shown!r}{hint(nearest)}"
            raise ActionError(ErrorCode.NOT_FOUND, message, {"action": shown, "nearest": nearest})
        return action


def validate_module(request: ExecutionRequest) -> ModuleContext:
    """Return the module of a request, which belongs to the request's tenant. Raises `MissingTenantError`,
    `MissingModuleError` or `TenantMismatchError`."""
    if request.tenant is None:
        raise MissingTenantError(f"the request {request.id} names no tenant")
    module = request.module
    if module is None:
        raise MissingModuleError(f"the request {request.id} names no module")
    if module.tenant is None:
        raise MissingTenantError(
            f"the module {module.id!r} of the request {request.id} names no tenant", module=module.id
        )
    if module.tenant.id != request.tenant.id:
        # The error does not name the other tenant.
        raise TenantMismatchError(f"the module {module.id!r} belongs to another tenant", module=module.id)
    return module
