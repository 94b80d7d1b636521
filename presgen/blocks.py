"""Blocks: what the with-blocks of a context say about a database; tasks and generators may carry one beyond its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

Value = TypeVar("Value")


class _Block(Generic[Value]):
    def __init__(self, database: Any, value: Value, outer: _Block[Value] | None) -> None:
        self.database, self.value, self.outer = database, value, outer
        self.is_over = False


_KINDS: Final[list[ContextVar[Any]]] = []


class Blocks(Generic[Value]):
    """One kind of blocks, each of which holds a value for one database."""

    def __init__(self, name: str) -> None:
        self._innermost: ContextVar[_Block[Value] | None] = ContextVar(name, default=None)
        _KINDS.append(self._innermost)

    def value_on(self, database: Any) -> Value | None:
        """The value of the innermost block for a database that this context is in; None outside of every one."""
        block = self._innermost.get()
        while block is not None and (block.is_over or block.database is not database):
            block = block.outer
        return None if block is None else block.value

    @contextmanager
    def holding(self, database: Any, value: Value) -> Iterator[None]:
        """Be a block, for this context."""
        block = _Block(database, value, self._innermost.get())
        self._innermost.set(block)
        try:
            yield
        finally:
            block.is_over = True
            if self._innermost.get() is block:
                self._innermost.set(block.outer)


@contextmanager
def blocks_contained() -> Iterator[None]:
    """Run somebody else's code: a block of any kind that it leaves open ends with this one."""
    before = [(kind, kind.get()) for kind in _KINDS]
    try:
        yield
    finally:
        for kind, block in before:
            kind.set(block)
