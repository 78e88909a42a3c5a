"""The errors of the command line: a line on stderr, without passwords and tracebacks."""

from __future__ import annotations

import errno
import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from sqlalchemy.exc import DBAPIError, StatementError
from typer.core import TyperGroup

from actionengine.masking.redaction import redact, secrets_in

_secrets: set[str] = set()
"""The secrets of this invocation, for all of its threads."""

_WITH_SECRETS = (
    "ACTIONENGINE_URL",
    "ACTIONENGINE_DURABLE_URL",
    "ACTIONENGINE_PUBLISHER",
)
_SECRET_VARIABLES = ("ACTIONENGINE_SIGNING_KEY", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SECRET_OPTION = "--signing-key"
TRACEBACK = "ACTIONENGINE_TRACEBACK"
"""The environment variable that shows tracebacks, without secrets."""


class Commands(TyperGroup):
    """A group of commands that reports the errors of all its commands in a line."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Collect the secrets of the arguments, and parse the arguments."""
        if extra.get("parent") is None and not rest:
            _secrets.clear()
            _secrets.update(_known_secrets(args))
        with report_errors():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with report_errors(), _redacted_log():
            return super().invoke(ctx)


@contextmanager
def report_errors() -> Iterator[None]:
    """Report an error in a line, and end the program with the exit code 1."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE:
            raise
        if hasattr(error, "format_message"):
            # A mistake in the arguments: the message repeats the wrong argument.
            said = error.format_message()
            if shown(said) == said:
                raise
            usage = typer.BadParameter.__base__
            assert usage is not None
            raise usage(shown(said), ctx=getattr(error, "ctx", None)) from None
        if os.environ.get(TRACEBACK):
            typer.echo(shown("".join(traceback.format_exception(error))), err=True)
        fail(message_of(error))


def message_of(error: BaseException) -> str:
    """Return the text of an error for the terminal."""
    if isinstance(error, BaseExceptionGroup):
        return message_of(error.exceptions[0])
    if isinstance(error, StatementError) and error.orig is not None:
        # The text of the outer error contains the statement's parameters.
        return message_of(error.orig)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return f"{error.name} is not installed: {error}"
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    is_ours = type(error).__module__.startswith(("actionengine.", "psycopg", "sqlite3", "sqlalchemy."))
    if text and (is_ours or isinstance(error, (OSError, ValueError, DBAPIError, ImportError))):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text} ({TRACEBACK}=1 shows where)"


def fail(message: str) -> NoReturn:
    """Print a message on stderr, and end with the exit code 1."""
    typer.echo(shown(message), err=True)
    raise typer.Exit(1)


def shown(text: str) -> str:
    """Return a text without the secrets of this invocation."""
    return redact(text, _secrets)


def _known_secrets(arguments: Sequence[str]) -> frozenset[str]:
    found: set[str] = set()
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        found |= secrets_in(argument)
        if argument == _SECRET_OPTION:
            found.add(following)
        elif argument.startswith(f"{_SECRET_OPTION}="):
            found.add(argument.partition("=")[2])
    for name in _WITH_SECRETS:
        found |= secrets_in(os.environ.get(name, ""))
    found.update(os.environ.get(name, "") for name in _SECRET_VARIABLES)
    return frozenset(found - {""})


class _RedactingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


@contextmanager
def _redacted_log() -> Iterator[None]:
    """Keep the secrets out of the log too, which goes to stderr unless a module configures it."""
    handler = logging.lastResort
    if handler is None:
        yield
        return
    former = handler.formatter
    handler.setFormatter(_RedactingFormatter())
    try:
        yield
    finally:
        handler.setFormatter(former)
