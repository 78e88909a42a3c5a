"""The module actions that come with the library: files, commands and diffs of a module."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic_core import CoreSchema

from actionengine.boundary.declarations import ModuleAction, create_module_action
from actionengine.boundary.files.paths import ModuleFolder, ModulePath
from actionengine.boundary.files.unified_diff import changed_lines, check_diff
from actionengine.boundary.module_handle import ModuleHandle
from actionengine.boundary.module_outputs import (
    DeletedFile,
    EditedContents,
    FinishedCommand,
    FolderEntries,
    ModuleDiff,
    ReadFile,
    WrittenContents,
)
from actionengine.errors import ActionError, ErrorCode, storable_text
from actionengine.masking.secret_types import Sensitive
from actionengine.schemas.json_schemas import JsonSchema, exactly_one_of

ABSENT = "absent"
"""The `expected_sha256` of a file that must not exist."""


def _decoded(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("it must be a base64 string")
    try:
        return b64decode(text, validate=True)
    except ValueError:
        raise ValueError("it is not valid base64") from None


def _encoded(content: bytes) -> str:
    return b64encode(content).decode("ascii")


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has characters that UTF-8 cannot encode") from None
    return text


_Text = Annotated[str, AfterValidator(_encodable)]


class _Input(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReadInput(_Input):
    """A file to read."""

    path: ModulePath = Field(description="The path of the file, relative to the module.")


class WriteInput(_Input):
    """A file to create or replace, with a `text`, or with bytes as `base64`. With `expected_sha256`, it is written only
    if its contents have this SHA-256 (in lower case), or, with `"absent"`, if it does not exist; this needs `fs:read`
    too."""

    path: ModulePath = Field(description="The path of the file, relative to the module.")
    text: _Text | None = Field(default=None, description="The contents as text; give this or `base64`.")
    base64: Annotated[bytes, BeforeValidator(_decoded), PlainSerializer(_encoded)] | None = Field(
        default=None, description="The contents as base64; give this or `text`."
    )
    executable: bool | None = Field(
        default=None, description="True if the file can be executed; null leaves it as it is."
    )
    expected_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64}|absent)$")] | None = Field(
        default=None,
        description="The SHA-256 of the present contents in lower case, or `absent` for a file that must not "
        "exist; null overwrites any.",
    )

    @model_validator(mode="after")
    def _check_one_content(self) -> WriteInput:
        if (self.text is None) == (self.base64 is None):
            raise ValueError("give the contents of the file as text or as base64, not both")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        """Return the schema, which asks for one of the two contents."""
        return exactly_one_of(handler.resolve_ref_schema(handler(schema)), "text", "base64")


class FolderInput(_Input):
    """A folder; `""` is the module's root."""

    folder: ModuleFolder = Field(
        default="", description="The path of the folder, relative to the module; empty for its root."
    )


class RunInput(_Input):
    """A command: the program with its arguments, its folder, its environment variables, its stdin, and its timeout in
    seconds."""

    argv: Annotated[tuple[_Text, ...], Field(min_length=1, max_length=10_000)] = Field(
        description="The program and its arguments."
    )
    folder: ModuleFolder = Field(default="", description="The folder in which it runs; empty for the module's root.")
    environment: Annotated[Mapping[_Text, _Text], Sensitive()] = Field(
        default_factory=dict, description="Its environment variables."
    )
    stdin: Annotated[_Text, Sensitive()] = Field(default="", description="The text of its standard input.")
    timeout: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="The most seconds that it may run; null for the most that the service allows."
    )


class DiffInput(_Input):
    """One file or folder to compare; without a `path`, all of the module."""

    path: ModulePath | None = Field(
        default=None, description="The path of a file or a folder; null compares all of the module."
    )


class EditInput(_Input):
    """A unified diff of one file."""

    path: ModulePath = Field(description="The path of the file, relative to the module.")
    diff: Annotated[str, AfterValidator(check_diff)] = Field(description="A unified diff of this one file.")


def _read(data: ReadInput, work: ModuleHandle) -> dict[str, Any]:
    content = work.read(data.path)
    try:
        shown = {"text": content.decode()}
    except UnicodeDecodeError:
        shown = {"base64": _encoded(content)}
    return {"path": data.path, **shown, "size": len(content), "sha256": sha256(content).hexdigest()}


