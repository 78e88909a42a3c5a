"""Files of a project: the effect of `edit_file` ops on them, and their way into the project's module.

A file and a database share no transaction, so the database holds the truth. Each file that a change has edited has a
`FileVersion`: the hash of its text after the newest edit, and the hashes of earlier texts. An edit is recorded when its
transaction commits, and written to the module afterwards, if the module still has one of these texts. If that fails,
the next edit starts from the recorded text all the same, and `changes.write_files` writes the file. A file with any
other text was edited outside of change control: it is never overwritten, and the next edit starts from it.
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
from actionengine.storage.tables import Row

FILES = "ae_files"
"""The collection of file versions: a document for each file of a project that a change has edited."""

ProjectModules = Callable[[Tenant, str], ModuleContext | None]
"""Returns the module with the files of a project, given the tenant and the project's id; None if it has no files."""

_MAX_EARLIER_TEXTS = 100
"""Hashes of earlier texts that a file version holds: as many writes may be late."""

_WRITE_TIMEOUT = 60.0
"""Seconds within which a recorded edit is written. A process that was suspended for longer gives up, since later
changes may have restored a text that it would take for an earlier one."""


def project_modules(roots: ModuleRoots) -> ProjectModules:
    """Return a function that finds each project's module by its id: `<base>/<tenant id>/<project id>`."""

    def module_of(tenant: Tenant, project_id: str) -> ModuleContext | None:
        try:
            return roots.context(tenant, project_id)
        except MissingModuleError:
            return None

    return module_of


@dataclass(frozen=True, slots=True)
class FileSettings:
    """The host's places for the files of projects, and for the working copies of changes."""

    modules: ProjectModules | None = None
    workspaces: Path | None = None


class FileVersion(BaseModel):
    """The newest edit of a file: the hash of the text after it (None for no file), the hashes of earlier texts (the
    newest last), the op, its change and its time."""

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
    """A file before an edit: its text (None for no file), or the `problem` that prevents edits. `version` counts the
    edits up to `latest`."""

    path: str
    text: str | None
    latest: FileVersion | None = None
    version: int = 0
    problem: ActionError | None = None


@dataclass(frozen=True, slots=True)
class FileStep:
    """An applied op, with the text of its file before and after it."""

    op: PatchOp
    before: str | None
    after: str | None


class EditRefused(Exception):
    """An op that cannot be applied to its file; `error` says why."""

    def __init__(self, op: PatchOp, error: ActionError) -> None:
        super().__init__(f"{op}: {error.message}")
        self.op = op
        self.error = error


def edit_files(states: Mapping[str, FileState], ops: Sequence[PatchOp]) -> Iterator[FileStep]:
    """Apply ops to texts in order, one for each item taken. Raises `EditRefused` for the first that does not fit."""
    texts = {path: state.text for path, state in states.items()}
    for op in ops:
        before = texts[op.file_path]
        texts[op.file_path] = after = edit_text(op, states[op.file_path], texts)
        yield FileStep(op, before, after)


def edit_text(op: PatchOp, state: FileState, texts: Mapping[str, str | None]) -> str | None:
    """Return the text of a file with an op applied; `texts` has all files that ops edit. Raises `EditRefused`."""
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
        raise _refusal(op, f"{path!r} cannot be created: {other!r} exists, and a path is either a file or a folder")
    if len(after.encode()) > MAX_DIFF_BYTES:
        # No later op could edit it, or take this one back.
        raise _refusal(op, f"{path!r} would be larger than the limit of {MAX_DIFF_BYTES} bytes", limit=MAX_DIFF_BYTES)
    return after


def _blocking_path(path: str, texts: Mapping[str, str | None]) -> str | None:
    """Return a file that stands where `path` needs a folder, or below `path`."""
    there = (other for other, text in sorted(texts.items()) if text is not None)
    return next((other for other in there if f"{path}/".startswith(f"{other}/") or other.startswith(f"{path}/")), None)


def _refusal(op: PatchOp, message: str, **details: Any) -> EditRefused:
    return EditRefused(op, ActionError(ErrorCode.UNPROCESSABLE, message, {"path": op.file_path, **details}))


def hunk_details(error: ActionError) -> dict[str, Any]:
    """Return the details of an error that name the hunk that does not fit."""
    return {name: error.details[name] for name in ("hunk", "header", "expected", "found") if name in error.details}


def file_snapshot(step: FileStep) -> dict[str, Any]:
    """Return the `previous_snapshot` that an executed op stores."""
    return {
        "file_path": step.op.file_path,
        "text": step.before,
        "sha256": hash_of(step.before),
        "sha256_after": hash_of(step.after),
    }


def text_after(op: Row) -> str | None:
    """Return the text of a file after an executed op."""
    payload = op["payload"]
    return apply_diff(op["previous_snapshot"]["text"], payload["diff"], payload["file_path"])


def hash_of(text: str | None) -> str | None:
    """Return the hash of a file with this text; None for no file."""
    return None if text is None else sha256(text.encode()).hexdigest()


