"""Hands: threads that carry out one thing after another, as many as there are things at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Hands(Generic[Item]):
    """Carries out each item that it is given at once, in a context of its own.

    A thread is started only when all others are at work: to start one takes longer than many a job.
    """

    def __init__(self, carry_out: Callable[[Item], None], *, name: str) -> None:
        self._carry_out, self._name = carry_out, name
        self._items: SimpleQueue[Item | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._free = 0

    def take(self, item: Item) -> None:
        """Carry an item out, whatever the others are doing."""
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                self._threads += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._threads}", daemon=True).start()
        self._items.put(item)

    def rest(self) -> None:
        """Let the threads end, each when it has carried out what it has in hand."""
        with self._lock:
            for _ in range(self._threads):
                self._items.put(None)

    def _work(self) -> None:
        while (item := self._items.get()) is not None:
            Context().run(self._carry_out, item)
            del item  # and not keep it until the next one comes
            with self._lock:
                self._free += 1
