"""The outputs of the library's module actions, as the catalogue describes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

_PATH = "The path of the file, relative to the module."
_SHA256 = "The SHA-256 of the contents, in lower case."


class ReadFile(BaseModel):
    """A file: its contents as text, or as base64 if they are not UTF-8."""

    path: str = Field(description=_PATH)
    text: str = Field(default="", description="The contents as text, if they are UTF-8.")
    base64: str = Field(default="", description="The contents as base64, if they are not UTF-8.")
    size: int = Field(description="The number of bytes.")
    sha256: str = Field(description=_SHA256)


class WrittenContents(BaseModel):
    """A file that was written."""

    path: str = Field(description=_PATH)
    size: int = Field(description="The number of bytes.")
    sha256: str = Field(description=_SHA256)


class FolderEntry(BaseModel):
    """A file or a link."""

    path: str = Field(description=_PATH)
    size: int = Field(description="The number of bytes.")
    executable: bool = Field(description="True if it can be executed.")
    link: str | None = Field(description="The target of a link; null for a file.")


class FolderEntries(BaseModel):
    """The files and links in a folder and its subfolders."""

    folder: str = Field(description="The path of the folder, relative to the module; empty for its root.")
    entries: tuple[FolderEntry, ...] = Field(description="The files and links, by path.")


class DeletedFile(BaseModel):
    """A file that was deleted."""

    path: str = Field(description=_PATH)


class FinishedCommand(BaseModel):
    """A command that ran to its end."""

    exit_code: int = Field(description="The exit code; a negative one is the signal that ended the command.")
    stdout: str = Field(description="Its standard output.")
    stderr: str = Field(description="Its standard error.")
    duration: float = Field(description="The duration, in seconds.")
    limit: Literal["cpu", "file"] | None = Field(description="The limit that ended it, if that is known.")


class ModuleDiff(BaseModel):
    """The differences from the last commit."""

    diff: str = Field(description="The unified diff.")


class EditedContents(BaseModel):
    """A file that was edited."""

    path: str = Field(description=_PATH)
    sha256: str | None = Field(description="The SHA-256 of the new contents; null if the diff deletes the file.")
    added: int = Field(description="The number of added lines.")
    removed: int = Field(description="The number of removed lines.")
