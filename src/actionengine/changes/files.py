"""Files of a project: what `edit_file` ops make of them, and how that gets into the project's module.

A file and a database have no transaction in common, so the database is the truth. For each file that a change has
edited there is a head: the hash of its text after the newest edit, and of the texts that edits have found before. What
a change makes of a file is on record when its transaction commits, and is written afterwards, where the module still
has one of these texts. Whatever comes of the writing, the next edit starts from the head, and `changes.write_files`
writes what is missing. A file that is none of these texts was edited by somebody else: it is never overwritten, and the
next edit starts from it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import BaseModel, ConfigDict

from actionengine.boundary.errors import MissingModuleError
from actionengine.boundary.files.unified_diff import apply_diff
from actionengine.boundary.idempotency.working_copy import MAX_DIFF_BYTES
from actionengine.boundary.request import ModuleContext
from actionengine.boundary.roots import ModuleRoots
from actionengine.changes.module_files import FileWrite, WriteResult, read_files, try_write_files, write_files
from actionengine.changes.ops import PatchOp
from actionengine.changes.store import Store
from actionengine.context import Tenant
from actionengine.errors import ActionError, ErrorCode
from actionengine.pipeline.internal_context import InternalContext
from actionengine.storage.errors import SerializationFailure
from actionengine.storage.rows import Record
from actionengine.storage.tables import Row

FILES = "ae_files"
"""The heads of files: documents, one for each file of a project that a change has edited."""

ProjectModules = Callable[[Tenant, str], ModuleContext | None]
"""Which module has the files of a project, given the tenant and the project's id; None for a project that has none."""

_MAX_EARLIER_TEXTS = 100
"""Earlier texts of a file that are known to be such: so many writes may be late."""

_WRITE_TIMEOUT = 60.0
"""Seconds within which what is on record has to be written. A process that was stopped for longer leaves it: meanwhile
later changes may have led back to a text that it would take for an earlier one."""


def project_modules(roots: ModuleRoots) -> ProjectModules:
    """Modules that have the ids of their projects: `<base>/<tenant id>/<project id>`."""

    def module_of(tenant: Tenant, project_id: str) -> ModuleContext | None:
        try:
            return roots.context(tenant, project_id)
        except MissingModuleError:
            return None

    return module_of


@dataclass(frozen=True, slots=True)
class FileSettings:
    """Where a host keeps the files of projects, and the working copies of changes."""

    modules: ProjectModules | None = None
    workspaces: Path | None = None


class FileVersion(BaseModel):
    """The newest edit of a file: the hash of the text that it has left (None: no file), and of those before, the newest
    last; the op, its change, and when."""

    model_config = ConfigDict(frozen=True)

    project_id: str
    file_path: str
    sha256: str | None
    earlier: tuple[str | None, ...]
    op_id: str
    change_id: str
    executed_at: datetime


@dataclass(frozen=True, slots=True)
class FileState:
    """A file as edits find it: its text, None where there is no file; or why it cannot be edited. `version` counts the
    edits that `head` is the newest of."""

    path: str
    text: str | None
    head: FileVersion | None = None
    version: int = 0
    problem: ActionError | None = None


@dataclass(frozen=True, slots=True)
class FileStep:
    """An applied op, and the text of its file before and after it."""

    op: PatchOp
    before: str | None
    after: str | None


class EditRefused(Exception):
    """An op cannot be applied to its file."""

    def __init__(self, op: PatchOp, error: ActionError) -> None:
        super().__init__(f"{op}: {error.message}")
        self.op = op
        self.error = error


def edit_files(states: Mapping[str, FileState], ops: Sequence[PatchOp]) -> Iterator[FileStep]:
    """Apply ops to texts in their order, each when it is asked for; nothing is touched. Raises `EditRefused` for the
    first that does not fit."""
    texts = {path: state.text for path, state in states.items()}
    for op in ops:
        before = texts[op.file_path]
        texts[op.file_path] = after = edit_text(op, states[op.file_path], texts)
        yield FileStep(op, before, after)


def edit_text(op: PatchOp, state: FileState, texts: Mapping[str, str | None]) -> str | None:
    """The text of a file with an op applied, given those of the files that ops are about. Raises `EditRefused`."""
    if state.problem is not None:
        raise EditRefused(op, state.problem)
    path, before = op.file_path, texts.get(op.file_path)
    try:
        after = apply_diff(before, op.payload["diff"], path)
    except ActionError as refusal:
        raise EditRefused(op, refusal.without_traceback()) from None
    if after is None:
        return None
    if before is None and (other := _blocking_path(path, texts)) is not None:
        raise _refusal(op, f"{path!r} cannot be made: there is {other!r}, and no folder is a file, too")
    if len(after.encode()) > MAX_DIFF_BYTES:
        # No op could edit it again, nor take this one back.
        raise _refusal(op, f"{path!r} would be larger than {MAX_DIFF_BYTES} bytes", limit=MAX_DIFF_BYTES)
    return after


def _blocking_path(path: str, texts: Mapping[str, str | None]) -> str | None:
    """A file that is where the folder of another is to be, or is in a folder where the other is to be."""
    there = (other for other, text in sorted(texts.items()) if text is not None)
    return next((other for other in there if f"{path}/".startswith(f"{other}/") or other.startswith(f"{path}/")), None)


def _refusal(op: PatchOp, message: str, **details: Any) -> EditRefused:
    return EditRefused(op, ActionError(ErrorCode.UNPROCESSABLE, message, {"path": op.file_path, **details}))


def previous_snapshot(step: FileStep) -> dict[str, Any]:
    """What is kept of a step with its op."""
    return {
        "file_path": step.op.file_path,
        "text": step.before,
        "sha256": hash_of(step.before),
        "sha256_after": hash_of(step.after),
    }


