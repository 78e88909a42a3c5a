"""Paths in a module as requests name them: relative, normalised, and never leading out."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from actionengine.boundary.errors import PathEscapeError
from actionengine.errors import storable_text

MAX_PATH_LENGTH = 1000
"""The longest path, in characters."""
MAX_NAME_BYTES = 255
"""The longest name in a path, in bytes of UTF-8: what common file systems keep."""
TEMPORARY_PREFIX = ".actionengine-tmp-"
"""How the names of files begin that are being written. What a crash leaves of them may be removed."""

_outlaw = re.compile("[\0-\x1f\x7f-\x9f\\\\\ud800-\udfff]").search
_drive = re.compile("[A-Za-z]:").match
# What HFS+ leaves out when it compares names: `.g\u200cit` is `.git` there.
_unseen = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]").sub


def module_path(text: str) -> str:
    """The path of a file in a module: names with `/` between them, no more than 1000 characters in all, each name no
    more than 255 bytes.

    It is taken as it is, nothing is decoded or normalised. So `%2e%2e` is a name like any other, and so are the
    look-alikes of dots and slashes that Unicode has; `CON` and `file:stream` are ordinary names on the systems that
    modules lie on.

    Raises:
        PathEscapeError: for a path that is empty, absolute (`/x`, `C:x`, `~`, `~user`), or has an empty name, `.`,
            `..`, a backslash, a control character or half of a surrogate pair in it, and for one that is too long.
    """
    reason = _reason_against(text)
    if reason is not None:
        raise escape(text, reason)
    return text


def module_folder(text: str) -> str:
    """The path of a folder in a module; `""` and `"."` are the module's root, which is given as `""`.

    Raises `PathEscapeError` as `module_path` does.
    """
    return "" if text in ("", ".") else module_path(text)


def write_denial_reason(name: str) -> str | None:
    """Why nothing is written or deleted that has this name, or lies in a folder that has it; None where it may be.

    That is `.git`, in capitals too, because the next git command runs what it finds there; and the names of files that
    are being written.
    """
    if is_git_folder(name):
        return "what is in .git is changed by git alone"
    if name.startswith(TEMPORARY_PREFIX):
        return f"names that begin with {TEMPORARY_PREFIX} are those of files that are being written"
    return None


def is_git_folder(name: str) -> bool:
    """Return whether a name is `.git`, or is taken for it by a file system that compares names in its own way."""
    return _unseen("", name).casefold() == ".git"


def escape(path: str, reason: str) -> PathEscapeError:
    """The refusal of a path."""
    shown = storable_text(path[:200])
    return PathEscapeError(f"the path {shown!r} is refused: {reason}", path=shown)


def _reason_against(text: str) -> str | None:
    if not text:
        return "it is empty"
    if len(text) > MAX_PATH_LENGTH:
        return f"it is longer than {MAX_PATH_LENGTH} characters"
    if _outlaw(text):
        return "it has a backslash, a control character or half of a surrogate pair in it"
    if text.startswith(("/", "~")) or _drive(text):
        return "it is absolute; give one that is relative to the module"
    names = text.split("/")
    if not {"", ".", ".."}.isdisjoint(names):
        return "it is not normalised; give one without '.', '..' and empty names"
    if any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        return f"a name in it is longer than {MAX_NAME_BYTES} bytes"
    return None


ModulePath = Annotated[str, AfterValidator(module_path)]
"""The path of a file in a module, in a Pydantic model. Its `PathEscapeError` reaches who made the model, as it is."""
ModuleFolder = Annotated[str, AfterValidator(module_folder)]
"""The path of a folder in a module, in a Pydantic model; `""` is the root."""
