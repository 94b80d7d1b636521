"""On whose behalf statements run: what `manager.acting_as()` says, and every statement inside tells the database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from .blocks import Blocks
from .errors import AlreadyActing

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Acting(NamedTuple):
    """The user whose rows the statements are about, and the actor who runs them; either may be missing."""

    user_id: int | None = None
    actor: str | None = None


NOBODY: Final = Acting()
ACTOR_MAX_LENGTH: Final = 255


_BLOCKS: Final = Blocks[Acting]("presgen's innermost user and actor")


def acting_on(database: Any) -> Acting:
    """On whose behalf this context's statements run on a database; NOBODY outside of every block."""
    return _BLOCKS.value_on(database) or NOBODY


@contextmanager
def acting_as(database: Any, user_id: int | None, actor: str | None) -> Iterator[None]:
    """Let the context's statements carry the user and the actor; what is missing is that of the block around.

    Raises AlreadyActing for another user than that of the block around.
    """
    around = acting_on(database)
    if None not in (user_id, around.user_id) and user_id != around.user_id:
        raise AlreadyActing(
            f"this block acts as user {around.user_id}, so nothing inside it may act as user {user_id}: end it first"
        )
    user_id = around.user_id if user_id is None else user_id
    actor = actor or around.actor or f"user {user_id}"
    with _BLOCKS.holding(database, Acting(user_id, actor)):
        yield


def acting_alike(database: Any, call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The call, for another thread to make on behalf of this context's user and actor."""
    here = acting_on(database)
    if here is NOBODY:
        return call

    def call_alike(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with acting_as(database, here.user_id, here.actor):
            return call(*args, **kwargs)

    return call_alike
