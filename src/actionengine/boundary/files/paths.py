"""Paths in a module as requests give them: relative, normalised, and never leading out."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from actionengine.boundary.errors import PathEscapeError
from actionengine.errors import storable_text
from actionengine.schemas.json_schemas import SchemaExtra

MAX_PATH_LENGTH = 1000
"""The longest path, in characters."""
MAX_NAME_BYTES = 255
"""The longest name in a path, in bytes of UTF-8: the limit of common file systems."""
TEMPORARY_PREFIX = ".actionengine-tmp-"
"""The beginning of the names of files that are being written. After a crash, such files may be removed."""

_NAME = r"([^./C][^/C]*|\.[^./C][^/C]*|\.\.[^/C]+)".replace("C", r"\\\x00-\x1f\x7f-\x9f")
PATH_PATTERN = f"^{_NAME}(/{_NAME})*$"
"""The regular expression of a normalised path."""
NO_PATH = "^(~|[A-Za-z]:)"
"""The regular expression of an absolute path."""
NO_EDITED_PATH = rf"{NO_PATH}|(^|/)(\.[gG][iI][tT](/|$)|{re.escape(TEMPORARY_PREFIX)})"
"""The regular expression of paths that no edit may have."""

_outlaw = re.compile("[\0-\x1f\x7f-\x9f\\\\\ud800-\udfff]").search
_drive = re.compile("[A-Za-z]:").match
# HFS+ ignores these when it compares names: `.g\u200cit` is `.git` there.
_unseen = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]").sub


def module_path(text: str) -> str:
    """Return the path of a file in a module, after checks: names with `/` between them, at most 1000 characters in all,
    each name at most 255 bytes.

    Nothing is decoded or normalised. So `%2e%2e` is an ordinary name, and so are Unicode look-alikes of dots and
    slashes; `CON` and `file:stream` are ordinary names on the systems of modules.

    Raises:
        PathEscapeError: for a path that is empty, too long, or absolute (`/x`, `C:x`, `~`, `~user`), or that contains
            an empty name, `.`, `..`, a backslash, a control character or half of a surrogate pair.
    """
    reason = _reason_against(text)
    if reason is not None:
        raise escape(text, reason)
    return text


def module_folder(text: str) -> str:
    """Return the path of a folder in a module, after checks; `""` for the module's root, given as `""` or `"."`.

    Raises `PathEscapeError` as `module_path` does.
    """
    return "" if text in ("", ".") else module_path(text)


def write_denial_reason(name: str) -> str | None:
    """Return the reason not to write or delete a path with this name in it; None if there is none.

    Denied are `.git`, in capitals too, because the next git command runs programs that it finds there; and the names of
    files that are being written.
    """
    if is_git_folder(name):
        return "only git changes the files in .git"
    if name.startswith(TEMPORARY_PREFIX):
        return f"names that begin with {TEMPORARY_PREFIX} are reserved for files that are being written"
    return None


def is_git_folder(name: str) -> bool:
    """Return whether a name is `.git`, or equals it on a file system with its own comparison of names."""
    return _unseen("", name).casefold() == ".git"


def escape(path: str, reason: str) -> PathEscapeError:
    """Return the refusal of a path."""
    shown = storable_text(path[:200])
    return PathEscapeError(f"the path {shown!r} is refused: {reason}", path=shown)


def _reason_against(text: str) -> str | None:
    if not text:
        return "it is empty"
    if len(text) > MAX_PATH_LENGTH:
        return f"it is longer than {MAX_PATH_LENGTH} characters"
    if _outlaw(text):
        return "it contains a backslash, a control character or half of a surrogate pair"
    if text.startswith(("/", "~")) or _drive(text):
        return "it is absolute; give a path relative to the module"
    names = text.split("/")
    if not {"", ".", ".."}.isdisjoint(names):
        return "it is not normalised; give a path without '.', '..' and empty names"
    if any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        return f"a name in it is longer than {MAX_NAME_BYTES} bytes"
    return None


_RELATIVE = SchemaExtra(maxLength=MAX_PATH_LENGTH, not_={"pattern": NO_PATH})

ModulePath = Annotated[str, AfterValidator(module_path), _RELATIVE, SchemaExtra(minLength=1, pattern=PATH_PATTERN)]
"""The path of a file in a module, in a Pydantic model. Validation raises `PathEscapeError` itself."""
ModuleFolder = Annotated[str, AfterValidator(module_folder), _RELATIVE, SchemaExtra(pattern=rf"^\.?$|{PATH_PATTERN}")]
"""The path of a folder in a module, in a Pydantic model; `""` is the root."""
