"""Pauses between two attempts to move a run on. Who waits for long has none of the places that all tenants share."""

from __future__ import annotations

from actionengine.concurrency.backoff import equal_jitter, next_delay

MIN_WAIT = 0.1
MAX_WAIT = 60.0
"""Seconds between two attempts where something is away, at first and at most."""

MAX_HELD_WAIT = 1.0
"""Seconds of a pause, at most, in which a run keeps its place; in a longer one others have that."""


class Later(Exception):
    """Raised where a pause is so long that others are to have the place meanwhile.

    `wait` is the pause after that, where something is still away. `position` and `attempt` are those of the step that
    is tried then, where one is.
    """

    def __init__(self, seconds: float, wait: float = MIN_WAIT) -> None:
        super().__init__()
        self.seconds = equal_jitter(seconds)
        self.wait = wait
        self.position: int | None = None
        self.attempt = 1


def after(wait: float) -> float:
    """Return the pause after one where something is away."""
    return next_delay(wait, MAX_WAIT)
