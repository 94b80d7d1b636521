"""CREATE INDEX CONCURRENTLY and DROP INDEX CONCURRENTLY, such that each may be run again after it was broken off."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ..errors import MigrationError, PresgenError

logger = logging.getLogger("database.migrations")

_COMMENTS: Final = re.compile(r"\s*(--[^\n]*\n\s*|/\*.*?\*/\s*)*", re.DOTALL)
_NAME: Final = r'(?:"(?:[^"]|"")+"|[^\s"(.;]+)'
_IS_CONCURRENT: Final = re.compile(r"(CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+CONCURRENTLY\b", re.IGNORECASE)
_CREATE: Final = re.compile(
    rf"CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    rf"(?P<index>{_NAME})\s+ON\s+(?:ONLY\s+)?(?P<table>{_NAME}(?:\.{_NAME})?)",
    re.IGNORECASE,
)
_DROP: Final = re.compile(
    rf"DROP\s+INDEX\s+CONCURRENTLY\s+(?:IF\s+EXISTS\s+)?(?P<index>{_NAME}(?:\.{_NAME})?)\s*(?:RESTRICT|CASCADE)?\s*;?\s*$",
    re.IGNORECASE,
)
# Of the index of that name on the table: its own name with its schema, and whether it can be used.
_FIND: Final = """
SELECT index.oid::regclass::text, indisvalid
FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
WHERE indrelid = to_regclass(%s) AND relname = (parse_ident(%s))[1]
"""
_EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"


@dataclass(frozen=True)
class Concurrent:
    """A statement that builds or drops an index while others write to its table."""

    sql: str
    index: str
    table: str | None
    """The table of an index that is built; None when it is dropped."""

    def run(self, execute: Callable[..., Any]) -> None:
        """Run it outside a transaction, unless what it is to do was done before it could be recorded.

        A build that failed or was killed leaves an index that nobody reads from and every write pays for, and that a
        unique one's writes are checked against: it is dropped, whether it is left from this run or from another one.
        """
        if self.table is None:
            if execute(_EXISTS, (self.index,)).fetchone()[0]:
                execute(self.sql)
            return
        if self._is_built(execute):
            logger.info("The index %s is there already", self.index)
            return
        try:
            execute(self.sql)
        except PresgenError:
            with suppress(PresgenError):  # the next run will drop it
                self._is_built(execute)
            raise

    def _is_built(self, execute: Callable[..., Any]) -> bool:
        """Whether there is a whole index; what there is of a half one is dropped."""
        found = execute(_FIND, (self.table, self.index)).fetchone()
        if found is None:
            return False
        name, is_valid = found
        if not is_valid:
            logger.warning("Dropping %s, which was not built to its end", name)
            execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        return bool(is_valid)


def concurrent(sql: str) -> Concurrent | None:
    """The statement as one that cannot run in a transaction; None for any other. Raises MigrationError."""
    text = sql[_COMMENTS.match(sql).end() :]  # type: ignore[union-attr]
    if not _IS_CONCURRENT.match(text):
        return None
    match = _CREATE.match(text) or _DROP.match(text)
    if match is None:
        raise MigrationError("an index that is built or dropped CONCURRENTLY needs a name, and a statement of its own")
    return Concurrent(sql, match["index"], match.groupdict().get("table"))
