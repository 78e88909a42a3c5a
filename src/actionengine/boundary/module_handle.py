"""`ModuleHandle`: the only access of a module action's handler to its module, to commands, and to a network."""

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
    """One piece of work in its module. A context manager, which closes the module's files.

    Each method raises `CapabilityNotGrantedError` for a capability that the request does not ask for, `timeout` after
    the deadline, `conflict` once the work is cancelled, and the errors of `ModuleFiles` and `run_process`. A handler
    that calls none of them is not interrupted.

    Args:
        admitted: the request after the checks of the boundary.
        limits: the limits of each command.
        cancelled: ends the work once it is set.
        deadline: the end of the work, as `time.monotonic()` counts.
        require_isolation: refuse to run commands that the system cannot keep off the network.
        file_policy: the files that commands may reach, if the system can enforce that; None for all files that their
            user can reach.

    `request` and `module` are those of the request; `network` and `file_isolation` give the weakest isolation of the
    commands so far.

    Raises:
        MissingModuleError: if the module's folder does not exist.
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
        """Keep other work from writing or deleting files of the module in this block, so that contents that were read
        still hold when they are written back. Commands, and programs outside the engine, are not kept out."""
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
        """Return the contents of a file (`fs:read`)."""
        self._check(Capability.FS_READ)
        return self._files.read(path)

    def read_text(self, path: str) -> str:
        """Return the contents of a file as text. Raises `unprocessable` if they are not UTF-8."""
        try:
            return self.read(path).decode()
        except UnicodeDecodeError:
            raise ActionError(ErrorCode.UNPROCESSABLE, f"{path!r} is not text in UTF-8", {"path": path}) from None

    def write(self, path: str, content: bytes | str, *, executable: bool | None = None) -> None:
        """Create or replace a file, completely or not at all (`fs:write`). A text is encoded as UTF-8."""
        self._check(Capability.FS_WRITE)
        with self.exclusive():
            self._files.write(path, _as_bytes(path, content), executable=executable)

    def delete(self, path: str) -> None:
        """Delete a file or a link (`fs:write`)."""
        self._check(Capability.FS_WRITE)
        with self.exclusive():
            self._files.delete(path)

    def stat(self, path: str) -> FileEntry | None:
        """Return the entry of a file or a link (`fs:read`); None if nothing exists at the path."""
        self._check(Capability.FS_READ)
        return self._files.stat(path)

    def list(self, folder: str = "") -> tuple[FileEntry, ...]:
        """Return the files and links in a folder and its subfolders (`fs:read`)."""
        self._check(Capability.FS_READ)
        found = []
        for entry in self._files.walk(folder):
            self._check_time()
            found.append(entry)
        return tuple(found)

    def edit_file(self, path: str, diff: str) -> str | None:
        """Apply a unified diff to a file (`fs:read` and `fs:write`), completely or not at all. Return the new contents,
        None if the diff removes the file.

        Raises `unprocessable` if the diff is for another file, or does not fit; see `apply_diff`.
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
        """Run a command in a folder of the module, to its end (`cmd:run`). It can reach a network if the request has
        `net:http`, and the files of its `FileAccess`. `timeout` is in seconds; the deadline of the work also ends it.
        """
        self._check(Capability.CMD_RUN)
        policy = self._file_policy
        with closing(self._files.open_folder()) as root, closing(self._files.open_folder(folder)) as descriptor:
            writable = policy is None or not policy.required or Capability.FS_WRITE in self.request.capabilities
            return self._run(argv, descriptor, self._access(root, writable), environment, stdin, timeout)

    def diff(self, path: str | None = None) -> str:
        """Return the differences of the module, or of one of its files or folders, from the last commit (`git:diff`).
        The module must be a git work tree; files that git does not track are left out. See `diff_from_last_commit`."""
        self._check(Capability.GIT_DIFF)

        def run_git(argv: Sequence[str], folder: int, root: int, environment: Mapping[str, str]) -> CompletedCommand:
            # `run` would need `cmd:run`. Here git reaches only a temporary folder of this process.
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
            # If the whole work is over, the error says that, and not only that the command is.
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
        message = f"the contents for {path!r} have characters that UTF-8 cannot encode"
        raise ActionError(ErrorCode.UNPROCESSABLE, message, {"path": path}) from None
