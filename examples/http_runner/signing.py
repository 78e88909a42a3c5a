"""Signed requests: HMAC-SHA256 over the method, the path, the time, a nonce and the body.

A signature proves the sender and that the request is unchanged. It hides nothing, so use TLS between machines. A
request is valid once, in a window of time around the server's clock: its nonce is remembered for that window.
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
    """The error for an invalid signature. Its text has the reason, and no secret."""


class Headers(Protocol):
    """The headers of a request."""

    def get(self, key: str, /) -> str | None: ...


@dataclass(frozen=True)
class Keys:
    """Secrets by their ids, and the id of the one that signs.

    To change a secret without a pause, give both sides the new one, then sign with it, then remove the old one. Raises
    `ValueError` for a secret that is too short, and for an unknown signing id.
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
        """Return the headers for a request, with a new nonce."""
        timestamp = str(int(time.time() if at is None else at))
        nonce = token_hex(16)
        return {
            KEY_ID: self.signs,
            TIMESTAMP: timestamp,
            NONCE: nonce,
            SIGNATURE: _signature(self.secrets[self.signs], self.signs, method, path, timestamp, nonce, body),
        }


class Verifier:
    """A checker of signatures, which remembers the nonces of its window.

    Nonces are in the memory of one process: several servers behind one address would have to share them.
    """

    def __init__(self, keys: Keys, *, window: float = WINDOW, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._window = window
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: set[tuple[str, str]] = set()
        self._forgettable: deque[tuple[float, tuple[str, str]]] = deque()

    def check(self, method: str, path: str, headers: Headers, body: bytes) -> str:
        """Return the id of the key that signed. Raises `Refused`."""
        key_id, timestamp, nonce, signature = (
            headers.get(name) or "" for name in (KEY_ID, TIMESTAMP, NONCE, SIGNATURE)
        )
        if not (key_id and _TIME(timestamp) and _NONCE(nonce) and signature and signature.isascii()):
            raise Refused("the request is not signed")
        now = self._clock()
        if abs(now - int(timestamp)) > self._window:
            raise Refused(f"the time of the request is outside the window of {self._window:g} seconds")
        # An unknown key costs the same computation as a known one.
        secret = self._keys.secrets.get(key_id)
        expected = _signature(secret or bytes(MIN_KEY_BYTES), key_id, method, path, timestamp, nonce, body)
        if not hmac.compare_digest(expected, signature) or secret is None:
            raise Refused("the signature is wrong")
        # Only signed nonces are remembered, so that a client without a key cannot fill the memory.
        self._remember((key_id, nonce), now, int(timestamp) + self._window)
        return key_id

    def _remember(self, nonce: tuple[str, str], now: float, until: float) -> None:
        with self._lock:
            while self._forgettable and self._forgettable[0][0] < now:
                self._seen.discard(self._forgettable.popleft()[1])
            if nonce in self._seen:
                raise Refused("the nonce of the request was used before")
            self._seen.add(nonce)
            # In the order of arrival. Each is kept as long as a request of that time could be valid.
            self._forgettable.append((max(until, now + self._window), nonce))


def _signature(secret: bytes, key_id: str, method: str, path: str, timestamp: str, nonce: str, body: bytes) -> str:
    # Each part has its own line and no line break in it; the body is represented by its digest.
    lines = (key_id, method, path, timestamp, nonce, hashlib.sha256(body).hexdigest())
    return hmac.new(secret, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
