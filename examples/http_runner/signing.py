"""Signed requests: HMAC-SHA256 over the method, the path, the time, a nonce and the body.

A signature says who asks, and that nobody has changed the request on its way; it hides nothing, so that between two
machines it belongs inside TLS. A request is good for a window of time around the clock of who checks it, and once in
it: its nonce is remembered for as long as the time in it could still be believed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Protocol

WINDOW = 60.0
"""Seconds by which the clocks of both sides may differ, and a request may be late."""

MIN_KEY_BYTES = 32
"""Bytes of a secret."""

KEY_ID, TIMESTAMP, NONCE, SIGNATURE = "x-key-id", "x-timestamp", "x-nonce", "x-signature"

_NONCE = re.compile(r"[0-9a-f]{32}").fullmatch
_TIME = re.compile(r"[0-9]{1,12}").fullmatch


class Refused(Exception):
    """A request whose signature does not hold. The text says why, and nothing secret."""


class Headers(Protocol):
    """The headers of a request."""

    def get(self, key: str, /) -> str | None: ...


@dataclass(frozen=True)
class Keys:
    """Secrets by their ids, and which of them signs.

    To change a secret without a pause: give both sides the new one, then have the asking side sign with it, then take
    the old one away. Raises `ValueError` for a secret that is too short, and where the one that signs is not there.
    """

    secrets: Mapping[str, bytes] = field(repr=False)
    signs: str

    def __post_init__(self) -> None:
        if self.signs not in self.secrets:
            raise ValueError(f"there is no key {self.signs!r} to sign with")
        for id, secret in self.secrets.items():
            if len(secret) < MIN_KEY_BYTES:
                raise ValueError(f"the key {id!r} has {len(secret)} bytes: it needs {MIN_KEY_BYTES}")

    def sign(self, method: str, path: str, body: bytes, at: float | None = None) -> dict[str, str]:
        """The headers for a request. Each call makes another nonce."""
        timestamp = str(int(time.time() if at is None else at))
        nonce = token_hex(16)
        return {
            KEY_ID: self.signs,
            TIMESTAMP: timestamp,
            NONCE: nonce,
            SIGNATURE: _signature(self.secrets[self.signs], self.signs, method, path, timestamp, nonce, body),
        }


class Verifier:
    """Checks signatures, and remembers the nonces of its window.

    Nonces are kept in the memory of one process: several servers behind one address would have to share them.
    """

    def __init__(self, keys: Keys, *, window: float = WINDOW, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: set[tuple[str, str]] = set()
        self._forgettable: deque[tuple[float, tuple[str, str]]] = deque()

    def check(self, method: str, path: str, headers: Headers, body: bytes) -> str:
        """The id of the key that has signed. Raises `Refused`."""
        key_id, timestamp, nonce, signature = (
            headers.get(name) or "" for name in (KEY_ID, TIMESTAMP, NONCE, SIGNATURE)
        )
        if not (key_id and _TIME(timestamp) and _NONCE(nonce) and signature and signature.isascii()):
            raise Refused("the request is not signed")
        now = self._clock()
        if abs(now - int(timestamp)) > self._window:
            raise Refused(f"the request is of another time: it is good for {self._window:g} seconds")
        # With a key that there is not, as much is computed as with one that there is.
        secret = self._keys.secrets.get(key_id)
        expected = _signature(secret or bytes(MIN_KEY_BYTES), key_id, method, path, timestamp, nonce, body)
        if not hmac.compare_digest(expected, signature) or secret is None:
            raise Refused("the signature is not right")
        # Only what is signed is remembered: who has no key cannot fill the memory.
        self._remember((key_id, nonce), now, int(timestamp) + self._window)
        return key_id

    def _remember(self, nonce: tuple[str, str], now: float, until: float) -> None:
        with self._lock:
            while self._forgettable and self._forgettable[0][0] < now:
                self._seen.discard(self._forgettable.popleft()[1])
            if nonce in self._seen:
                raise Refused("the request has been here before")
            self._seen.add(nonce)
            # In the order of their arrival: each is kept for as long as any that came with it could be good.
            self._forgettable.append((max(until, now + self._window), nonce))


def _signature(secret: bytes, key_id: str, method: str, path: str, timestamp: str, nonce: str, body: bytes) -> str:
    # Each part is in a line of its own, and no part has a line break in it: of the body, the digest stands here.
    lines = (key_id, method, path, timestamp, nonce, hashlib.sha256(body).hexdigest())
    return hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
