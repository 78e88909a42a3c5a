"""Names: their spelling, permissions and patterns, and names that look the same."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from typing import Final
from unicodedata import category, normalize

MAX_COMPARED_NAMES: Final = 250
"""Known names from which the nearest one is searched; with more of them, there is no search."""

MAX_SHOWN_LENGTH: Final = 100
"""Characters of an unknown name that an error repeats."""

_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Invisible characters, besides control and format characters and variation selectors."""

MAX_PERMISSION_LENGTH = 255
"""Characters of the name of a permission."""


def nearest_of(name: object, names: Collection[str]) -> str | None:
    """Return the name that is most like an unknown one; None without a similar one, or with too many to compare.

    A caller chooses the name and repeats the question at will: a comparison takes some 30 microseconds.
    """
    if len(names) > MAX_COMPARED_NAMES:
        return None
    return next(iter(get_close_matches(shortened(name), names, n=1)), None)


def shortened(name: object) -> str:
    """Return the part of a caller's name that a message repeats."""
    return str(name)[:MAX_SHOWN_LENGTH]


def hint(nearest: str | None) -> str:
    """Return the question at the end of a message about an unknown name; nothing without a near name."""
    return "" if nearest is None else f"; did you mean {nearest!r}?"


def check_permission(name: object) -> None:
    """Raise `ValueError` for anything but the name of one permission."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"a permission is a name such as 'payments.refund', not {name!r}")
    if "*" in name:
        raise ValueError(
            f"{name!r} is not the name of one permission: ask for one such as 'payments.refund'; "
            "patterns such as 'payments.*' are for the rules of roles and for an actor's own permissions"
        )


def check_pattern(pattern: object) -> None:
    """Raise `ValueError` for anything but a permission, `"<name>.*"` or `"*"`."""
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(f"a permission is a name such as 'payments.refund', or 'payments.*', not {pattern!r}")
    if ("*" in pattern.removesuffix(".*") and pattern != "*") or pattern == ".*":
        raise ValueError(
            f"the permission {pattern!r} has a misplaced *: 'payments.*' covers all that begin with "
            "'payments.', '*' covers all, and any other permission is named in full"
        )


def pattern_covers(pattern: str, other: str) -> bool:
    """Return whether a pattern includes all that another pattern, or a permission, stands for."""
    if pattern.endswith("*"):
        return pattern == "*" or (other.startswith(pattern[:-1]) and len(other) >= len(pattern))
    return pattern == other


def patterns_covering(permission: str) -> tuple[str, ...]:
    """Return each pattern that includes a permission: `("a.b.c", "a.*", "a.b.*", "*")` for `a.b.c`."""
    head, dot, rest = permission.partition(".")
    if not dot or not rest:
        return permission, "*"
    if "." not in rest:
        return permission, f"{head}.*", "*"
    ends = (at for at, each in enumerate(permission[:-1], 1) if each == ".")
    return permission, *(f"{permission[:end]}*" for end in ends), "*"


def nfc(name: str) -> str:
    """Return a name in Unicode's form NFC, in which names are compared."""
    return name if name.isascii() else normalize("NFC", name)


def spelled(name: str) -> str:
    """Return a new name in the form NFC.

    Raise `ValueError` for a name that another one could look like: with spaces at its ends or in a row, or with
    characters that are invisible, break lines, or change the direction of writing.
    """
    if " ".join(name.split()) != name or not name.isprintable() or not all(map(_is_visible, name)):
        raise ValueError(
            f"{name!a} is not a name: it has spaces at its ends or in a row, or characters that cannot be seen; "
            f"write it as in {clean(name) or 'customer'!r}"
        )
    return nfc(name)


def clean(name: str) -> str:
    """Return a name in Unicode's compatibility form (NFKC), without invisible characters, and without spaces at its
    ends or in a row."""
    for _ in range(4):
        before, name = name, normalize("NFKC", name)
        name = " ".join("".join(" " if each.isspace() else each for each in name if _is_visible(each)).split())
        if name == before:
            break
    return name


def fold(name: str) -> str:
    """Return the common form of all names that look the same: neither `clean` nor letter case makes a difference."""
    if name.isascii() and name.isalnum():
        return name.casefold()
    for _ in range(4):
        before, name = name, clean(clean(name).upper().casefold())
        if name == before:
            break
    return name


def _is_visible(character: str) -> bool:
    if character.isspace():
        return True
    if category(character) in ("Cc", "Cf") or character in _BLANK:
        return False
    code = ord(character)
    return not (0xFE00 <= code <= 0xFE0F or 0x180B <= code <= 0x180F or 0xE0000 <= code <= 0xE0FFF)
