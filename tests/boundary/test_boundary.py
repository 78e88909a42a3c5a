"""The boundary lets through what the profile grants and the request has, for the module of the request's tenant."""

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
    CODE_MODULE_DEFAULT,
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
from actionengine.errors import ActionError, ConfigurationError, ErrorCode
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
    """What the other process says to a request that nobody has checked before."""
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
    """Also where the action would not use it."""
    (tmp_path / "a.txt").write_text("a")
    for profile in PROFILES.values():
        for more in set(Capability) - profile.capabilities:
            request = asking(tmp_path, capabilities=["fs:read", more])
            assert refusal_of(request, profile) == CapabilityNotGrantedError.refusal, (profile.name, more)
        assert refusal_of(asking(tmp_path, capabilities=profile.capabilities), profile) is None


def test_a_refusal_names_the_capabilities() -> None:
    boundary = Boundary(READ_ONLY, MODULE_ACTIONS)

    with pytest.raises(CapabilityNotGrantedError, match="READ_ONLY does not grant cmd:run, net:http") as more:
        boundary.admit(asking(capabilities=["fs:read", "net:http", "cmd:run"]))
    with pytest.raises(CapabilityNotGrantedError, match="edit_file needs fs:read, fs:write") as fewer:
        Boundary(CODE_MODULE_DEFAULT, MODULE_ACTIONS).admit(asking(action="edit_file", capabilities=["cmd:run"]))

    assert more.value.details["capabilities"] == ["cmd:run", "net:http"]
    assert fewer.value.details["capabilities"] == ["fs:read", "fs:write"]


def test_a_refusal_tells_nothing_of_the_other_tenant() -> None:
    module = ModuleContext(id="site", root=Path("/nowhere"), tenant=Tenant(UUID(int=7), "globex"))

    with pytest.raises(TenantMismatchError) as caught:
        Boundary(READ_ONLY, MODULE_ACTIONS).admit(asking(module=module))

    told = str(caught.value.to_dict())
    assert "globex" not in told
    assert str(UUID(int=7)) not in told


def test_whose_module_it_is_comes_before_all_else() -> None:
    """Else the answer would tell what the profile grants, or that there is such an action, to another tenant."""
    other = ModuleContext(id="site", root=Path("/nowhere"), tenant=NAMESAKE)

    request = asking(module=other, action="no-such", input={"path": "/"}, capabilities=["net:http"])

    assert refusal_here(request, READ_ONLY) == TenantMismatchError.refusal
    mine = asking(action="no-such", input={"path": "/"}, capabilities=["net:http"])
    assert refusal_here(mine, READ_ONLY) == CapabilityNotGrantedError.refusal


@pytest.mark.parametrize("path", ["../a", "/a", "a/../b", "", "a//b", "C:x", "~"])
@both_sides
def test_paths_are_checked(refusal_of: Any, path: str, tmp_path: Path) -> None:
    assert refusal_of(asking(tmp_path, input={"path": path}), READ_ONLY) == "path_escape"


def test_an_action_that_there_is_not_is_named_with_the_nearest() -> None:
    with pytest.raises(ActionError, match="did you mean 'read'") as caught:
        Boundary(READ_ONLY, MODULE_ACTIONS).admit(asking(action="raed"))
    assert caught.value.code is ErrorCode.NOT_FOUND

    with pytest.raises(ActionError) as long:
        Boundary(READ_ONLY, MODULE_ACTIONS).admit(asking(action="x" * 100_000))
    assert len(long.value.details["action"]) == 200


def test_an_input_is_the_actions() -> None:
    with pytest.raises(ActionError, match="read: ") as caught:
        Boundary(READ_ONLY, MODULE_ACTIONS).admit(asking(input={"path": "a", "other": 1}))

    assert caught.value.code is ErrorCode.INVALID_INPUT


def test_a_boundary_needs_a_profile_and_distinct_actions() -> None:
    with pytest.raises(ConfigurationError, match="CapabilityProfile"):
        Boundary("READ_ONLY", MODULE_ACTIONS)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'read'"):
        Boundary(READ_ONLY, [*MODULE_ACTIONS, MODULE_ACTIONS[0]])


def test_the_profiles_grant_what_is_written() -> None:
    assert {name: sorted(profile.capabilities) for name, profile in PROFILES.items()} == {
        "CODE_MODULE_DEFAULT": ["cmd:run", "fs:read", "fs:write", "git:diff"],
        "WORKFLOW_MODULE_DEFAULT": ["cmd:run", "fs:read"],
        "READ_ONLY": ["fs:read"],
        "SYSTEM_PRIVILEGED": ["cmd:run", "fs:read", "fs:write", "git:diff", "net:http"],
    }
    assert not any(profile.require_file_isolation for profile in PROFILES.values())
    with pytest.raises(ValueError, match="fs:everything"):
        CapabilityProfile("MINE", ["fs:everything"])


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
