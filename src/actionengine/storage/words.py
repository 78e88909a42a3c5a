"""The words of a reason, under which the action log finds it."""

from __future__ import annotations

import re
from unicodedata import normalize

MAX_WORDS = 100
"""Different words of a reason that the action log finds it by: the first ones."""

MAX_WORD_LENGTH = 40
"""Characters of a word that are compared; the rest of a longer one is left out."""

_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> tuple[str, ...]:
    """Return the different words of a text, in their order: runs of letters and digits of any script, without regard to
    case, width and form (Unicode's case folding and its form NFKC), up to `MAX_WORDS`."""
    folded = text.casefold()
    if not folded.isascii():
        folded = normalize("NFKC", normalize("NFKC", text).casefold())
    # Most reasons are short, so that all of it is read.
    words = dict.fromkeys(word[:MAX_WORD_LENGTH] for word in _WORD.findall(folded))
    return tuple(words)[:MAX_WORDS]
