"""`ModuleHandle`: the only way of a module action's handler to its module, to commands, and to a network."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic

from actionengine.boundary.boundary import AdmittedRequest
from actionengine.boundary.capabilities import Capability
from actionengine.boundary.commands.file_access import FileAccess, FilePolicy
from actionengine.boundary.commands.processes import CompletedCommand, ProcessLimits, run_process
from actionengine.boundary.errors import CapabilityNotGrantedError
from actionengine.boundary.files.files import FileEntry, ModuleFiles
from actionengine.boundary.files.git import diff_from_last_commit
from actionengine.boundary.files.safe_open import closing
from actionengine.boundary.files.unified_diff import apply_diff
from actionengine.boundary.request import FileIsolation, NetworkIsolation
from actionengine.boundary.runner import check_time
from actionengine.errors import ActionError, ErrorCode

_WORST_LAST = ("not_needed", "isolated", "granted", "not_enforced")


class ModuleHandle:
    """One piece of work in its module. A context manager, which lets go of the module's files.

    Each method raises `CapabilityNotGrantedError` for what the request does not ask for, `timeout` after the deadline
    and `conflict` once the work is cancelled, and beside these what `ModuleFiles` and `run_process` raise. A handler
    that calls none for long is not interrupted.

    Args:
        admitted: the request, as the boundary has let it through.
        limits: what each command may use.
        cancelled: ends the work once it is set.
        deadline: when the work has to be over, as `time.monotonic()` counts.
        require_isolation: refuse to run commands that the system cannot keep off the network.
        file_policy: which files commands may reach, where the system can bound them; None for all that their user
            reaches.

    `request` and `module` are those of the request; `network` and `file_isolation` say what commands could reach so
    far, the worst of them all.

    Raises:
        MissingModuleError: where there is no such folder.
    """

    def __init__(
        self,
        admitted: AdmittedRequest,
        *,
        limits: ProcessLimits,
        cancelled: threading.Event,
        deadline: float,
        require_isolation: bool = False,
        file_policy: FilePolicy | None = None,
    ) -> None:
        self.request = admitted.request
        self.module = admitted.module
        self.network: NetworkIsolation = "not_needed"
        self.file_isolation: FileIsolation = "not_needed"
        self._limits = limits
        self._cancelled = cancelled
        self._deadline = deadline
        self._require_isolation = require_isolation
        self._file_policy = file_policy
        self._files = ModuleFiles(admitted.module.root)
        self._lock = threading.RLock()
        self._depth = 0

    def __enter__(self) -> ModuleHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """In this block no other work writes or deletes files of the module, so that what was read may be relied on
        when it is written back. What commands and others do is not held up, and so neither is it kept out."""
        with self._lock:
            if self._depth:
                yield
                return
            with self._files.exclusive(self._check_time):
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def read(self, path: str) -> bytes:
        """What is in a file (`fs:read`)."""
        self._check(Capability.FS_READ)
        return self._files.read(path)

    def read_text(self, path: str) -> str:
        """The same as a text. Raises `unprocessable` for one that is not UTF-8."""
        try:
            return self.read(path).decode()
        except UnicodeDecodeError:
            raise ActionError(ErrorCode.UNPROCESSABLE, f"{path!r} is no text in UTF-8", {"path": path}) from None

    def write(self, path: str, content: bytes | str, *, executable: bool | None = None) -> None:
        """Make or replace a file, wholly or not at all (`fs:write`); a text as UTF-8."""
        self._check(Capability.FS_WRITE)
        with self.exclusive():
            self._files.write(path, _as_bytes(path, content), executable=executable)

    def delete(self, path: str) -> None:
        """Delete a file or a link (`fs:write`)."""
        self._check(Capability.FS_WRITE)
        with self.exclusive():
            self._files.delete(path)

    def stat(self, path: str) -> FileEntry | None:
        """What a file or a link is (`fs:read`); None where nothing is there."""
        self._check(Capability.FS_READ)
        return self._files.stat(path)

    def list(self, folder: str = "") -> tuple[FileEntry, ...]:
        """The files and links in a folder and in those below it (`fs:read`)."""
        self._check(Capability.FS_READ)
        found = []
        for entry in self._files.walk(folder):
            self._check_time()
            found.append(entry)
        return tuple(found)

    def edit_file(self, path: str, diff: str) -> str | None:
        """Apply a unified diff of a file (`fs:read` and `fs:write`), wholly or not at all; what is in it then, None
        where the diff removes it.

        Raises `unprocessable` where the diff is of another file, or does not fit; see `apply_diff`.
        """
        self._check(Capability.FS_READ, Capability.FS_WRITE)
        with self.exclusive():
            try:
                before: str | None = self.read_text(path)
            except ActionError as refusal:
                if refusal.code is not ErrorCode.NOT_FOUND:
                    raise
                before = None
            after = apply_diff(before, diff, path)
            if after is not None:
                self.write(path, after)
            elif before is not None:
                self.delete(path)
        return after

    def run(
        self,
        argv: Sequence[str],
        folder: str = "",
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float | None = None,
    ) -> CompletedCommand:
        """Run a command in a folder of the module, to its end (`cmd:run`). It can reach a network where the request has
        `net:http`, and files as `FileAccess` says. `timeout` is in seconds; it ends with the work at the latest."""
        self._check(Capability.CMD_RUN)
        policy = self._file_policy
        with closing(self._files.open_folder()) as root, closing(self._files.open_folder(folder)) as descriptor:
            writable = policy is None or not policy.required or Capability.FS_WRITE in self.request.capabilities
            return self._run(argv, descriptor, self._access(root, writable), environment, stdin, timeout)

    def diff(self, path: str | None = None) -> str:
        """What differs in the module, or in one of its files or folders, from the last commit of the git work tree that
        it is (`git:diff`): of files that git knows. See `diff_from_last_commit`."""
        self._check(Capability.GIT_DIFF)

        def run_git(argv: Sequence[str], folder: int, root: int, environment: Mapping[str, str]) -> CompletedCommand:
            # Not by `run`, which needs `cmd:run`. What git reaches is a folder of ours.
            return self._run(argv, folder, self._access(root, True), environment, b"", None)

        return diff_from_last_commit(self._files, run_git, path, self._check_time)

    def _access(self, folder: int, writable: bool) -> FileAccess | None:
        return None if self._file_policy is None else FileAccess(folder, writable, self._file_policy)

    def _run(
        self,
        argv: Sequence[str],
        folder: int,
        access: FileAccess | None,
        environment: Mapping[str, str] | None,
        stdin: bytes,
        timeout: float | None,
    ) -> CompletedCommand:
        left = self._deadline - monotonic()
        try:
            finished = run_process(
                argv,
                folder=folder,
                environment=environment,
                stdin=stdin,
                limits=self._limits,
                timeout=left if timeout is None else min(left, timeout),
                network=Capability.NET_HTTP in self.request.capabilities,
                require_isolation=self._require_isolation,
                files=access,
                cancelled=self._cancelled,
            )
        except ActionError as failure:
            # The work is over, not the command alone.
            if failure.code in (ErrorCode.TIMEOUT, ErrorCode.CONFLICT):
                self._check_time()
            raise
        self.network = max(self.network, finished.network, key=_WORST_LAST.index)
        self.file_isolation = max(self.file_isolation, finished.file_isolation, key=_WORST_LAST.index)
        return finished

    def _check(self, *needed: Capability) -> None:
        lacking = sorted(set(needed) - self.request.capabilities)
        if lacking:
            raise CapabilityNotGrantedError(
                f"the work {self.request.id} ({self.request.action}) does not have {', '.join(lacking)}",
                action=self.request.action,
                capabilities=lacking,
            )
        self._check_time()

    def _check_time(self) -> None:
        check_time(self.request, self._cancelled, self._deadline)


def _as_bytes(path: str, content: bytes | str) -> bytes:
    if isinstance(content, bytes):
        return content
    try:
        return content.encode()
    except UnicodeEncodeError:
        raise ActionError(
            ErrorCode.UNPROCESSABLE, f"what is to be in {path!r} has characters that UTF-8 cannot carry", {"path": path}
        ) from None
