"""CREATE INDEX CONCURRENTLY and DROP INDEX CONCURRENTLY, such that each may be run again after it was broken off."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ..errors import MigrationError, PresgenError
from .turns import LOCK_TIMEOUT

logger = logging.getLogger("database.migrations")

COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_NAME: Final = r'(?:"(?:[^"]|"")+"|[^\s"(.;]+)'
_IS_CONCURRENT: Final = re.compile(r"(CREATE\s+(?:UNIQUE\s+)?|DROP\s+)INDEX\s+CONCURRENTLY\b", re.IGNORECASE)
_CREATE: Final = re.compile(
    rf"CREATE\s+(?P<unique>UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    rf"(?P<index>{_NAME})\s+ON\s+(?:ONLY\s+)?(?P<table>{_NAME}(?:\.{_NAME})?)",
    re.IGNORECASE,
)
_DROP: Final = re.compile(
    rf"DROP\s+INDEX\s+CONCURRENTLY\s+(?:IF\s+EXISTS\s+)?(?P<index>{_NAME}(?:\.{_NAME})?)\s*(?:RESTRICT|CASCADE)?\s*;?\s*$",
    re.IGNORECASE,
)
# Of the index of that name on the table: its own name with its schema, whether it can be used, and what it is.
_FIND: Final = """
SELECT index.oid::regclass::text, indisvalid, pg_get_indexdef(index.oid)
FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
WHERE indrelid = to_regclass(%s) AND relname = (parse_ident(%s))[1]::name
"""
# The same index on an empty table, to see what PostgreSQL makes of the statement.
_LIKE: Final = "CREATE TEMPORARY TABLE presgen_like (LIKE {table})"
_DROP_LIKE: Final = "DROP TABLE IF EXISTS presgen_like"
_DEFINITION: Final = "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'presgen_like'::regclass"
_EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"
_IS_PARTITIONED: Final = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass(%s)"
_IS_PARTITIONED_INDEX: Final = "SELECT relkind = 'I' FROM pg_class WHERE oid = to_regclass(%s)"
# The partitions, a number of each that no other has, and whether it has its part of the index.
_PARTITIONS: Final = """
SELECT relid::regclass::text, relid::oid, EXISTS (
    SELECT 1 FROM pg_index JOIN pg_inherits ON inhrelid = indexrelid
    WHERE indrelid = relid AND inhparent = to_regclass(%s))
FROM pg_partition_tree(%s::regclass) WHERE level = 1
"""
_SCHEMA: Final = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(%s)"


@dataclass(frozen=True)
class Concurrent:
    """A statement that builds or drops an index while others write to its table."""

    sql: str
    index: str
    table: str | None
    """The table of an index that is built; None when it is dropped."""
    kind: str = ""
    rest: str = ""
    """What follows the table's name, which says with `kind` (UNIQUE or nothing) what the index is."""

    def run(self, execute: Callable[..., Any]) -> None:
        """Run it outside a transaction, unless what it is to do was done before it could be recorded.

        A build that failed or was killed leaves an index that nobody reads from and every write pays for, and that a
        unique one's writes are checked against: it is dropped, whether it is left from this run or from another one.
        Raises MigrationError where another index has the name.
        """
        if self.table is None:
            if execute(_IS_PARTITIONED_INDEX, (self.index,)).fetchone() == (True,):
                # PostgreSQL drops it in no other way; both statements are one transaction.
                execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; DROP INDEX {self.index}")
            elif execute(_EXISTS, (self.index,)).fetchone()[0]:
                execute(self.sql)
            else:
                logger.warning(
                    "There is no index %s to drop; a run that was broken off may have dropped it", self.index
                )
            return
        if execute(_IS_PARTITIONED, (self.table,)).fetchone() == (True,):
            self._build_on_partitions(execute)
            return
        if self._is_built(execute):
            logger.warning("The index %s is there already; a run that was broken off may have built it", self.index)
            return
        try:
            execute(self.sql)
        except PresgenError:
            with suppress(PresgenError):  # the next run will drop it
                self._is_built(execute)
            raise

    def _build_on_partitions(self, execute: Callable[..., Any]) -> None:
        """Build it on each partition, and then let it be the table's, which PostgreSQL does in no other way."""
        found = execute(_FIND, (self.table, self.index)).fetchone()
        if found is not None:
            name, _, definition = found
            self._require_same(execute, name, definition)
        (schema,) = execute(_SCHEMA, (self.table,)).fetchone()
        whole = f"{schema}.{self.index}"
        execute(f"CREATE {self.kind} INDEX IF NOT EXISTS {self.index} ON ONLY {self.table} {self.rest}")
        for partition, number, has_part in execute(_PARTITIONS, (whole, self.table)).fetchall():
            if not has_part:
                # The same name each time, by which a half one is found, and no longer than 63 bytes.
                short = self.index.strip('"').encode()[:50].decode(errors="ignore")
                name = f'"{short}_{number}"'
                sql = f"CREATE {self.kind} INDEX CONCURRENTLY {name} ON {partition} {self.rest}"
                Concurrent(sql, name, partition, self.kind, self.rest).run(execute)
                execute(f"ALTER INDEX {whole} ATTACH PARTITION {schema}.{name}")

    def _is_built(self, execute: Callable[..., Any]) -> bool:
        """Whether the index is there; what there is of a half one is dropped."""
        found = execute(_FIND, (self.table, self.index)).fetchone()
        if found is None:
            return False
        name, is_valid, definition = found
        if is_valid:
            self._require_same(execute, name, definition)
        else:
            logger.warning("Dropping %s, which was not built to its end", name)
            execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        return bool(is_valid)

    def _require_same(self, execute: Callable[..., Any], name: str, definition: str) -> None:
        if _meaning(definition) != _meaning(self._definition(execute)):
            raise MigrationError(f"there is another index of the name {name}: {definition}")

    def _definition(self, execute: Callable[..., Any]) -> str:
        execute(_DROP_LIKE)
        execute(_LIKE.format(table=self.table))
        try:
            execute(f"CREATE {self.kind} INDEX ON presgen_like {self.rest}")
            return str(execute(_DEFINITION).fetchone()[0])
        finally:
            execute(_DROP_LIKE)


def concurrent(sql: str) -> Concurrent | None:
    """The statement as one that cannot run in a transaction; None for any other. Raises MigrationError."""
    text = COMMENT.sub(" ", sql).strip()
    if not _IS_CONCURRENT.match(text):
        return None
    if match := _CREATE.match(text):
        kind = "UNIQUE" if match["unique"] else ""
        return Concurrent(sql, match["index"], match["table"], kind, text[match.end() :])
    if match := _DROP.match(text):
        return Concurrent(sql, match["index"], None)
    raise MigrationError("an index that is built or dropped CONCURRENTLY needs a name, and a statement of its own")


def _meaning(definition: str) -> tuple[bool, str]:
    """What an index is, without its name and its table's."""
    return definition.startswith("CREATE UNIQUE"), definition.partition(" USING ")[2]
