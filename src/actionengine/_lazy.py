"""Load the public names of a package when they are first used (PEP 562).

The package's `__init__.pyi` is the only table of its names, for type checkers and for the program. Each name has its
line; the comment names the extra that its module needs:

    from package.module import Name as Name  # extra: sql

The convention is that of lazy-loader, SPEC 1 of Scientific Python.
"""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


class _Source(NamedTuple):
    module: str
    extra: str | None


def attach(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package, made from its `__init__.pyi`.

    `__all__` has the names that need no extra, so that `import *` works without one; of a package in which every name
    needs one, it has all. A name whose module needs a package that is not installed raises `ImportError`, which names
    the extra.
    """
    namespace = vars(sys.modules[package])
    table: dict[str, _Source] = {}

    def read_table() -> dict[str, _Source]:
        if not table:
            path = namespace["__file__"].rpartition(".")[0] + ".pyi"
            text = namespace["__spec__"].loader.get_data(path).decode()
            lines = text.splitlines()
            for statement in ast.parse(text).body:
                if isinstance(statement, ast.ImportFrom) and statement.module:
                    for alias in statement.names:
                        extra = lines[alias.lineno - 1].partition("# extra: ")[2]
                        table[alias.name] = _Source(statement.module, extra or None)
        return table

    def get(name: str) -> Any:
        names = read_table()
        if name == "__all__":
            return sorted(each for each, source in names.items() if source.extra is None) or sorted(names)
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, extra = names[name]
        try:
            value = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            package_name = (error.name or "").partition(".")[0]
            if extra is None or package_name == "actionengine":
                raise
            raise ImportError(f"{name} needs {package_name}: pip install 'actionengine[{extra}]'") from error
        namespace[name] = value
        return value

    def list_names() -> list[str]:
        return sorted({*(each for each in namespace if each.startswith("__")), *read_table()})

    return get, list_names
