"""The comparison of the declared protection with that of a database.

A table is compared if this process declares it protected (`protect_table`) and the database has it, and also if it
carries a part of the protection, because it may have lost the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from shlex import quote
from typing import Any, NamedTuple

from sqlalchemy import Connection, MetaData, Table, text

from actionengine.errors import ConfigurationError
from actionengine.storage.sql.protection import declaration_of, declared_tables

Query = Callable[[str, Sequence[Any]], Iterable[Sequence[Any]]]
"""A function that runs a statement, with its parameters marked `%s` (PostgreSQL) or `?` (SQLite)."""


class Declared(NamedTuple):
    """A table that is declared protected."""

    schema: str | None
    name: str
    tenant_column: str
    is_not_null: bool = False

    @property
    def key(self) -> tuple[str | None, str]:
        """The schema and the name."""
        return self.schema, self.name


class Difference(NamedTuple):
    """A difference: the table as SQL names it, the problem, and the statement or command that fixes it.

    `is_structural` means that protecting the table again fixes it; `is_minor`, that it exposes no row.
    """

    table: str
    problem: str
    remedy: str
    is_structural: bool = True
    key: tuple[str | None, str] | None = None
    is_minor: bool = False


class Comparison(NamedTuple):
    """The result of a comparison: the differences, the declared tables that the database has, and the tables that carry
    protection."""

    differences: list[Difference]
    found: set[Declared]
    carrying: list[Declared]


def declarations(source: MetaData | Iterable[Table] | None = None) -> list[Declared]:
    """Return the declarations: in a metadata, for some tables, or, by default, in this process."""
    if isinstance(source, MetaData):
        source = source.tables.values()
    declared = []
    for table in declared_tables() if source is None else source:
        declaration = declaration_of(table)
        if declaration is not None:
            column = next(column for column in table.columns if column.name == declaration.tenant_column)
            declared.append(Declared(table.schema, table.name, column.name, not column.nullable))
    return declared


def refuse(differences: Sequence[Difference], database: str) -> None:
    """Raise `ConfigurationError` if there are differences, with the tables, the problems and the remedies."""
    if not differences:
        return
    raise ConfigurationError(
        f"the database {database!r} does not protect these tables as declared:\n" + "\n".join(describe(differences))
    )


def describe(differences: Sequence[Difference]) -> list[str]:
    """Return a line for each table: its problems, and the remedies."""
    lines = []
    for table, found in groupby(sorted(differences), key=lambda difference: difference.table):
        each = list(found)
        remedies = dict.fromkeys(difference.remedy for difference in each)
        lines.append(f"{table}: {', '.join(difference.problem for difference in each)}. Run {', and '.join(remedies)}")
    return lines


def fewest(each: Iterable[Iterator[Difference]]) -> list[Difference]:
    """Return the differences from the declaration that fits best, of several with the same name."""
    return min((list(differences) for differences in each), key=lambda differences: len(differences))


def query_of(connection: Connection) -> Query:
    """Return a function that runs statements on a connection of SQLAlchemy, with any driver."""

    def query(statement: str, parameters: Sequence[Any]) -> Sequence[Sequence[Any]]:
        if not parameters:
            return connection.exec_driver_sql(statement).fetchall()
        return connection.execute(text(statement.replace("%s", ":wanted")), {"wanted": parameters[0]}).fetchall()

    return query


def protecting_command(schema: str | None, name: str, tenant_column: str = "tenant_id") -> str:
    """Return the texts of the command and of the operation that protect a table."""
    options = "" if schema is None else f" --schema {quote(schema)}"
    arguments = "" if schema is None else f", schema={schema!r}"
    if tenant_column != "tenant_id":
        options += f" --tenant-column {quote(tenant_column)}"
        arguments += f", tenant_column={tenant_column!r}"
    return (
        f"`actionengine db protect {quote(name)}{options}` as the owner,"
        f" or op.protect_table({name!r}{arguments}) in a migration"
    )
