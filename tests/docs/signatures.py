"""Signatures and docstrings of public names, as Markdown, read from the source."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

PUBLIC_MODULES = {"actionengine", *(f"actionengine.{part}" for part in ("boundary", "boundary.remote", "changes"))}
PUBLIC_MODULES |= {f"actionengine.{part}" for part in ("durable", "testing", "workflows")}
_SECTIONS = {"Args", "Returns", "Raises", "Attributes", "Yields"}
_ENTRY = re.compile(r"(?P<name>[\w*, .\[\]`]+): (?P<text>.*)", re.DOTALL)
_SHOWN_DECORATORS = {"property", "classmethod", "staticmethod"}
_SHOWN_DUNDERS = {"__init__", "__call__"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Entry(NamedTuple):
    """A public name: its stub, its docstring, and the docstrings of its members."""

    name: str
    stub: str
    doc: str
    members: tuple[tuple[str, str], ...] = ()


def entries(path: str, members: Sequence[str] | None = None, without: Sequence[str] = ()) -> Iterator[Entry]:
    """Read a public name; of a module, the members that are named.

    Args:
        path: the name with its module, such as `actionengine.Engine`.
        members: the members to show, inherited ones too; None means all public members of the class itself.
        without: members to leave out.
    """
    found = _find(path)
    if isinstance(found, ModuleType):
        yield Entry(path, "", inspect.getdoc(found) or "")
        for member in members or ():
            yield from entries(f"{path}.{member}")
        return
    node = _node(path, found)
    module, _, last = path.rpartition(".")
    name = last if module in PUBLIC_MODULES else path
    if isinstance(node, ast.ClassDef):
        yield _class(name, found, node, members, without)
    elif isinstance(node, Function):
        yield Entry(name, _function(node), ast.get_docstring(node) or "")
    else:
        statement, doc = node
        yield Entry(name, ast.unparse(statement), doc)


def _find(path: str) -> Any:
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(Path(inspect.getfile(import_module(module))).read_text(encoding="utf-8"))


def _node(path: str, found: Any) -> Any:
    """Return the node that defines a class or a function; of another name, its assignment and its docstring."""
    if isinstance(found, type) or inspect.isfunction(found):
        return _definition(_tree(found.__module__).body, found.__qualname__.split("."))
    module, _, name = path.rpartition(".")
    for candidate in [module, *(each for each in sys.modules if each.startswith("actionengine."))]:
        for statement, doc in _documented(_tree(candidate).body):
            if _assigned(statement) == name:
                return statement, doc
    raise LookupError(f"no assignment of {path}")


def _definition(body: Sequence[ast.stmt], names: Sequence[str]) -> ast.ClassDef | Function:
    """Return the last definition of a qualified name: of overloads, the implementation."""
    flat = [inner for node in body for inner in (node.body if isinstance(node, ast.With | ast.If) else [node])]
    found = [node for node in flat if isinstance(node, ast.ClassDef | Function) and node.name == names[0]]
    return found[-1] if len(names) == 1 else _definition(found[-1].body, names[1:])


def _documented(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Yield each statement with the text that stands below it."""
    for statement, following in zip(body, [*body[1:], ast.Pass()], strict=True):
        text = following.value if isinstance(following, ast.Expr) else None
        is_doc = isinstance(text, ast.Constant) and isinstance(text.value, str)
        yield statement, inspect.cleandoc(ast.literal_eval(text)) if is_doc and text is not None else ""


def _assigned(statement: ast.stmt) -> str | None:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return targets[0].id if isinstance(targets[0], ast.Name) else None


def _function(node: Function) -> str:
    decorators = [each for each in node.decorator_list if ast.unparse(each) in _SHOWN_DECORATORS]
    stub = type(node)(**{**vars(node), "body": [ast.Expr(ast.Constant(...))], "decorator_list": decorators})
    return ast.unparse(stub)


def _class(name: str, cls: type, node: ast.ClassDef, members: Sequence[str] | None, without: Sequence[str]) -> Entry:
    lines, docs = [], []
    for member, statement, doc in _members(cls, node, members):
        if member in without:
            continue
        if isinstance(statement, Function):
            lines.append(_function(statement))
            doc = ast.get_docstring(statement) or ""
        else:
            lines.append(ast.unparse(statement))
        if doc:
            docs.append((member, doc))
    bases = [base for base in map(ast.unparse, node.bases) if not base.startswith("_")]
    last = name.rpartition(".")[2]
    head = f"class {last}({', '.join(bases)}):" if bases else f"class {last}:"
    stub = "\n".join([head, *(textwrap.indent(line, "    ") for line in lines or ["..."])])
    return Entry(name, stub, ast.get_docstring(node) or "", tuple(docs))


def _members(cls: type, node: ast.ClassDef, names: Sequence[str] | None) -> Iterator[tuple[str, ast.stmt, str]]:
    if names is not None:
        for name in names:
            function = inspect.unwrap(inspect.getattr_static(cls, name))
            yield name, _node(name, getattr(function, "__func__", function)), ""
        return
    inherited = [base for base in cls.__mro__[1:] if _is_hidden(base)]
    seen: set[str] = set()
    for body in [node.body, *(_node("", base).body for base in inherited)]:
        for statement, doc in _documented(body):
            member = statement.name if isinstance(statement, Function) else _assigned(statement)
            if member is None or member in seen or (member.startswith("_") and member not in _SHOWN_DUNDERS):
                continue
            if any(ast.unparse(each) == "overload" for each in getattr(statement, "decorator_list", [])):
                continue
            seen.add(member)
            yield member, statement, doc


def _is_hidden(base: type) -> bool:
    """Return whether a base class is an internal one, whose public members belong to the classes derived from it."""
    is_ours = base.__module__.startswith("actionengine.")
    return is_ours and base.__name__.startswith("_") and "[" not in base.__name__


def formatted(stubs: Sequence[str]) -> list[str]:
    """Format stubs as ruff formats a file of them."""
    between = "\n\n# ----\n\n"
    command = [str(Path(sys.executable).with_name("ruff")), "format", "--stdin-filename", "stubs.pyi", "-"]
    run = subprocess.run(command, input=between.join(stubs), capture_output=True, text=True, check=True)
    return [stub.strip() for stub in re.split(r"\n+# ----\n+", run.stdout)]


def as_markdown(doc: str) -> str:
    """Write the sections of a docstring (Args, Returns, Raises) as lists."""
    lines: list[str] = []
    section, text = None, inspect.cleandoc(doc).splitlines()
    for line in text:
        if line.rstrip(":") in _SECTIONS and line.endswith(":"):
            section = line.rstrip(":")
            lines += [f"**{section}**", ""]
        elif section is None or not line.strip():
            lines.append(line)
        elif not line.startswith("    "):
            section = None
            lines.append(line)
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            entry = _ENTRY.fullmatch(line.strip()) if section in ("Args", "Raises", "Attributes") else None
            lines.append(f"- `{entry['name']}`: {entry['text']}" if entry else line.strip())
    return "\n".join(lines).strip()
