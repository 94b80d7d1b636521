"""Observed: what presgen's databases have in common, on either backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from .config import DatabaseConfig
from .context import Contextual, session
from .driver_errors import require_sendable, translated
from .errors import (
    ConstraintViolation,
    NoActiveTransaction,
    ReadOnlyBlock,
    ReadOnlyServer,
    ValidationError,
)
from .reading import Kind, kind_of, reading_on, written_on
from .sealing import Sealing

logger = logging.getLogger("database")


class Observed(Contextual):
    """Sessions that follow their context, errors of presgen's own, and statements logged without parameters."""

    slow_query_seconds: float
    is_retired = False
    """Whether the manager that opened the database has closed it."""
    query_hooks: list[Any]
    execute_here: Callable[[str, Any], Any]
    """Runs a statement on this database itself, and on no replica."""
    only_reads = ""
    """What goes before a statement, in the same message, for the server to refuse writes of its functions."""
    replicas: Any = None
    """Where plain SELECTs of a reading() block may go; None where there is no replica."""
    sealing: Sealing
    """What encrypts and decrypts the database's values."""

    def observe(self, config: DatabaseConfig) -> None:
        """Log slow statements from now on, and every statement with `config.debug`."""
        self.slow_query_seconds = config.slow_query_seconds
        self.sealing = Sealing(self, config.encryption_keys, config.index_keys)
        self.query_hooks.append(self._log_slow)
        if config.debug:
            self.query_hooks.append(_log_statement)

    def execute(self, query: Any, **options: Any) -> Any:
        try:
            return super().execute(query, **options)  # type: ignore[misc]
        except RecursionError:
            raise ValidationError(
                "a value in the statement, or the calls that lead to it, are nested too deep", rule="depth"
            ) from None

    def read(self, sql: str, params: Any, *, after: int) -> Any:
        """Run a statement of a reading() block, a plain SELECT on a replica that has come so far, if there is one.

        Raises ReadOnlyBlock for a statement that writes, whether its text or the server tells so.
        """
        kind = kind_of(sql)
        if kind is Kind.WRITE:
            raise ReadOnlyBlock
        if kind is not Kind.READ or self.in_transaction():  # type: ignore[attr-defined]
            return self.execute_here(sql, params)
        answer = None
        if self.replicas is not None:
            answer = self.replicas.read(sql, params, after=max(after, written_on(self)))
        try:
            return self.execute_here(self.only_reads + sql, params) if answer is None else answer
        except ReadOnlyServer:
            raise ReadOnlyBlock from None

    def execute_verbatim(self, statement: str) -> Any:
        """Run a statement that takes no parameters, and may have a % of its own."""
        return self.execute_sql(statement.replace("%", "%%") if self.param == "%s" else statement)  # type: ignore[attr-defined]

    def refuse_to_write(self) -> None:
        """Raise ReadOnlyBlock in a reading() block."""
        if reading_on(self) is not None:
            raise ReadOnlyBlock

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        if params:
            require_sendable(params.values() if isinstance(params, Mapping) else params)
        try:
            return translated(super().execute_sql, sql, params)  # type: ignore[misc]
        except ConstraintViolation as error:
            self.sealing.explain(error)
            raise

    def __enter__(self) -> Any:
        """Hold a session and a transaction for the block."""
        with ExitStack() as block:
            block.enter_context(session(self))
            block.enter_context(self.atomic())  # type: ignore[attr-defined]
            self._state.ctx.append(block.pop_all())
        return self

    def __exit__(self, *error: Any) -> None:
        self._state.ctx.pop().__exit__(*error)

    def connection_context(self) -> Any:
        """A session; peewee's own closes the connection of the block around it."""
        return session(self)

    def push_transaction(self, transaction: Any) -> None:
        self.connect(reuse_if_open=True)  # type: ignore[attr-defined]  # later it would forget the transaction
        super().push_transaction(transaction)  # type: ignore[misc]

    def pop_transaction(self) -> Any:
        if not self._state.transactions:
            raise NoActiveTransaction
        return super().pop_transaction()  # type: ignore[misc]

    def answering_within(self, seconds: float) -> AbstractContextManager[None]:
        """Give the server so long for each answer in the block; a database of this process answers at once."""
        return nullcontext()

    @property
    def transactions(self) -> list[Any]:
        """The open transactions and savepoints of this context, the outermost first."""
        return self._state.transactions  # type: ignore[no-any-return]

    def _log_query(self, sql: str, params: Any) -> None:
        """Keep peewee's own debug log, which prints parameters, silent."""

    def _log_slow(self, event: Any) -> None:
        if event.duration > self.slow_query_seconds:
            logger.warning("Slow query (%.2fs): %s", event.duration, event.sql)


def _log_statement(event: Any) -> None:
    logger.debug("%.4fs: %s", event.duration, event.sql)
