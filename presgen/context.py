"""session(): one connection for a block of code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .errors import ConfigurationError


@contextmanager
def session(database: Any) -> Iterator[Any]:
    """Hold one connection of `database` for the block; the outermost block of a thread gives it back.

    Raises PoolTimeout or DatabaseUnavailable when there is none to be had.
    """
    if database is None:
        raise ConfigurationError(
            "the models have no database: use them inside `with DatabaseManager(…):`, or bind them to one"
        )
    opened = database.connect(reuse_if_open=True)
    try:
        yield database
    finally:
        if opened:
            database.close()


@contextmanager
def contained(database: Any) -> Iterator[None]:
    """Run somebody else's code: what it leaves open, a transaction or a connection, is undone and given back."""
    had_transaction, was_closed = database.in_transaction(), database.is_closed()
    try:
        yield
    finally:
        if not had_transaction:
            while database.in_transaction():
                database.pop_transaction()
            if not database.is_closed():
                database.rollback()
                if was_closed:
                    database.close()
