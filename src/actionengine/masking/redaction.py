"""Redaction of passwords in addresses and connection strings, for logs and terminals."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from urllib.parse import quote, quote_plus, unquote, unquote_plus

HIDDEN = "***"

_SECRET_NAME = r"\w*(?:pass(?!file)|pwd|secret|token|credential|signing_?key|access_?key|api_?key)\w*"
_VALUE = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&;,'\")]+"
# password=x, password = 'x', ?password=x, "password": "x"
_SETTING = re.compile(rf"(?i)(\b{_SECRET_NAME}(?:\s*=\s*|[\"']\s*:\s*))({_VALUE})")
_USER_INFO = re.compile(r"([A-Za-z][\w+.-]*://)[^\s'\"<>]*@")
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b")
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")
_PLAIN = re.compile(r"[\w./\\-]{0,80}").fullmatch
_HOSTS = re.compile(r"[\w.,:\[\]-]+(?:/[\w./-]*)?").fullmatch

_MIN_SECRET = 4
"""Characters of a secret from which it is hidden inside a word, too. A shorter one may be a part of any word."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a text without the passwords of URLs and of settings such as `password=…`, and without these secrets."""
    for secret in sorted(set(secrets), key=lambda secret: len(secret), reverse=True):
        if len(secret) >= _MIN_SECRET:
            text = text.replace(secret, HIDDEN)
        elif secret:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    text = _USER_INFO.sub(rf"\g<1>{HIDDEN}@", text)
    text = _SETTING.sub(rf"\g<1>{HIDDEN}", text)
    return _AWS_KEY.sub(HIDDEN, text)


def redact_address(address: str) -> str:
    """Return the parts of an address that are certainly no secret. No parser needs to accept the address."""
    start, at, rest = address.rpartition("@")
    scheme = _SCHEME.match(address)
    hosts = rest.partition("?")[0]
    if at:
        return f"{scheme[0] if scheme and scheme.end() <= len(start) else ''}{HIDDEN}@{hosts if _HOSTS(hosts) else '…'}"
    if scheme is None:
        return address if _PLAIN(address) else "…"
    location = address[scheme.end() :].partition("?")[0]
    # The text in the place of a port may be a password.
    port = location.partition("/")[0].rpartition(":")[2] if ":" in location.partition("/")[0] else "0"
    return f"{scheme[0]}{location if port.isdigit() and _HOSTS(location) else '…'}"


def secrets_in(text: str) -> frozenset[str]:
    """Return the passwords of a URL, a connection string or a command's argument, in each form that a message can
    have."""
    found: set[str] = set()
    scheme = _SCHEME.search(text)
    if scheme is not None:
        user_info, at, location = text[scheme.end() :].rpartition("@")
        user, colon, password = user_info.partition(":")
        if colon:
            found.add(password)
            # A password may contain a character that ends it for a parser.
            found.update(part for part in re.split(r"[@:/?#]", password) if len(part) >= _MIN_SECRET)
        elif at and scheme[0].lower().startswith("nats"):
            found.add(user)
        host, colon, port = location.partition("/")[0].partition("?")[0].rpartition(":")
        # The name of a bus may be an ARN, which has colons.
        if colon and not port.isdigit() and not host.startswith("[") and not scheme[0].startswith("eventbridge"):
            found.add(port)
    for match in _SETTING.finditer(text):
        value = match[2]
        found.add(re.sub(r"\\(.)", r"\1", value[1:-1]) if value[0] in "'\"" else value)
    plain = {form(secret) for secret in found for form in (str, unquote, unquote_plus)}
    quoted = {form(secret) for secret in plain for form in (quote, quote_plus, partial(quote, safe=""))}
    return frozenset((plain | quoted) - {"", HIDDEN})
