"""On whose behalf statements run: what `manager.acting_as()` says, and every transaction inside tells the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, ParamSpec, TypeVar

from .errors import AlreadyActing, DatabaseUnavailable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Acting:
    """The user whose rows the statements are about, and the actor who runs them; either may be missing."""

    user_id: int | None = None
    actor: str | None = None


NOBODY: Final = Acting()
ACTOR_MAX_LENGTH: Final = 255
# By the database's identity: the ids of another one's users are others.
_ACTING: Final[ContextVar[Mapping[int, Acting]]] = ContextVar(
    "presgen's users and actors", default=MappingProxyType({})
)


def acting_on(database: Any) -> Acting:
    """On whose behalf this context's statements run on a database; NOBODY outside of every block."""
    return _ACTING.get().get(id(database), NOBODY)


@contextmanager
def acting_as(database: Any, user_id: int | None, actor: str | None) -> Iterator[None]:
    """Let every transaction of the block carry the user and the actor; what is missing is that of the block around.

    A transaction that is open already carries them for as long as the block lasts. Raises AlreadyActing for another
    user than that of the block around.
    """
    around = acting_on(database)
    if None not in (user_id, around.user_id) and user_id != around.user_id:
        raise AlreadyActing(
            f"this block acts as user {around.user_id}, so nothing inside it may act as user {user_id}: end it first"
        )
    user_id = around.user_id if user_id is None else user_id
    actor = actor or around.actor or f"user {user_id}"
    before = _ACTING.get()
    _ACTING.set({**before, id(database): Acting(user_id, actor)})
    try:
        database.tell_acting_if_in_transaction()
        yield
    finally:
        _ACTING.set(before)
        with suppress(DatabaseUnavailable):  # a transaction that is lost carries nothing any more
            database.tell_acting_if_in_transaction()


def acting_alike(database: Any, call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The call, for another thread to make on behalf of this context's user and actor."""
    here = acting_on(database)
    if here is NOBODY:
        return call

    def call_alike(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with acting_as(database, here.user_id, here.actor):
            return call(*args, **kwargs)

    return call_alike
