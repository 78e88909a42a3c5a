"""Signatures of a transaction's context, which the database verifies: HMAC-SHA256, after RFC 2104.

The host's process knows the key, and so does the database, in a form that only the owner can read. A handler's SQL
reaches neither, and so cannot sign for another tenant. In exchange for the host's signature, the database gives each
transaction one of its own (`ae_open`), which is not valid in another transaction.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import NamedTuple

from actionengine.errors import ConfigurationError

_BLOCK = 64
"""Bytes in a block of SHA-256."""

MIN_KEY_BYTES = 16
"""The fewest bytes of a key."""


class Signer:
    """A signer with one key."""

    def __init__(self, key: str | bytes) -> None:
        self._key = signing_key(key)

    def context(self, mode: str, tenant_id: str, action_id: str) -> str:
        """Return the signature of a transaction for this tenant in this action, which reads (mode r) or writes (w)."""
        return hmac.digest(self._key, f"context|{mode}|{tenant_id}|{action_id}".encode(), "sha256").hex()

    def operator(self, call: str) -> str:
        """Return the signature of an operator's call."""
        return hmac.digest(self._key, f"operator|{call}".encode(), "sha256").hex()


class StoredKey(NamedTuple):
    """A key as the database stores it: its id, and the two pads of HMAC."""

    id: str
    inner_pad: bytes
    outer_pad: bytes


def signing_key(key: str | bytes) -> bytes:
    """Return a key as bytes. Raise `ConfigurationError` if it is too short."""
    encoded = key.encode() if isinstance(key, str) else key
    if len(encoded) < MIN_KEY_BYTES:
        raise ConfigurationError(
            f"the signing key has {len(encoded)} bytes, at least {MIN_KEY_BYTES} are needed: make one with "
            f"secrets.token_urlsafe(32)"
        )
    return encoded


def stored_key(key: str | bytes) -> StoredKey:
    """Return the form in which the database stores a key. The id is a hash: it names the key without revealing it."""
    encoded = signing_key(key)
    padded = (sha256(encoded).digest() if len(encoded) > _BLOCK else encoded).ljust(_BLOCK, b"\0")
    return StoredKey(
        sha256(b"actionengine signing key" + encoded).hexdigest()[:16],
        bytes(byte ^ 0x36 for byte in padded),
        bytes(byte ^ 0x5C for byte in padded),
    )
