"""Locks of files and folders that hold between processes, and between threads that have opened them each for itself."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep

_RETRY_INTERVAL = 0.01
"""Seconds between two tries."""
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked(descriptor: int, should_continue: Callable[[], None], *, required: bool = True) -> Iterator[None]:
    """Hold the lock (`flock`) of what is open.

    Args:
        descriptor: opened for this alone: a second hold of the same opening is no hold.
        should_continue: called before each further try; what it raises ends the waiting.
        required: whether a file system without such locks is an `OSError`, or nothing is held on it.
    """
    # Not on Windows, where this file can be imported all the same.
    import fcntl

    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            should_continue()
            sleep(_RETRY_INTERVAL)
        except OSError as error:
            if required or error.errno not in _NO_LOCKS:
                raise
            yield
            return
    try:
        yield
    finally:
        # Closing does not do it where a fork of this process holds the opening, too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
