"""The output of governed commands: JSON documents, or blocks of lines for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import typer
from pydantic_core import to_jsonable_python

from actionengine.cli.operator import Listing, Operator
from actionengine.cli.terminal import escape, write

Block = Callable[[str, Any], None]
"""Prints one item, with the slug of its tenant."""


def write_json(value: Any) -> None:
    """Print a JSON document, in ASCII and without line breaks, so that no text in it controls a terminal."""
    typer.echo(json.dumps(_to_json(value)))


def write_answer(is_json: bool, document: Any, *lines: str) -> None:
    """Print a JSON document, or these lines for people, which are escaped already."""
    if is_json:
        write_json(document)
    else:
        write(*lines)


def with_tenant(tenant: str, item: Any) -> dict[str, Any]:
    """Return the JSON form of an action's output, with the slug of its tenant."""
    return {"tenant": tenant, **_to_json(item)}


def write_listing(operator: Operator, listing: Listing, block: Block, none: str, cursor_option: str) -> None:
    """Print a listing, and end the program with its exit code."""
    if operator.json:
        items = [with_tenant(each.tenant, each.item) for each in listing.items]
        write_json({"items": items, "next": listing.next})
    else:
        for number, each in enumerate(listing.items):
            if number:
                write("")
            block(each.tenant, each.item)
        if not listing.items and not listing.code:
            write(none)
        if listing.next is not None:
            typer.echo(f"more: {cursor_option} {escape(listing.next)}", err=True)
    raise typer.Exit(int(listing.code))


def write_item(operator: Operator, tenant: str, item: Any, block: Block) -> None:
    """Print one thing of a tenant."""
    if operator.json:
        write_json(with_tenant(tenant, item))
    else:
        block(tenant, item)


def compact(value: Any) -> str:
    """Return a value as JSON in a line, with spaces, and with the letters of all languages."""
    return json.dumps(_to_json(value), ensure_ascii=False)


def _to_json(value: Any) -> Any:
    return to_jsonable_python(value, fallback=str, inf_nan_mode="null")
