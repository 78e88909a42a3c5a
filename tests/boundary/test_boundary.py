"""The boundary admits only the capabilities of profile and request, for a module of the request's tenant."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError
from returns.result import Failure

from actionengine import Tenant
from actionengine.boundary import child
from actionengine.boundary.boundary import Boundary
from actionengine.boundary.capabilities import (
    PROFILES,
    READ_ONLY,
    SYSTEM_PRIVILEGED,
    Capability,
    CapabilityProfile,
)
from actionengine.boundary.commands.processes import ProcessLimits
from actionengine.boundary.errors import (
    BoundaryError,
    CapabilityNotGrantedError,
    MissingModuleError,
    MissingTenantError,
    TenantMismatchError,
)
from actionengine.boundary.module_actions import MODULE_ACTIONS
from actionengine.boundary.request import ExecutionRequest, ModuleContext
from tests.boundary.modules import ACME

NAMESAKE = Tenant(UUID(int=2), ACME.slug)
"""Another tenant with the same slug."""
RENAMED = Tenant(ACME.id, "acme-industries")
NOT_GIVEN: Any = object()


def asking(root: Path = Path("/nowhere"), *, tenant: Any = ACME, module: Any = NOT_GIVEN, **more: Any) -> Any:
    module = ModuleContext(id="site", root=root, tenant=ACME) if module is NOT_GIVEN else module
    values = {"action": "read", "input": {"path": "a.txt"}, "capabilities": ["fs:read"], **more}
    return ExecutionRequest(tenant=tenant, module=module, **values)


def refusal_here(request: ExecutionRequest, profile: CapabilityProfile) -> str | None:
    try:
        Boundary(profile, MODULE_ACTIONS).admit(request)
    except BoundaryError as error:
        named: str = error.details["refusal"]
        return named
    return None


def refusal_there(request: ExecutionRequest, profile: CapabilityProfile) -> str | None:
    """Return the other process's refusal of a request that this process did not check."""
    answer = child._execute(
        {
            "profile": profile.name,
            "capabilities": sorted(profile.capabilities),
            "require_file_isolation": False,
            "actions": "actionengine.boundary.module_actions:MODULE_ACTIONS",
            "limits": asdict(ProcessLimits()),
            "require_isolation": False,
            "readable": [],
            "writable": [],
            "request": request.model_dump(mode="json"),
        }
    )
    return answer.failure().details.get("refusal") if isinstance(answer, Failure) else None


both_sides = pytest.mark.parametrize("refusal_of", [refusal_here, refusal_there])


@both_sides
def test_a_tenant_is_its_id(refusal_of: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")

    def of(tenant: Tenant) -> ModuleContext:
        return ModuleContext(id="site", root=tmp_path, tenant=tenant)

    assert refusal_of(asking(module=of(NAMESAKE)), READ_ONLY) == TenantMismatchError.refusal
    assert refusal_of(asking(module=of(ACME), tenant=NAMESAKE), READ_ONLY) == TenantMismatchError.refusal
    assert refusal_of(asking(module=of(RENAMED)), READ_ONLY) is None
    assert refusal_of(asking(module=of(ACME), tenant=RENAMED), READ_ONLY) is None


@both_sides
def test_what_is_not_named_is_missing(refusal_of: Any) -> None:
    module = ModuleContext(id="site", root=Path("/nowhere"))

    assert refusal_of(asking(tenant=None), READ_ONLY) == MissingTenantError.refusal
    assert refusal_of(asking(module=None), READ_ONLY) == MissingModuleError.refusal
    assert refusal_of(asking(module=module), READ_ONLY) == MissingTenantError.refusal
    assert refusal_of(asking(tenant=None, module=module), READ_ONLY) == MissingTenantError.refusal


@both_sides
def test_work_has_the_capabilities_of_its_request_only(refusal_of: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for action in MODULE_ACTIONS:
        for lacking in action.capabilities:
            has = [each for each in Capability if each is not lacking]
            request = asking(tmp_path, action=action.name, capabilities=has)
            assert refusal_of(request, SYSTEM_PRIVILEGED) == CapabilityNotGrantedError.refusal, (action.name, lacking)
    assert refusal_of(asking(tmp_path, capabilities=[]), SYSTEM_PRIVILEGED) == CapabilityNotGrantedError.refusal
    assert refusal_of(asking(tmp_path), SYSTEM_PRIVILEGED) is None


@both_sides
def test_no_more_is_asked_for_than_the_profile_grants(refusal_of: Any, tmp_path: Path) -> None:
    """This holds also for capabilities that the action does not use."""
    (tmp_path / "a.txt").write_text("a")
    for profile in PROFILES.values():
        for more in set(Capability) - profile.capabilities:
            request = asking(tmp_path, capabilities=["fs:read", more])
            assert refusal_of(request, profile) == CapabilityNotGrantedError.refusal, (profile.name, more)
        assert refusal_of(asking(tmp_path, capabilities=profile.capabilities), profile) is None


@pytest.mark.parametrize("path", ["../a", "/a", "a/../b", "", "a//b", "C:x", "~"])
@both_sides
def test_paths_are_checked(refusal_of: Any, path: str, tmp_path: Path) -> None:
    assert refusal_of(asking(tmp_path, input={"path": path}), READ_ONLY) == "path_escape"


# Requests


def test_a_request_has_no_capability_unless_it_names_it() -> None:
    assert ExecutionRequest(action="read").capabilities == frozenset()


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("timeout", [1e-9, 1e9], [0, -1, float("nan")]),
        ("id", ["x", "x" * 100], ["", "x" * 101]),
        ("idempotency_key", [None, "x", "x" * 200], ["", "x" * 201]),
        ("capabilities", [[], ["fs:read"]], [["fs:reads"], ["FS_READ"], [""]]),
    ],
)
def test_the_edges_of_a_request(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        asking(**{field: value})
    for value in bad:
        with pytest.raises(ValidationError):
            asking(**{field: value})


def test_the_edges_of_a_modules_id() -> None:
    for id in ("x", "x" * 200):
        ModuleContext(id=id, root=Path("/nowhere"))
    for id in ("", "x" * 201):
        with pytest.raises(ValidationError):
            ModuleContext(id=id, root=Path("/nowhere"))
