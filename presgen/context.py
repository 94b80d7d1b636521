"""Sessions: which connection a piece of code has in hand, and when it goes back.

A session follows its context (contextvars): coroutines have their own, and share it with the threads that they call.
A statement or transaction outside a session makes one for itself. `connect()` opens a connection for the thread.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from contextvars import ContextVar
from typing import Any, Final

import peewee as pw

from .blocks import blocks_contained
from .errors import ConfigurationError, NoActiveTransaction


class Session:
    """What one context has of a database; its threads use it one after the other, and any of them may end it."""

    def __init__(self, database: Any, *, keeps_connection: bool = True, is_for_now: bool = False) -> None:
        self.database = database
        self.state = pw._ConnectionState()
        self.keeps_connection = keeps_connection and not is_for_now
        """Whether the connection stays in hand between two statements outside a transaction."""
        self.is_for_now = is_for_now
        """Whether it ends by itself, with the statement or transaction that it was begun for."""
        self.is_over = False
        self.has_undone = False
        """Whether it ended in the middle of a transaction."""
        self._outer = _live(_INNERMOST.get())
        self._is_ending = False
        self._lock, self._uses = threading.RLock(), 0

    def begin(self) -> None:
        """Make it this context's."""
        _INNERMOST.set(self)

    def take(self) -> bool:
        """Keep other threads from using it until `leave()`; tells whether it is not over."""
        self._lock.acquire()
        self._uses += 1
        if self.is_over:
            self.leave()
        return not self.is_over

    def leave(self) -> None:
        """Let others use it again; a session that they have ended meanwhile is over now."""
        self._uses -= 1
        self._lock.release()
        if self._is_ending:
            self._end_if_unused()

    @property
    def is_used(self) -> bool:
        """Whether a statement is being run in it."""
        return self._uses > 0

    def end(self) -> None:
        """Undo what was left open, and give the connection back; again is no error.

        While another thread runs a statement this waits for nothing: that thread does it when it has its answer.
        """
        self._is_ending = True
        if _INNERMOST.get() is self:
            _INNERMOST.set(self.outer)
        self._end_if_unused()

    def forget(self) -> None:
        """End it without giving anything back, when it could get no connection."""
        self.is_over = True
        if _INNERMOST.get() is self:
            _INNERMOST.set(self.outer)

    def _end_if_unused(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            if not self._uses and not self.is_over:
                self._end()
        finally:
            self._lock.release()

    def _end(self) -> None:
        self._uses += 1
        around = _INNERMOST.get()
        _INNERMOST.set(self)  # it may end in another context than it began in
        has_undone = bool(self.state.transactions)
        try:
            give_back(self.database)
        finally:
            self.is_over, self.has_undone = True, has_undone
            _INNERMOST.set(around)

    @property
    def outer(self) -> Session | None:
        """The session around this one that is not over."""
        return _live(self._outer)


_INNERMOST: Final[ContextVar[Session | None]] = ContextVar("presgen's innermost session", default=None)


def _live(session: Session | None) -> Session | None:
    while session is not None and session.is_over:
        session = session._outer
    return session


def _with_outer(session: Session | None) -> list[Session]:
    """The session, if it is not over, and all those around it."""
    live = _live(session)
    return [] if live is None else [live, *_with_outer(live.outer)]


def session_of(database: Any) -> Session | None:
    """The session of this context, None where it has none.

    Raises NoActiveTransaction, once, when it has ended in the middle of a transaction of which the caller is part.
    """
    session = _INNERMOST.get()
    if session is None or (session.database is database and not session.is_over):
        return session
    if session.has_undone and session.database is database:
        _INNERMOST.set(session.outer)
        raise NoActiveTransaction
    session = _live(session)
    while session is not None and session.database is not database:
        session = session.outer
    return session


class InUse:
    """This context's session of a database, if it has one, which no other thread uses or ends in the block.

    A class, since every statement passes through it: a generator's block takes three times as long.
    """

    __slots__ = ("_database", "_session")

    def __init__(self, database: Any) -> None:
        self._database = database

    def __enter__(self) -> Session | None:
        session = session_of(self._database)
        while session is not None and not session.take():  # ended while this one waited for its turn
            session = session_of(self._database)
        self._session = session
        return session

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            self._session.leave()


class Contextual:
    """A database whose connection in hand is its context's session's, or else its thread's."""

    def is_idle(self) -> bool:
        """Whether no transaction is open, as the driver says: one may be begun behind peewee's back."""
        raise AssertionError(f"{type(self).__name__} does not say")

    lends_per_statement = False
    """Whether a statement outside of sessions gives its connection back."""

    @property
    def _state(self) -> Any:
        session = _INNERMOST.get()
        if session is None:
            return self._of_thread
        if session.database is not self or session.is_over:
            session = session_of(self)
        return self._of_thread if session is None else session.state

    @_state.setter
    def _state(self, _of_peewee: Any) -> None:
        self._of_thread = pw._ConnectionLocal()


def require_database(database: Any) -> Any:
    """The database that a model is bound to, or that a proxy stands for; raises ConfigurationError for none."""
    database = getattr(database, "obj", database)
    if database is None:
        raise ConfigurationError(
            "the models have no database: use them inside `with DatabaseManager(…):`, or bind them to one"
        )
    return database


class session(AbstractContextManager[Any], ContextDecorator):
    """Hold one connection of `database` for the block.

    Inside another session that has one it is that one's; the outermost gives the connection back. Raises PoolTimeout or
    DatabaseUnavailable when there is none to be had.
    """

    def __init__(self, database: Any) -> None:
        self._database = database
        self._own: list[Session | None] = []
        """What its blocks have begun, of which there are several when it is entered again."""

    def _recreate_cm(self) -> session:
        return session(self._database)

    def __enter__(self) -> Any:
        require_database(self._database)
        if _has_connection(self._database):
            self._database.connect(reuse_if_open=True)
            self._own.append(None)
        else:
            self._own.append(self._begun())
        return self._database

    def _begun(self) -> Session:
        own = Session(self._database)
        own.begin()
        try:
            self._database.connect()
        except BaseException:
            if own.state.closed:
                own.forget()  # of another library's database the connection may be somebody else's
            else:
                own.end()
            raise
        return own

    def __exit__(self, *_: object) -> None:
        own = self._own.pop()
        if own is not None:
            own.end()


def begin_lazily(database: Any) -> Session:
    """Begin a session that connects when it is first used; inside another one, one that is over, which changes nothing.

    Begun by a coroutine, it has a connection only while a statement or transaction runs: its threads come and go, and
    a request that waits for one must not keep a connection from those that have one.
    """
    own = Session(database, keeps_connection=not is_coroutine())
    if session_of(database) is None and not _has_connection(database):
        own.begin()
    else:
        own.is_over = True
    return own


def until_closed(session: Session) -> Iterator[Any]:
    """Yield the session's database, and end the session with the generator."""
    try:
        yield session.database
    finally:
        session.end()


def _has_connection(database: Any) -> bool:
    """Whether this context has a connection that a block may share; that of its thread belongs to no coroutine."""
    around = session_of(database)
    if around is not None:
        return around.keeps_connection or not around.state.closed
    return not database.is_closed() and not (isinstance(database, Contextual) and is_coroutine())


def is_coroutine() -> bool:
    """Whether an event loop runs the caller."""
    asyncio = sys.modules.get("asyncio")  # which costs too much to be imported only to hear that nothing runs
    return asyncio is not None and asyncio._get_running_loop() is not None


@contextmanager
def contained(database: Any) -> Iterator[None]:
    """Run somebody else's code: what it leaves open, a transaction or a connection, is undone and given back.

    So are its blocks: nobody is acted for afterwards who was not before, and what may write may do so again.
    """
    around = _with_outer(_INNERMOST.get())
    had_transaction, was_closed = database.in_transaction(), database.is_closed()
    try:
        with blocks_contained():
            yield
    finally:
        for left_open in _with_outer(_INNERMOST.get()):
            if left_open not in around:
                left_open.end()
        if was_closed:
            give_back(database)
        elif not had_transaction and not database.is_closed():
            _forget_transactions(database)
            database.rollback()


def has_committed(database: Any) -> bool:
    """Whether it is certain that nothing of what this context has written can be undone."""
    return not database.in_transaction() and isinstance(database, Contextual) and database.is_idle()


def give_back(database: Any) -> None:
    """Give the connection in hand back, if there is one; that undoes a transaction that is open."""
    _forget_transactions(database)
    database.close()


def _forget_transactions(database: Any) -> None:
    while database.in_transaction():
        database.pop_transaction()
