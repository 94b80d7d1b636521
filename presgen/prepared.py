"""Prepared statements: a connection keeps what it runs often, which PostgreSQL then neither reads nor plans again.

Both take it longer than to run a statement that finds its rows by a key. Only outside transactions: there a statement
of which the server knows no more can be sent again as it is, and nothing is lost.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final

from psycopg2 import errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, AsIs, cursor

from .acting_cursor import ActingConnection, ActingCursor

logger = logging.getLogger("database")

USES_BEFORE: Final = 5
"""How often a statement has to be run before connections keep it."""
KEPT_SECONDS: Final = 10.0
"""How long one is kept: a plan for tables that were empty is a bad one once they are full."""
KEPT_MAX: Final = 100
"""How many a connection keeps; what comes later is sent as it is."""

# Somebody else ends, or has, our statements: a pooler hands the server's session on, or a DISCARD was sent.
_NOT_OURS_ALONE: Final = (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)
# "cached plan must not change result type": a migration has changed a column's.
_OUTDATED: Final = errors.FeatureNotSupported
_NUMBERS: Final = count()
_PROCESS: Final = os.urandom(6).hex()
_SHARED_SESSION: Final = (
    "the server's session is not ours alone, so it keeps no statements for us from now on; "
    "behind a pooler of transactions set DATABASE_PGBOUNCER=true"
)


class Preparable(str):
    """A statement's text, and which of its parameters are others from one run to the next.

    The rest become part of what is prepared, so that a plan may rest on them: on an index of the rows that wait, say.
    """

    uses = 0
    """How often it has been run on connections that do not keep it."""
    name: str | None = None
    """What connections call it, once one of them keeps it."""
    call = ""
    """What runs it under that name."""

    def __new__(cls, sql: str, parameters: Sequence[Any], changing: Iterable[int]) -> Preparable:
        return super().__new__(cls, sql)

    def __init__(self, sql: str, parameters: Sequence[Any], changing: Iterable[int]) -> None:
        self._changing = tuple(changing)
        self._parameters = list(parameters)
        for number, place in enumerate(self._changing, 1):
            self._parameters[place] = AsIs(f"${number}")

    def named(self) -> str:
        """Its name, which says nothing of it and is nobody else's: a pooler may give us a session of others."""
        if self.name is None:
            self.name = f"presgen_{_PROCESS}_{os.getpid()}_{next(_NUMBERS)}"
            arguments = f"({', '.join(['%s'] * len(self._changing))})" if self._changing else ""
            self.call = f"EXECUTE {self.name}{arguments}"
        return self.name

    def body(self, plain: Any) -> bytes:
        """What is prepared, as a cursor of the driver's writes it."""
        body: bytes = plain.mogrify(self, self._parameters)
        return body

    def changing(self, parameters: Sequence[Any]) -> list[Any]:
        """The parameters that the call takes."""
        return [parameters[place] for place in self._changing]


class PreparingConnection(ActingConnection):
    """A connection that keeps statements."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = PreparingCursor
        self._kept: dict[str | None, float] = {}
        """Until which moment of time.monotonic(), by name."""

    def keeps(self, statement: Preparable) -> bool:
        """Whether the server knows the statement; it is told of one that is due."""
        until, now = self._kept.get(statement.name), time.monotonic()
        if until is None:
            statement.uses += 1
            if statement.uses <= USES_BEFORE or not self._has_room(now):
                return False
        elif now < until:
            return True
        else:
            self.forget(statement.name)
        with cursor(self) as plain:
            plain.execute(f"PREPARE {statement.named()} AS ".encode() + statement.body(plain))
        self._kept[statement.name] = now + KEPT_SECONDS
        return True

    def forget(self, *names: str | None) -> None:
        """Keep statements no longer."""
        for name in names:
            del self._kept[name]
        with cursor(self) as plain:
            plain.execute("; ".join(f"DEALLOCATE {name}" for name in names))

    def _has_room(self, now: float) -> bool:
        if len(self._kept) >= KEPT_MAX:
            due = [name for name, until in self._kept.items() if until <= now]
            if due:
                self.forget(*due)
        return len(self._kept) < KEPT_MAX


class PreparingCursor(ActingCursor):
    """A cursor that runs statements as its connection keeps them."""

    connection: PreparingConnection

    def execute(self, query: Any, vars: Any = None) -> None:
        if not isinstance(query, Preparable) or not self._may_prepare() or not self._execute_kept(query, vars):
            super().execute(query, vars)

    def _may_prepare(self) -> bool:
        connection = self.connection
        is_idle = connection.get_transaction_status() == TRANSACTION_STATUS_IDLE
        return bool(is_idle and connection.autocommit and connection.database.keeps_statements)

    def _execute_kept(self, query: Preparable, parameters: Any) -> bool:
        connection = self.connection
        try:
            if connection.keeps(query):
                super().execute(query.call, query.changing(parameters))
                return True
        except _OUTDATED:
            with suppress(*_NOT_OURS_ALONE, KeyError):
                connection.forget(query.name)
        except _NOT_OURS_ALONE:
            connection.database.keeps_statements = False
            logger.warning(_SHARED_SESSION)
        return False