def _write(data: WriteInput, work: ModuleHandle) -> dict[str, Any]:
    content = data.base64 if data.text is None else data.text.encode()
    assert content is not None
    with work.exclusive():
        if data.expected_sha256 is not None:
            _check_is(data.path, data.expected_sha256, work)
        work.write(data.path, content, executable=data.executable)
    return {"path": data.path, "size": len(content), "sha256": sha256(content).hexdigest()}


def _check_is(path: str, expected: str, work: ModuleHandle) -> None:
    found = _sha256_of(path, work)
    if found != expected:
        raise ActionError(
            ErrorCode.CONFLICT,
            f"{path!r} {'no longer exists' if found == ABSENT else 'has other contents now'}; read it again",
            {"path": path, "expected_sha256": expected, "found_sha256": found},
        )


def _sha256_of(path: str, work: ModuleHandle) -> str:
    try:
        return sha256(work.read(path)).hexdigest()
    except ActionError as refusal:
        if refusal.code is ErrorCode.NOT_FOUND:
            return ABSENT
        raise


def _list(data: FolderInput, work: ModuleHandle) -> dict[str, Any]:
    entries = [
        {
            "path": storable_text(entry.path),
            "size": entry.size,
            "executable": entry.executable,
            "link": None if entry.link is None else storable_text(entry.link),
        }
        for entry in work.list(data.folder)
    ]
    return {"folder": data.folder, "entries": entries}


def _delete(data: ReadInput, work: ModuleHandle) -> dict[str, Any]:
    work.delete(data.path)
    return {"path": data.path}


def _run(data: RunInput, work: ModuleHandle) -> dict[str, Any]:
    finished = work.run(data.argv, data.folder, data.environment, data.stdin.encode(), data.timeout)
    return {
        "exit_code": finished.exit_code,
        "stdout": finished.stdout.decode("utf-8", "replace"),
        "stderr": finished.stderr.decode("utf-8", "replace"),
        "duration": finished.duration,
        "limit": finished.limit,
    }


def _diff(data: DiffInput, work: ModuleHandle) -> dict[str, Any]:
    return {"diff": work.diff(data.path)}


def _edit_file(data: EditInput, work: ModuleHandle) -> dict[str, Any]:
    after = work.edit_file(data.path, data.diff)
    added, removed = changed_lines(data.diff)
    digest = None if after is None else sha256(after.encode()).hexdigest()
    return {"path": data.path, "sha256": digest, "added": added, "removed": removed}


MODULE_ACTIONS: tuple[ModuleAction, ...] = (
    create_module_action(
        name="read",
        description="Read a file: as text, or as base64 if it is not UTF-8.",
        validation=ReadInput,
        handler=_read,
        capabilities=("fs:read",),
        output=ReadFile,
    ),
    create_module_action(
        name="write",
        description="Create or replace a file; if it does not have the expected contents, this is a conflict.",
        validation=WriteInput,
        handler=_write,
        capabilities=("fs:write",),
        output=WrittenContents,
    ),
    create_module_action(
        name="list",
        description="List the files and links in a folder and its subfolders.",
        validation=FolderInput,
        handler=_list,
        capabilities=("fs:read",),
        output=FolderEntries,
    ),
    create_module_action(
        name="delete",
        description="Delete a file or a link.",
        validation=ReadInput,
        handler=_delete,
        capabilities=("fs:write",),
        output=DeletedFile,
    ),
    create_module_action(
        name="run",
        description="Run a command to its end. The exit code of a command that fails is a result, not an error.",
        validation=RunInput,
        handler=_run,
        capabilities=("cmd:run",),
        output=FinishedCommand,
    ),
    create_module_action(
        name="diff",
        description="Show the differences from the last commit of a module that is a git work tree.",
        validation=DiffInput,
        handler=_diff,
        capabilities=("git:diff",),
        output=ModuleDiff,
    ),
    create_module_action(
        name="edit_file",
        description="Apply a unified diff to a file; it must fit exactly.",
        validation=EditInput,
        handler=_edit_file,
        capabilities=("fs:read", "fs:write"),
        output=EditedContents,
    ),
)
"""`read`, `write`, `list`, `delete`, `run`, `diff` and `edit_file`."""
