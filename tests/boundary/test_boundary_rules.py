"""The rules of the boundary at their edges: tenants of modules, capabilities, and the resolution of paths."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from actionengine import ActionError, ConfigurationError, ErrorCode, Tenant
from actionengine.boundary import (
    CODE_MODULE_DEFAULT,
    READ_ONLY,
    SYSTEM_PRIVILEGED,
    CapabilityProfile,
    ExecutionRequest,
    ModuleAction,
    ModuleContext,
    create_module_action,
)
from actionengine.boundary.boundary import Boundary, validate_module
from actionengine.boundary.capabilities import PROFILES, Capability
from actionengine.boundary.errors import (
    BoundaryError,
    CapabilityNotGrantedError,
    MissingModuleError,
    MissingTenantError,
    PathEscapeError,
    TenantMismatchError,
)
from actionengine.boundary.files.paths import ModulePath, escape
from actionengine.boundary.files.safe_open import FOLDER, MAX_LINKS, PathResolver, sync_folder


class Named(BaseModel):
    path: ModulePath
    depth: int = 0


def nothing(data: Any, work: Any) -> Any:
    return None


def an_action(name: str = "fs:look", *capabilities: str) -> ModuleAction:
    return create_module_action(
        name=name, description="", handler=nothing, validation=Named, capabilities=capabilities or ("fs:read",)
    )


ACME = Tenant(uuid4(), "acme")
ACTIONS = (an_action(), an_action("cmd:try", "fs:read", "cmd:run"))


def request(**changes: Any) -> ExecutionRequest:
    fields: dict[str, Any] = {
        "tenant": ACME,
        "module": ModuleContext(id="website", root=Path("/nowhere"), tenant=ACME),
        "action": "fs:look",
        "input": {"path": "a/b", "depth": 2},
        "capabilities": ["fs:read"],
        "id": "r1",
    }
    return ExecutionRequest(**{**fields, **changes})


def refusal(kind: type[ActionError], boundary: Boundary, **changes: Any) -> ActionError:
    with pytest.raises(kind) as caught:
        boundary.admit(request(**changes))
    assert type(caught.value) is kind
    return caught.value


# Admission


def test_what_passes_comes_with_its_module_action_and_input() -> None:
    asked = request()
    admitted = Boundary(READ_ONLY, ACTIONS).admit(asked)
    assert admitted.request is asked
    assert admitted.module == asked.module
    assert admitted.action is ACTIONS[0]
    assert admitted.data == Named(path="a/b", depth=2)


def test_a_boundary_requires_a_profile_and_distinct_names() -> None:
    boundary = Boundary(READ_ONLY, ACTIONS)
    assert boundary.profile is READ_ONLY
    assert list(boundary.actions) == ["fs:look", "cmd:try"]
    with pytest.raises(TypeError):
        boundary.actions["x"] = ACTIONS[0]  # type: ignore[index]
    with pytest.raises(ConfigurationError, match="'READ_ONLY'"):
        Boundary("READ_ONLY", ACTIONS)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="two module actions have the name 'fs:look'"):
        Boundary(READ_ONLY, (*ACTIONS, an_action()))


def test_a_module_is_its_tenants_by_id_and_not_by_slug() -> None:
    namesake = Tenant(uuid4(), ACME.slug)
    renamed = Tenant(ACME.id, "acme-ltd")
    boundary = Boundary(READ_ONLY, ACTIONS)
    theirs = ModuleContext(id="website", root=Path("/nowhere"), tenant=namesake)
    error = refusal(TenantMismatchError, boundary, module=theirs)
    assert error.message == "the module 'website' belongs to another tenant"
    assert error.details == {"refusal": "tenant_mismatch", "module": "website"}
    assert str(namesake.id) not in str(error.to_dict())
    mine = ModuleContext(id="website", root=Path("/nowhere"), tenant=renamed)
    assert validate_module(request(module=mine)) is not None
    assert boundary.admit(request(module=mine)).module.tenant == renamed


@pytest.mark.parametrize(
    ("changes", "kind", "message", "details"),
    [
        ({"tenant": None}, MissingTenantError, "the request r1 names no tenant", {}),
        ({"module": None}, MissingModuleError, "the request r1 names no module", {}),
        (
            {"module": ModuleContext(id="website", root=Path("/nowhere"))},
            MissingTenantError,
            "the module 'website' of the request r1 names no tenant",
            {"module": "website"},
        ),
        ({"tenant": None, "module": None}, MissingTenantError, "the request r1 names no tenant", {}),
    ],
)
def test_a_request_has_a_tenant_and_a_module_of_it(
    changes: Any, kind: type[BoundaryError], message: str, details: dict[str, Any]
) -> None:
    error = refusal(kind, Boundary(SYSTEM_PRIVILEGED, ACTIONS), **changes)
    assert error.message == message
    assert error.details == {"refusal": kind.refusal, **details}
    assert error.code is ErrorCode.INVALID_INPUT


def test_the_capabilities_that_count_are_those_of_the_request() -> None:
    """The profile grants more, but work has only the capabilities that its request asks for."""
    boundary = Boundary(CODE_MODULE_DEFAULT, ACTIONS)
    error = refusal(CapabilityNotGrantedError, boundary, action="cmd:try")
    assert error.message == "cmd:try needs cmd:run, which the request does not ask for"
    assert error.details == {
        "refusal": "capability_not_granted",
        "action": "cmd:try",
        "capabilities": [Capability.CMD_RUN],
    }
    none = refusal(CapabilityNotGrantedError, boundary, action="cmd:try", capabilities=())
    assert none.message == "cmd:try needs cmd:run, fs:read, which the request does not ask for"
    both = boundary.admit(request(action="cmd:try", capabilities=["fs:read", "cmd:run"]))
    assert both.request.capabilities == {Capability.FS_READ, Capability.CMD_RUN}


def test_a_profile_bounds_even_unneeded_capabilities() -> None:
    boundary = Boundary(READ_ONLY, ACTIONS)
    error = refusal(CapabilityNotGrantedError, boundary, capabilities=["net:http", "fs:read", "cmd:run"])
    assert error.message == "the profile READ_ONLY does not grant cmd:run, net:http"
    assert error.details == {
        "refusal": "capability_not_granted",
        "profile": "READ_ONLY",
        "capabilities": [Capability.CMD_RUN, Capability.NET_HTTP],
    }
    assert error.code is ErrorCode.FORBIDDEN
    nothing = CapabilityProfile("NOTHING", ())
    refusal(CapabilityNotGrantedError, Boundary(nothing, ACTIONS))


def test_profiles_grant_what_their_names_say() -> None:
    granted = {name: sorted(profile.capabilities) for name, profile in PROFILES.items()}
    assert granted == {
        "CODE_MODULE_DEFAULT": ["cmd:run", "fs:read", "fs:write", "git:diff"],
        "WORKFLOW_MODULE_DEFAULT": ["cmd:run", "fs:read"],
        "READ_ONLY": ["fs:read"],
        "SYSTEM_PRIVILEGED": ["cmd:run", "fs:read", "fs:write", "git:diff", "net:http"],
    }
    assert not any(profile.require_file_isolation for profile in PROFILES.values())
    with pytest.raises(ValueError, match="fs:everything"):
        CapabilityProfile("MINE", ["fs:everything"])


def test_an_unknown_action_is_not_found_with_the_nearest_name() -> None:
    boundary = Boundary(READ_ONLY, ACTIONS)
    near = refusal(ActionError, boundary, action="fs:lok")
    assert (near.code, near.message) == (
        ErrorCode.NOT_FOUND,
        "there is no module action 'fs:lok'; did you mean 'fs:look'?",
    )
    assert near.details == {"action": "fs:lok", "nearest": "fs:look"}
    far = refusal(ActionError, boundary, action="x" * 300)
    assert far.message == f"there is no module action {'x' * 200!r}"
    assert far.details == {"action": "x" * 200, "nearest": None}
    odd = refusal(ActionError, boundary, action="\ud800")
    odd.message.encode()


def test_an_input_that_is_not_the_actions_is_refused_by_field() -> None:
    boundary = Boundary(READ_ONLY, ACTIONS)
    error = refusal(ActionError, boundary, input={"path": "a", "depth": "deep"})
    assert error.code is ErrorCode.INVALID_INPUT
    assert error.message.startswith("fs:look: depth: Input should be a valid integer")
    assert [field["path"] for field in error.details["fields"]] == ["depth"]
    assert refusal(PathEscapeError, boundary, input={"path": "../a"}).details["path"] == "../a"


def test_the_checks_come_in_their_order() -> None:
    boundary = Boundary(READ_ONLY, ACTIONS)
    everything: dict[str, Any] = {
        "tenant": None,
        "module": None,
        "capabilities": ["cmd:run"],
        "action": "nothing",
        "input": {"path": ".."},
    }
    mends: list[tuple[type[ActionError], dict[str, Any]]] = [
        (MissingTenantError, {"tenant": ACME}),
        (MissingModuleError, {"module": ModuleContext(id="m", root=Path("/x"), tenant=Tenant(uuid4(), "other"))}),
        (TenantMismatchError, {"module": ModuleContext(id="m", root=Path("/x"), tenant=ACME)}),
        (CapabilityNotGrantedError, {"capabilities": []}),
        (ActionError, {"action": "fs:look"}),
        (CapabilityNotGrantedError, {"capabilities": ["fs:read"]}),
        (PathEscapeError, {"input": {"path": "a"}}),
    ]
    for kind, mended in mends:
        refusal(kind, boundary, **everything)
        everything.update(mended)
    boundary.admit(request(**everything))


def test_the_refusal_of_a_path_shows_its_beginning() -> None:
    error = escape("x" * 300, "it is long")
    assert error.message == f"the path {'x' * 200!r} is refused: it is long"
    assert error.details == {"refusal": "path_escape", "path": "x" * 200}
    escape("\ud800", "odd").message.encode()


# Resolution of paths


@pytest.fixture
def root(tmp_path: Path) -> Any:
    (tmp_path / "outside").mkdir()
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("x")
    (folder / "file").write_text("x")
    opened = os.open(folder, FOLDER)
    yield folder, opened
    os.close(opened)


def reached(opened: int, path: str, **options: Any) -> tuple[Path, str | None]:
    with PathResolver(opened, path) as way:
        name = way.follow(path, **options)
        return Path(f"/proc/self/fd/{way.folder}").readlink(), name


def test_a_path_leads_to_the_folder_of_its_last_name(root: Any) -> None:
    folder, opened = root
    assert reached(opened, "a/b/file") == (folder / "a" / "b", "file")
    assert reached(opened, "file") == (folder, "file")
    assert reached(opened, "a/missing") == (folder / "a", "missing")
    assert reached(opened, "a//./b/./file") == (folder / "a" / "b", "file")
    assert reached(opened, "") == (folder, None)
    assert reached(opened, "a/b/..") == (folder / "a", None)
    assert reached(opened, "a/../a/b/../../file") == (folder, "file")


@pytest.mark.parametrize("path", ["..", "a/../..", "a/b/../../..", "../root", "a/../../root/file"])
def test_no_path_leads_above_its_root(root: Any, path: str) -> None:
    with pytest.raises(PathEscapeError, match=r": a link in it leads out of the module$") as caught:
        reached(root[1], path)
    assert caught.value.details["path"] == path


def test_links_are_followed_inside_and_refused_outside(root: Any) -> None:
    folder, opened = root
    (folder / "inner").symlink_to("a/b")
    (folder / "a" / "up").symlink_to("../file")
    (folder / "a" / "b" / "far").symlink_to("../../file")
    (folder / "out").symlink_to("../outside")
    (folder / "a" / "out").symlink_to("../../outside/x")
    (folder / "absolute").symlink_to(folder / "file")
    (folder / "dangling").symlink_to("a/nothing")
    assert reached(opened, "inner/file") == (folder / "a" / "b", "file")
    assert reached(opened, "inner") == (folder / "a", "b")
    assert reached(opened, "a/up") == (folder, "file")
    assert reached(opened, "inner/far") == (folder, "file")
    assert reached(opened, "dangling") == (folder / "a", "nothing")
    assert reached(opened, "inner", last=False) == (folder, "inner")
    assert reached(opened, "out", last=False) == (folder, "out")
    for path in ("out", "out/x", "a/out", "inner/../out/x"):
        with pytest.raises(PathEscapeError, match="leads out"):
            reached(opened, path)
    for path in ("absolute", "a/../absolute"):
        with pytest.raises(PathEscapeError, match="its part 'absolute' is a link to an absolute path"):
            reached(opened, path)


def test_a_path_leads_through_forty_links_and_no_more(root: Any) -> None:
    folder, opened = root
    (folder / "l0").symlink_to("a")
    for number in range(1, 45):
        (folder / f"l{number}").symlink_to(f"l{number - 1}")
    assert MAX_LINKS == 40
    assert reached(opened, "l39") == (folder, "a")
    assert reached(opened, "l39/b") == (folder / "a", "b")
    for path in ("l40", "l40/b"):
        with pytest.raises(PathEscapeError, match="more than 40 links"):
            reached(opened, path)
    (folder / "circle").symlink_to("circle")
    with pytest.raises(PathEscapeError, match="more than 40 links"):
        reached(opened, "circle/x")


def test_each_name_on_the_way_is_asked_about(root: Any) -> None:
    folder, opened = root
    (folder / "link").symlink_to("a/b/file")
    met: list[str] = []

    def reason(name: str) -> str | None:
        met.append(name)
        return "it is b" if name == "b" else None

    assert reached(opened, "a/./../file", reason_against=reason) == (folder, "file")
    assert met == ["a", "file"]
    for path in ("a/b/file", "link", "a/b", "a/b/.."):
        with pytest.raises(PathEscapeError, match="it is b") as caught:
            reached(opened, path, reason_against=reason)
        assert caught.value.details["path"] == path
    with pytest.raises(PathEscapeError):
        reached(opened, "a/b", last=False, reason_against=reason)


def test_folders_that_are_missing_are_made_where_that_is_wanted(root: Any) -> None:
    folder, opened = root
    with pytest.raises(FileNotFoundError):
        reached(opened, "new/deep/file")
    assert not (folder / "new").exists()
    assert reached(opened, "new/deep/file", making=True) == (folder / "new" / "deep", "file")
    assert (folder / "new" / "deep").is_dir()
    assert not (folder / "new" / "deep" / "file").exists()
    assert reached(opened, "new/deep/file", making=True) == (folder / "new" / "deep", "file")
    (folder / "dangling").symlink_to("made/here")
    assert reached(opened, "dangling/x", making=True) == (folder / "made" / "here", "x")


def test_a_file_on_the_way_is_no_folder(root: Any) -> None:
    folder, opened = root
    os.mkfifo(folder / "pipe")
    for path in ("file/x", "a/b/file/x", "pipe/x"):
        with pytest.raises(NotADirectoryError) as caught:
            reached(opened, path)
        assert (caught.value.errno, caught.value.strerror) == (errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with pytest.raises(NotADirectoryError):
            reached(opened, path, making=True)


def test_what_may_not_be_entered_is_the_systems_own_error(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder, opened = root
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if path == "a":
            raise PermissionError(errno.EACCES, "no")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        reached(opened, "a/x")


def test_a_folder_that_never_stands_still_is_a_conflict(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder, opened = root
    tries: list[str] = []

    def moving(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if path == "a":
            tries.append(path)
            raise OSError(errno.ELOOP, "a link, a moment ago")
        return real(path, flags, *rest, **options)

    real = os.open
    monkeypatch.setattr(os, "open", moving)
    with pytest.raises(ActionError) as caught:
        reached(opened, "a/x")
    assert len(tries) == 100
    assert caught.value.code is ErrorCode.CONFLICT
    assert caught.value.details == {"path": "a/x"}
    assert caught.value.message == ("another process is moving the folders of 'a/x'; try again")


def test_up_is_where_the_way_came_down(root: Any) -> None:
    folder, opened = root
    with PathResolver(opened, "a/b/../x") as way:
        assert way.enter("a") is None
        assert way.enter("b") is None
        (folder / "a" / "b").rename(folder.parent / "outside" / "b")
        with pytest.raises(ActionError) as caught:
            way.follow("../x")
        assert caught.value.code is ErrorCode.CONFLICT


def test_a_descent_holds_one_folder_and_closes_it(root: Any) -> None:
    _, opened = root
    before = len(os.listdir("/proc/self/fd"))
    reached(opened, "a/b/../../a/b/file")
    with pytest.raises(PathEscapeError):
        reached(opened, "a/b/../../..")
    assert len(os.listdir("/proc/self/fd")) == before
    with PathResolver(opened, "x") as way:
        for _ in range(10):
            way.enter("a")
            way.follow("..")
        assert len(os.listdir("/proc/self/fd")) == before + 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_target_of_a_link_is_read_and_nothing_else_is_one(root: Any) -> None:
    folder, opened = root
    (folder / "link").symlink_to("a")
    with PathResolver(opened, "x") as way:
        assert way.link("link") == "a"
        assert way.link("a") is None
        assert way.link("file") is None
        assert way.link("missing") is None
        with pytest.raises(OSError, match="too long"):
            way.link("x" * 300)
        assert way.enter("link") == "a"
        with pytest.raises(FileNotFoundError):
            way.enter("missing")


def test_names_are_kept_where_the_file_system_can(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _folder, opened = root
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    sync_folder(opened)
    assert synced == [opened]
    synced.clear()
    reached(opened, "kept/x", making=True)
    assert len(synced) == 1

    def fails(error: int) -> Any:
        def fsync(folder: int) -> None:
            raise OSError(error, "no")

        return fsync

    monkeypatch.setattr(os, "fsync", fails(errno.EINVAL))
    sync_folder(opened)
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    with pytest.raises(OSError, match="no"):
        sync_folder(opened)


def test_a_folder_is_opened_as_itself() -> None:
    for flag in ("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"):
        assert FOLDER & getattr(os, flag)
