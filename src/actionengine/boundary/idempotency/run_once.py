"""Work that takes effect once: under an idempotency key, however often it is asked for, and whenever it is killed.

It is done in a working copy of the module. What it has changed there and its result are put into the module's journal
at once, and carried out in the module from there (see `journal`). A process that is killed before that has changed
nothing; one that is killed after it has left the rest to whoever next works in the module through `run_once`, with this
key, another, or none. Only between the two, while files are being moved, can others see some of the changes without the
rest.

What follows from this:

- Keyed work in one module is done one after another, also under different keys.
- Work without a key does not wait for that. Where it, or anybody else, changes the module while keyed work is done in
  the copy, the keyed work is a `conflict`, has no effect, and can be asked for again. (Work that writes through its
  `ModuleHandle` waits in the instant between that check and the moving of files. What a command or anybody else changes
  then is kept, or is replaced where both changed the same file.)
- Commands run in the copy: one that names the module by an absolute path goes round it, and what writes down where it
  runs writes down the copy's path.
- Effects outside of the module, such as what a command sends over a network, can happen more than once.
- Files whose names begin with `.actionengine-tmp-`, devices, FIFOs and sockets are not part of it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from time import monotonic

from pydantic_core import PydanticSerializationError

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.capabilities import Capability
from actionengine.boundary.files.files import ModuleFiles
from actionengine.boundary.idempotency.journal import Journal, JournalEntry
from actionengine.boundary.idempotency.manifest import FileChange, Manifest
from actionengine.boundary.idempotency.working_copy import CopyLimits, WorkingCopy
from actionengine.boundary.request import ExecutionRequest, ExecutionResult
from actionengine.boundary.runner import check_time
from actionengine.errors import ActionError, ErrorCode, storable_text

Perform = Callable[[AdmittedRequest], ExecutionResult]

_CHANGING = frozenset({Capability.FS_WRITE, Capability.CMD_RUN})


@dataclass(frozen=True, slots=True)
class OnceLimits:
    """How long keyed work is remembered (`age`, seconds), how much of it in a module (`entries`), and how large a
    module may be for it (`copy`)."""

    age: float = 7 * 24 * 60 * 60
    entries: int = 10_000
    copy: CopyLimits = field(default_factory=CopyLimits)


def run_once(
    admitted: AdmittedRequest,
    perform: Perform,
    *,
    cancelled: threading.Event | None = None,
    limits: OnceLimits | None = None,
) -> ExecutionResult:
    """Perform work whose request has an idempotency key, unless it has been performed; then give its result again, with
    `replayed`. Work without a key is performed.

    Args:
        admitted: the request, as the boundary has let it through.
        perform: does the work that it is given: the same in a copy of the module, and without the key.
        cancelled: ends the waiting for other keyed work once it is set.
        limits: see `OnceLimits`.

    Raises:
        MissingModuleError: where there is no such module.
        ActionError: what `perform` raises, after which a retry performs again; `idempotency_mismatch` where the key
            belongs to other work; `idempotency_in_progress` where other keyed work has held the module for as long as
            the request's timeout; `conflict` where the module was changed meanwhile, or the waiting cancelled;
            `unprocessable` for a module that is too large; `unavailable` where no folder can be made beside it.
    """
    request = admitted.request
    limits = limits or OnceLimits()
    journal = Journal(admitted.module.root)
    if request.idempotency_key is None:
        if journal.is_interrupted():
            with journal.lock(request, cancelled):
                journal.recover()
        return perform(admitted)
    fingerprint = _fingerprint(request)
    with journal.lock(request, cancelled):
        journal.recover()
        recorded = journal.find(request.idempotency_key)
        if recorded is None:
            journal.purge(limits.age, limits.entries)
            return _performed(admitted, perform, journal, fingerprint, limits, cancelled)
    if recorded.fingerprint != fingerprint:
        raise ActionError(
            ErrorCode.IDEMPOTENCY_MISMATCH,
            "this idempotency key belongs to other work in the module; use a key for one piece of work only",
            {"request_id": request.id},
        )
    return recorded.result.model_copy(update={"replayed": True})


def recover(root: str | os.PathLike[str], timeout: float = 60.0) -> bool:
    """Carry out what keyed work in a module has left when it was killed, as the next work in it would; whether there
    was any. Raises as `run_once` does for the lock, after `timeout` seconds."""
    journal = Journal(root)
    if not journal.is_interrupted():
        return False
    with journal.lock(ExecutionRequest(action="recover", timeout=timeout)):
        journal.recover()
    return True


def _performed(
    admitted: AdmittedRequest,
    perform: Perform,
    journal: Journal,
    fingerprint: str,
    limits: OnceLimits,
    cancelled: threading.Event | None,
) -> ExecutionResult:
    should_continue = partial(check_time, admitted.request, cancelled, monotonic() + admitted.request.timeout)
    key = admitted.request.idempotency_key or ""
    # What the request has, its handler may use, whatever its action needs at least.
    if _CHANGING.isdisjoint(admitted.request.capabilities):
        result = _plain(perform(_in_module(admitted, journal.root)))
        journal.commit(key, JournalEntry(fingerprint, result))
        return result
    copy = WorkingCopy.create(journal.root, journal.fresh("copy"), limits.copy, should_continue)
    try:
        result = _plain(perform(_in_module(admitted, copy.root)))
        changes = _with_closed_folders(copy.all_changes(should_continue), copy.base)
        _check_links(changes, copy.root)
        with ModuleFiles(journal.root) as files, files.exclusive(should_continue):
            others = copy.changes_of_module(should_continue)
            if others:
                paths = [storable_text(change.path) for change in others[:20]]
                raise ActionError(
                    ErrorCode.CONFLICT,
                    f"the module was changed by someone else meanwhile ({paths[0]!r}); nothing has taken effect, "
                    "try again",
                    {"paths": paths},
                )
            journal.commit(key, JournalEntry(fingerprint, result), changes, copy.root)
    finally:
        # What cannot be removed is left to the next attempt.
        with suppress(ActionError):
            copy.drop()
    return result


def _in_module(admitted: AdmittedRequest, root: Path) -> AdmittedRequest:
    """The same work elsewhere, and without its key: what performs it may look for one, too."""
    module = admitted.module.model_copy(update={"root": root})
    request = admitted.request.model_copy(update={"module": module, "idempotency_key": None})
    return replace(admitted, request=request, module=module)


def _plain(result: ExecutionResult) -> ExecutionResult:
    """A result as a replay will give it."""
    try:
        return ExecutionResult.model_validate_json(result.model_dump_json())
    except PydanticSerializationError as error:
        message = f"{result.action} returned something that has no JSON form: {error}"
        raise ActionError(ErrorCode.INTERNAL, message) from None


def _with_closed_folders(changes: Sequence[FileChange], base: Manifest) -> Sequence[FileChange]:
    """The changes, and the folders above them that nothing can be changed in: these are opened up meanwhile."""
    changed = {change.path for change in changes}
    above = {path[:end] for path in changed for end, sign in enumerate(path) if sign == "/"}
    closed = [(path, base[path]) for path in above - changed if path in base and base[path].mode & 0o700 != 0o700]
    return sorted([*changes, *(FileChange(path, node, node) for path, node in closed)], key=lambda change: change.path)


def _check_links(changes: Iterable[FileChange], copy: Path) -> None:
    """A link into the copy would lead nowhere as soon as that is gone."""
    for change in changes:
        if change.after is not None and copy in (Path(change.after.link), *Path(change.after.link).parents):
            path = storable_text(change.path)
            raise ActionError(
                ErrorCode.UNPROCESSABLE,
                f"the work made a link {path!r} to an absolute path of the copy that it was done in; make it relative",
                {"path": path},
            )


def _fingerprint(request: ExecutionRequest) -> str:
    tenant = None if request.tenant is None else str(request.tenant.id)
    asked = json.dumps([tenant, request.action, dict(request.input)], sort_keys=True, separators=(",", ":"))
    return sha256(asked.encode()).hexdigest()
