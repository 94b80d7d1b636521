"""Reading blocks: which statements of a context may go to a replica, and which writes they have to see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final
from weakref import WeakKeyDictionary

from .blocks import Blocks
from .errors import ValidationError

# Says of a statement whether it can change anything; values are parameters, so its text has none.
WRITES: Final = re.compile(
    r"\b(INSERT|UPDATE|DELETE|MERGE|TRUNCATE|COPY|CREATE|ALTER|DROP|GRANT|REVOKE|REFRESH|CALL|DO|REPLACE\s+INTO)\b",
    re.IGNORECASE,
)
_SELECTS: Final = re.compile(r"[\s(]*(SELECT|VALUES|TABLE|WITH)\b", re.IGNORECASE)
_WITH: Final = re.compile(r"[\s(]*WITH\b", re.IGNORECASE)
_LOCKS_ROWS: Final = re.compile(r"\bFOR\s+(NO\s+KEY\s+UPDATE|UPDATE|KEY\s+SHARE|SHARE)\b", re.IGNORECASE)
# A standby takes an advisory lock that nobody else sees, and has no sequences to draw from.
_PRIMARYS_OWN: Final = re.compile(
    r"\bpg_(try_)?advisory_|\b(nextval|setval|set_config|INTO)\b|;",
    re.IGNORECASE,
)
_POSITION: Final = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})", re.IGNORECASE)


class Kind(Enum):
    """What a statement is to a reading block."""

    READ = "read"
    """A plain SELECT, which a replica answers as well."""
    WRITE = "write"
    OTHER = "other"
    """Neither: for the primary."""


def kind_of(sql: str) -> Kind:
    """What a statement is, by its text."""
    if not _SELECTS.match(sql):
        return Kind.WRITE if WRITES.search(sql) else Kind.OTHER
    if _WITH.match(sql) and WRITES.search(_LOCKS_ROWS.sub("", sql)):
        return Kind.WRITE
    return Kind.OTHER if _LOCKS_ROWS.search(sql) or _PRIMARYS_OWN.search(sql) else Kind.READ


class Writing:
    """A block of writing(): where its writes end in the primary's log, once they are committed."""

    def __init__(self) -> None:
        self._position: int | None = None

    @property
    def token(self) -> str:
        """What `reading(after=…)` takes, in this process or another one; raises ValidationError before the commit."""
        if self._position is None:
            raise ValidationError("there is no token before the block, and its transaction, have ended", rule="early")
        return f"{self._position >> 32:X}/{self._position & 0xFFFFFFFF:X}"

    def end_at(self, database: Any, position: int) -> None:
        """Let this context's later reads see everything up to the position."""
        self._position = position
        if position > written_on(database):
            _WRITTEN.set(WeakKeyDictionary({**_WRITTEN.get(), database: position}))


_BLOCKS: Final = Blocks[int]("presgen's innermost reading block")
"""Each holds a position in the primary's log that its reads have to have seen."""
_NOTHING: Final[WeakKeyDictionary[Any, int]] = WeakKeyDictionary()
_WRITTEN: Final[ContextVar[WeakKeyDictionary[Any, int]]] = ContextVar("presgen's own writes", default=_NOTHING)


def reading_on(database: Any) -> int | None:
    """What the reads of this context's reading() block have to have seen; None outside of every such block."""
    return _BLOCKS.value_on(database)


def written_on(database: Any) -> int:
    """Up to which position of the primary's log this context has written on a database."""
    return _WRITTEN.get().get(database, 0)


@contextmanager
def reading(database: Any, after: str | None) -> Iterator[None]:
    """Let the context's plain SELECTs go to a replica, and refuse writes."""
    with _BLOCKS.holding(database, max(position_of(after), reading_on(database) or 0)):
        yield


@contextmanager
def writing(database: Any, position: Callable[[], int]) -> Iterator[Writing]:
    """Remember where the block's writes end, when the transaction that they are part of is committed."""
    written = Writing()
    yield written
    database.after_commit(lambda: written.end_at(database, position()))


def position_of(token: str | None) -> int:
    """A position in the primary's log (a pg_lsn) as a number of bytes; raises ValidationError."""
    if token is None:
        return 0
    match = _POSITION.fullmatch(token) if isinstance(token, str) else None
    if match is None:
        raise ValidationError("after must be the token of a writing() block", field="after", rule="token")
    return int(match[1], 16) << 32 | int(match[2], 16)
