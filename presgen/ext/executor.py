"""SessionExecutor: a thread pool whose tasks cannot leave a connection or a transaction behind in its threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..acting import acting_alike
from ..context import contained

if TYPE_CHECKING:
    from ..manager import DatabaseManager

__all__ = ["SessionExecutor"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class SessionExecutor(ThreadPoolExecutor):
    """Runs each task in a session of its own, with one connection from its first statement on.

    `options` are those of ThreadPoolExecutor. More workers than the pool has connections wait for one another.
    """

    def __init__(self, manager: DatabaseManager, max_workers: int | None = None, **options: Any) -> None:
        super().__init__(max_workers, **options)
        self._manager = manager

    def submit(
        self, task: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Queue `task(*args, **kwargs)`; it acts for whom the caller does, and what it leaves open is undone."""

        def run() -> Result:
            with contained(self._manager.database):
                for _ in self._manager.get_session():
                    return task(*args, **kwargs)
            raise AssertionError("unreachable")

        return super().submit(acting_alike(self._manager.database, run))