def text_after(op: Row) -> str | None:
    """The text that an executed op has left."""
    payload = op["payload"]
    return apply_diff(op["previous_snapshot"]["text"], payload["diff"], payload["file_path"])


def hash_of(text: str | None) -> str | None:
    """The hash of a text as it is in a file; None for no file."""
    return None if text is None else sha256(text.encode()).hexdigest()


class ProjectFiles:
    """The files of one project, from inside an action."""

    def __init__(self, ctx: InternalContext, settings: FileSettings, store: Store, project_id: str) -> None:
        self.settings = settings
        self._tenant = ctx.tenant
        self._ctx = ctx
        self._heads = self._ctx.unit_of_work.records(FILES)
        self._store = store
        self._project_id = project_id

    def module(self) -> ModuleContext:
        """The module that has the files. Raises `ActionError(unprocessable)` where there is none."""
        if self.settings.modules is None:
            raise ActionError(
                ErrorCode.UNPROCESSABLE,
                "this engine does not know where the files of projects are: give change_control_services a modules=…",
            )
        module = self.settings.modules(self._tenant, self._project_id)
        if module is None:
            raise ActionError(ErrorCode.UNPROCESSABLE, f"the project {self._project_id!r} has no module with files")
        return module

    async def load(self, paths: Sequence[str]) -> dict[str, FileState]:
        """Files as edits find them: as the newest edit has left them, or as somebody has left them since.

        Raises `ActionError`: `unprocessable` where there is no module, `unavailable` where it cannot be read.
        """
        root = self.module().root
        heads = await self.latest_versions(paths)
        found = await self._ctx.run(partial(read_files, root, sorted(set(paths))))
        late = [
            head.op_id
            for path, (head, _) in heads.items()
            if not isinstance(text := found[path], ActionError) and _is_outdated(head, hash_of(text))
        ]
        newest = await self.newest(late)
        states = {}
        for path, text in found.items():
            head, version = heads.get(path, (None, 0))
            if isinstance(text, ActionError):
                states[path] = FileState(path, None, head, version, text)
            elif head is not None and head.op_id in newest:
                states[path] = FileState(path, newest[head.op_id], head, version)
            else:
                states[path] = FileState(path, text, head, version)
        return states

    async def latest_versions(self, paths: Sequence[str]) -> dict[str, tuple[FileVersion, int]]:
        """The head of each of these files that has one, and its version."""
        found = {}
        for path in sorted(set(paths)):
            record = await self._heads.get(self._id(path))
            if record is not None:
                found[path] = _head(record)
        return found

    async def newest(self, op_ids: Sequence[str]) -> dict[str, str | None]:
        """The text that each of these executed ops has left."""
        if not op_ids:
            return {}
        rows = await self._store.ops.find({"id": tuple(op_ids)}, columns=("id", "payload", "previous_snapshot"))
        return {row["id"]: text_after(row) for row in rows}

    async def save(
        self, states: Mapping[str, FileState], steps: Sequence[FileStep], change_id: str, at: datetime
    ) -> None:
        """Put edits on record, and have them written once the transaction has committed.

        Raises `SerializationFailure` where somebody else has edited one of the files meanwhile: run it again.
        """
        writes = []
        # In one order, so that two who edit the same files do not wait for each other.
        for path, step in sorted({step.op.file_path: step for step in steps}.items()):
            state, left = states[path], hash_of(step.after)
            base, head = hash_of(state.text), state.head
            known = head.earlier if head is not None and head.sha256 == base else ()
            earlier = (*known, base)[-_MAX_EARLIER_TEXTS:]
            new = FileVersion(
                project_id=self._project_id,
                file_path=path,
                sha256=left,
                earlier=earlier,
                op_id=step.op.id,
                change_id=change_id,
                executed_at=at,
            )
            await self._put(path, new, state.version)
            writes.append(FileWrite(path, step.after, left, frozenset(earlier)))
        self._ctx.after_commit(
            partial(try_write_files, self.module().root, writes, monotonic() + _WRITE_TIMEOUT, change_id)
        )

    async def write(self, paths: Sequence[str]) -> tuple[WriteResult, ...]:
        """Write what is missing of the edits of these files. Raises `ActionError` where something cannot be
        written; then the rest was."""
        until = monotonic() + _WRITE_TIMEOUT
        heads = await self.latest_versions(paths)
        newest = await self.newest([head.op_id for head, _ in heads.values()])
        writes = [
            FileWrite(path, newest[head.op_id], head.sha256, frozenset(head.earlier))
            for path, (head, _) in heads.items()
        ]
        if not writes:
            return ()
        results = await self._ctx.run(partial(write_files, self.module().root, writes, until))
        for each in results:
            if each.error is not None:
                raise each.error
        return results

    async def _put(self, path: str, head: FileVersion, version: int) -> None:
        data = head.model_dump(mode="json")
        try:
            if version:
                await self._heads.update(self._id(path), data, version)
            else:
                await self._heads.insert(data, self._id(path))
        except ActionError as refusal:
            if refusal.code is not ErrorCode.CONFLICT:
                raise
            raise SerializationFailure(f"{path!r} is edited by another change: run it again") from None

    def _id(self, path: str) -> str:
        # A path may be longer than the id of a document.
        return f"{self._project_id}/{sha256(path.encode()).hexdigest()}"


def _head(record: Record) -> tuple[FileVersion, int]:
    return FileVersion.model_validate(record.data), record.version


def _is_outdated(head: FileVersion, found: str | None) -> bool:
    """Return whether a file is as it was before its newest edit: that has not been written yet."""
    return found != head.sha256 and found in head.earlier
