"""Locks of files and folders between processes, and between threads with separate openings."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep

_RETRY_INTERVAL = 0.01
"""Seconds between two attempts."""
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked(descriptor: int, should_continue: Callable[[], None], *, required: bool = True) -> Iterator[None]:
    """Hold the lock (`flock`) of an open file or folder.

    Args:
        descriptor: an opening for this lock only: locking the same opening twice has no effect.
        should_continue: called before each further attempt; its error ends the wait.
        required: raise `OSError` on a file system without such locks, instead of continuing without a lock.
    """
    # Windows, where this module can be imported too, has no fcntl.
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
        # If a fork of this process has the opening too, closing it does not release the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