class ProjectFiles:
    """The files of one project, inside an action."""

    def __init__(self, ctx: InternalContext, settings: FileSettings, store: Store, project_id: str) -> None:
        self.settings = settings
        self._tenant = ctx.tenant
        self._ctx = ctx
        self._versions = ctx.unit_of_work.records(FILES)
        self._store = store
        self._project_id = project_id

    def module(self) -> ModuleContext:
        """Return the module with the files. Raises `ActionError(unprocessable)` if there is none."""
        if self.settings.modules is None:
            raise ActionError(
                ErrorCode.UNPROCESSABLE,
                "this engine does not know the files of projects: give modules=… to change_control_services",
            )
        module = self.settings.modules(self._tenant, self._project_id)
        if module is None:
            raise ActionError(ErrorCode.UNPROCESSABLE, f"the project {self._project_id!r} has no module with files")
        return module

    async def load(self, paths: Sequence[str]) -> dict[str, FileState]:
        """Return files as the next edit finds them: with the recorded text of the newest edit if it is not written yet,
        otherwise with the text in the module.

        Raises `ActionError`: `unprocessable` if there is no module, `unavailable` if it cannot be read.
        """
        root = self.module().root
        versions = await self._latest_versions(paths)
        found = await self._ctx.run(partial(read_files, root, sorted(set(paths))))
        late = [
            latest.op_id
            for path, (latest, _) in versions.items()
            if not isinstance(text := found[path], ActionError) and _is_outdated(latest, hash_of(text))
        ]
        recorded = await self._texts_after(late)
        states = {}
        for path, text in found.items():
            latest, version = versions.get(path, (None, 0))
            if isinstance(text, ActionError):
                states[path] = FileState(path, None, latest, version, text)
            elif latest is not None and latest.op_id in recorded:
                states[path] = FileState(path, recorded[latest.op_id], latest, version)
            else:
                states[path] = FileState(path, text, latest, version)
        return states

    async def _latest_versions(self, paths: Sequence[str]) -> dict[str, tuple[FileVersion, int]]:
        """Return the newest edit of each edited file, and the number of its edits."""
        found = {}
        for path in sorted(set(paths)):
            record = await self._versions.get(self._id(path))
            if record is not None:
                found[path] = FileVersion.model_validate(record.data), record.version
        return found

    async def _texts_after(self, op_ids: Sequence[str]) -> dict[str, str | None]:
        """Return the text of its file after each of these executed ops."""
        if not op_ids:
            return {}
        rows = await self._store.ops.find({"id": tuple(op_ids)}, columns=("id", "payload", "previous_snapshot"))
        return {row["id"]: text_after(row) for row in rows}

    async def save(
        self, states: Mapping[str, FileState], steps: Sequence[FileStep], change_id: str, at: datetime
    ) -> None:
        """Record edits, and write them once the transaction has committed.

        Raises `SerializationFailure` if another change has edited one of the files meanwhile.
        """
        writes = []
        # Sorted, so that two changes of the same files cannot deadlock.
        for path, step in sorted({step.op.file_path: step for step in steps}.items()):
            state, after = states[path], hash_of(step.after)
            before, latest = hash_of(state.text), state.latest
            known = latest.earlier if latest is not None and latest.sha256 == before else ()
            earlier = (*known, before)[-_MAX_EARLIER_TEXTS:]
            new = FileVersion(
                project_id=self._project_id,
                file_path=path,
                sha256=after,
                earlier=earlier,
                op_id=step.op.id,
                change_id=change_id,
                executed_at=at,
            )
            await self._put(path, new, state.version)
            writes.append(FileWrite(path, step.after, after, frozenset(earlier)))
        self._ctx.after_commit(
            partial(try_write_files, self.module().root, writes, monotonic() + _WRITE_TIMEOUT, change_id)
        )

    async def write(self, paths: Sequence[str]) -> tuple[WriteResult, ...]:
        """Write the missing edits of these files. Raises `ActionError` for the first file that cannot be written, after
        writing the others."""
        until = monotonic() + _WRITE_TIMEOUT
        versions = await self._latest_versions(paths)
        recorded = await self._texts_after([latest.op_id for latest, _ in versions.values()])
        writes = [
            FileWrite(path, recorded[latest.op_id], latest.sha256, frozenset(latest.earlier))
            for path, (latest, _) in versions.items()
        ]
        if not writes:
            return ()
        self._ctx.begin_external_work("writes files of a module")
        results = await self._ctx.run(partial(write_files, self.module().root, writes, until))
        for each in results:
            if each.error is not None:
                raise each.error
        return results

    async def _put(self, path: str, latest: FileVersion, version: int) -> None:
        data = latest.model_dump(mode="json")
        try:
            if version:
                await self._versions.update(self._id(path), data, version)
            else:
                await self._versions.insert(data, self._id(path))
        except ActionError as refusal:
            if refusal.code is not ErrorCode.CONFLICT:
                raise
            raise SerializationFailure(f"{path!r} is edited by another change: run it again") from None

    def _id(self, path: str) -> str:
        # A path may be longer than an id may be.
        return f"{self._project_id}/{sha256(path.encode()).hexdigest()}"


def _is_outdated(latest: FileVersion, found: str | None) -> bool:
    """Return whether a file has an earlier text, so that its newest edit is not written yet."""
    return found != latest.sha256 and found in latest.earlier
