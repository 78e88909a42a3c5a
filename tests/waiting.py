"""Waits for other processes and threads."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 90.0
"""The time in seconds after which a test gives up."""


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait until a condition is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"this did not come about within {seconds} s"
        time.sleep(0.005)
