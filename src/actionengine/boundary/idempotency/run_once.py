"""Work that takes effect once under an idempotency key, even if it is requested again or killed.

It runs in a working copy of the module. Its changes and its result are committed together to the module's journal, and
applied to the module from there (see `journal`). A process that is killed before the commit has changed nothing. If it
is killed later, the next work in the module through `run_once` applies the rest, with this key, another, or none. Only
while files are being moved can others see some of the changes without the rest.

Consequences:

- Keyed work in one module runs one piece after another, also under different keys.
- Work without a key does not wait. If it, or another program, changes the module while keyed work runs in the copy, the
  keyed work is a `conflict`, has no effect, and can be requested again. (Work that writes through its `ModuleHandle`
  waits between that check and the moving of files. Changes by commands or other programs at that moment are kept, or
  replaced if both changed the same file.)
- Commands run in the copy. A command that uses an absolute path of the module bypasses the copy, and one that stores
  its working directory stores the copy's path.
- Effects outside the module, such as network traffic of a command, can happen more than once.
- Files whose names begin with `.actionengine-tmp-`, devices, FIFOs and sockets are not part of the work.
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
    """The limits of keyed work: the seconds for which a result is kept (`age`), the number of results in a module
    (`entries`), and the size of the module (`copy`)."""

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
    """Perform work, and return its result. If work with the same idempotency key was performed before, return that
    result, with `replayed`. Work without a key is performed each time.

    Args:
        admitted: the request after the checks of the boundary.
        perform: performs the request that it is given, which has a copy of the module and no key.
        cancelled: ends the wait for other keyed work once it is set.
        limits: see `OnceLimits`.

    Raises:
        MissingModuleError: if the module does not exist.
        ActionError: the error of `perform`, after which a retry performs again; `idempotency_mismatch` if the key
            belongs to other work; `idempotency_in_progress` if other keyed work holds the module for the request's
            timeout; `conflict` if the module was changed meanwhile, or the wait cancelled; `unprocessable` for a module
            that is too large; `unavailable` if no folder can be created beside it.
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
            "this idempotency key belongs to other work in the module; use a new key for other work",
            {"request_id": request.id},
        )
    return recorded.result.model_copy(update={"replayed": True})


def recover(root: str | os.PathLike[str], timeout: float = 60.0) -> bool:
    """Apply the changes of interrupted keyed work in a module, and return whether there were any. The next work in the
    module would do the same. Raises as `run_once` does for the lock, after `timeout` seconds."""
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
    # The handler may use all capabilities of the request, not only those that its action needs.
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
                    f"the module was changed meanwhile ({paths[0]!r}), and the work had no effect; try again",
                    {"paths": paths},
                )
            journal.commit(key, JournalEntry(fingerprint, result), changes, copy.root)
    finally:
        # The next attempt removes the rest.
        with suppress(ActionError):
            copy.drop()
    return result


def _in_module(admitted: AdmittedRequest, root: Path) -> AdmittedRequest:
    """Return the same work in another root, and without its key, since `perform` may handle keys too."""
    module = admitted.module.model_copy(update={"root": root})
    request = admitted.request.model_copy(update={"module": module, "idempotency_key": None})
    return replace(admitted, request=request, module=module)


def _plain(result: ExecutionResult) -> ExecutionResult:
    """Return a result in the form that a replay will have."""
    try:
        return ExecutionResult.model_validate_json(result.model_dump_json())
    except PydanticSerializationError as error:
        message = f"{result.action} returned a value that has no JSON form: {error}"
        raise ActionError(ErrorCode.INTERNAL, message) from None


def _with_closed_folders(changes: Sequence[FileChange], base: Manifest) -> Sequence[FileChange]:
    """Return the changes, and the read-only folders above them, which are made writable meanwhile."""
    changed = {change.path for change in changes}
    above = {path[:end] for path in changed for end, sign in enumerate(path) if sign == "/"}
    closed = [(path, base[path]) for path in above - changed if path in base and base[path].mode & 0o700 != 0o700]
    return sorted([*changes, *(FileChange(path, node, node) for path, node in closed)], key=lambda change: change.path)


def _check_links(changes: Iterable[FileChange], copy: Path) -> None:
    """Raise `unprocessable` for a link into the copy, which is removed afterwards."""
    for change in changes:
        if change.after is not None and copy in (Path(change.after.link), *Path(change.after.link).parents):
            path = storable_text(change.path)
            raise ActionError(
                ErrorCode.UNPROCESSABLE,
                f"the work created a link {path!r} to an absolute path in its working copy; make the link relative",
                {"path": path},
            )


def _fingerprint(request: ExecutionRequest) -> str:
    tenant = None if request.tenant is None else str(request.tenant.id)
    asked = [tenant, request.action, dict(request.input)]
    if request.actor is not None and request.actor.on_behalf_of is not None:
        # What was done for one person is no answer to another.
        asked.append(str(request.actor.principal))
    return sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
