"""The protection that a storage expects of its database: compared when it opens, and when a table appears later."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import MetaData, Table, event
from sqlalchemy.engine import Connection

from actionengine.errors import ConfigurationError
from actionengine.storage.errors import StorageError
from actionengine.storage.sql.protection import declaration_count
from actionengine.storage.sql.verification import Comparison, Declared, Difference, Query, declarations, refuse

logger = logging.getLogger("actionengine")

_MAX_STATEMENTS = 1000
"""The most statements that are cached because they name no missing table."""

_QUOTES = str.maketrans("", "", '"%`[]')


class DeclaredProtection:
    """The tables that a storage expects to be protected, if its database has them.

    `source` has the tables, or their metadata; by default, each table of this process that `protect_table` was called
    with. Without tables, nothing is compared. `compare` compares a database with the declarations.
    """

    def __init__(
        self, source: MetaData | Iterable[Table] | None, compare: Callable[[Query, Sequence[Declared]], Comparison]
    ) -> None:
        self._source = list(source) if source is not None and not isinstance(source, MetaData) else source
        self._compare = compare
        self._missing: list[Declared] = []
        self._elsewhere: set[str] = set()
        self._count = -1
        self.differences: list[Difference] = []

    def check(self, query: Query, database: str) -> None:
        """Compare a database with the current declarations. Raise `ConfigurationError` if it differs."""
        if self._source == []:
            return
        count = declaration_count()
        declared = declarations(self._source)
        comparison = self._compare(query, declared)
        if comparison.differences and self._source is None:
            # A table that no code refers to is not declared any more, once it is collected.
            gc.collect()
            declared = declarations()
            comparison = self._compare(query, declared)
        self.differences = comparison.differences
        refuse([difference for difference in self.differences if not difference.is_minor], database)
        for difference in self.differences:
            logger.warning("%s: %s. Run %s", difference.table, difference.problem, difference.remedy)
        self._missing = [each for each in declared if each not in comparison.found]
        self._count = count

    @property
    def is_complete(self) -> bool:
        """Return whether each declared table existed, and was protected, when it was last compared."""
        return self._source == [] or (not self._missing and self._count == declaration_count())

    def watch(self, connection: Connection, database: str) -> None:
        """Compare again before the first statement on this connection that names a table that did not exist.

        The statement raises `StorageError` if the table is not protected as declared.
        """

        def before(conn: Connection, cursor: Any, statement: str, *rest: Any) -> None:
            if self._count != declaration_count():
                self._missing = declarations(self._source)
                self._elsewhere.clear()
            if statement in self._elsewhere or not self._names_missing(statement):
                return
            own = conn.connection.cursor()
            try:
                self.check(lambda sql, parameters: _rows(own, sql, parameters), database)
            except ConfigurationError as error:
                raise StorageError(str(error)) from None
            finally:
                own.close()

        def after(conn: Connection, cursor: Any, statement: str, *rest: Any) -> None:
            # The statement works without the missing table: it names another table, or a column.
            if len(self._elsewhere) < _MAX_STATEMENTS and self._names_missing(statement):
                self._elsewhere.add(statement)

        event.listen(connection, "before_cursor_execute", before)
        event.listen(connection, "after_cursor_execute", after)

    def _names_missing(self, statement: str) -> bool:
        plain = _plain(statement)
        return any(_plain(each.name) in plain for each in self._missing)


def _plain(text: str) -> str:
    """Return a text without the characters that quote or double parts of a name in SQL."""
    return text.translate(_QUOTES).lower()


def _rows(cursor: Any, statement: str, parameters: Sequence[Any]) -> list[Sequence[Any]]:
    cursor.execute(statement, parameters)
    return list(cursor.fetchall())
