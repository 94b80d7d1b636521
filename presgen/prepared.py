"""Prepared statements: a connection keeps what is run often, which PostgreSQL then neither reads nor plans again.

To read and plan a statement that finds a row by its key takes longer than to run it. Only outside transactions: there
one of which the server knows no more can be sent again as it is, and nothing is lost.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

from psycopg2 import errors
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, AsIs, cursor

from .acting_cursor import ActingConnection, ActingCursor

logger = logging.getLogger("database")

USES_BEFORE: Final = 5
"""How often a connection runs a statement as it is, within KEPT_SECONDS, before it keeps it."""
KEPT_SECONDS: Final = 1.0
"""How long one is kept: a plan for tables that were empty is a bad one once they are full."""
KEPT_MAX: Final = 100
"""How many a connection keeps; what comes later is sent as it is until one of them is due."""
COUNTED_MAX: Final = 1000
"""Of how many statements a connection counts the runs, before it begins anew."""

# "cached plan must not change result type", since a migration has changed a column's, or what that makes of expressions
# and parameters. Sent as it is, the statement tells whether the error is its own.
_OUTDATED: Final = (
    errors.FeatureNotSupported,
    errors.DatatypeMismatch,
    errors.UndefinedFunction,
    errors.AmbiguousFunction,
)
_SHARED_SESSION: Final = (
    "the server's session is not ours alone, so nothing is prepared in it from now on; "
    "behind a pooler of transactions set DATABASE_PGBOUNCER=true"
)


class Preparable(str):
    """A statement's text, and which of its parameters are others from one run to the next.

    It is a text, so that whoever sees statements sees this one and not its name. The other parameters become part of
    what is prepared: a plan for all runs may rest on them, as on an index of the rows that wait.
    """

    def __new__(cls, sql: str, parameters: Sequence[Any], changing: Iterable[int]) -> Preparable:
        return super().__new__(cls, sql)

    def __init__(self, sql: str, parameters: Sequence[Any], changing: Iterable[int]) -> None:
        # Nobody else's: a pooler may give us a session of others.
        self.name = f"presgen_{os.urandom(8).hex()}"
        self._changing = tuple(changing)
        self.definition, self.fixed = f"PREPARE {self.name} AS {sql}", list(parameters)
        for number, place in enumerate(self._changing, 1):
            self.fixed[place] = AsIs(f"${number}")
        arguments = f"({', '.join(['%s'] * len(self._changing))})" if self._changing else ""
        self.call = f"EXECUTE {self.name}{arguments}"

    def __reduce__(self) -> Any:
        return str, (str(self),)

    def changing(self, parameters: Sequence[Any]) -> list[Any]:
        """The parameters that the call takes."""
        return [parameters[place] for place in self._changing]


class PreparingConnection(ActingConnection):
    """A connection that keeps statements."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = PreparingCursor
        # By name, with a moment of monotonic(): until which a statement is kept, and until which its runs are counted.
        self._kept: dict[str, float] = {}
        self._runs: dict[str, tuple[int, float]] = {}

    def prepare(self, statement: Preparable) -> bool:
        """Let the server know a statement that is run often; tells whether it does."""
        name, now = statement.name, monotonic()
        if now < self._kept.get(name, 0.0):
            return True
        if not self._is_run_often(name, now) or not self._make_room(now):
            return False
        self.forget(name)
        with cursor(self) as plain, suppress(errors.DuplicatePreparedStatement):  # nobody else has one of that name
            plain.execute(statement.definition, statement.fixed)
        self._kept[name] = now + KEPT_SECONDS
        return True

    def distrust(self, statement: Preparable) -> None:
        """Send a statement as it is until it is run often again: its plan may be for what no longer is."""
        self._runs.pop(statement.name, None)
        if statement.name in self._kept:
            self._kept[statement.name] = 0.0

    def forget(self, *names: str) -> None:
        """Keep these statements no longer, where they are kept."""
        known = [name for name in names if self._kept.pop(name, None) is not None]
        if known:
            with cursor(self) as plain:
                plain.execute("; ".join(f"DEALLOCATE {name}" for name in known))

    def _is_run_often(self, name: str, now: float) -> bool:
        runs, until = self._runs.get(name, (0, 0.0))
        if now >= until:
            runs, until = 0, now + KEPT_SECONDS
        if len(self._runs) >= COUNTED_MAX:
            self._runs.clear()
        self._runs[name] = runs + 1, until
        return runs >= USES_BEFORE

    def _make_room(self, now: float) -> bool:
        if len(self._kept) >= KEPT_MAX:
            self.forget(*[name for name, until in self._kept.items() if until <= now])
        return len(self._kept) < KEPT_MAX


class PreparingCursor(ActingCursor):
    """A cursor that runs statements as its connection keeps them."""

    connection: PreparingConnection

    def execute(self, query: Any, vars: Any = None) -> None:
        if not isinstance(query, Preparable) or not self._may_prepare():
            super().execute(query, vars)
            return
        if not self._execute_prepared(query, vars):
            super().execute(query, vars)
        if self.rowcount == 0:
            self.connection.distrust(query)

    def _may_prepare(self) -> bool:
        connection = self.connection
        if not connection.database.may_prepare or not connection.autocommit:  # or the driver would send a BEGIN
            return False
        return bool(connection.get_transaction_status() == TRANSACTION_STATUS_IDLE)

    def _execute_prepared(self, query: Preparable, parameters: Any) -> bool:
        connection = self.connection
        try:
            if connection.prepare(query):
                super().execute(query.call, query.changing(parameters))
                return True
        except _OUTDATED:
            connection.distrust(query)
        except errors.InvalidSqlStatementName:
            connection.database.may_prepare = False
            logger.warning(_SHARED_SESSION)
        return False
