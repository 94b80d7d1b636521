"""The process that enqueues the jobs of a chaos run: `python -m chaos.producer` with an Order as JSON."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from presgen import DatabaseManager, PresentationJob, User, VoiceClone
from presgen.errors import InvalidTransition
from presgen.status import UNFINISHED

from .boundary import BOUNDARY
from .checker import POISON
from .history import TOLD, Entry, History, path_of
from .labour import OUTAGES, Argument, opened

# More than any job can use up; only poison is meant to run out of attempts.
_PLENTY: Final = 1000
_POISON_ATTEMPTS: Final = 2
_BATCH: Final = 20
_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class Order(Argument):
    """What the producer has to enqueue."""

    url: str
    folder: str
    jobs: int
    poison: int
    boundary: int
    cancelled: float
    """The share of single jobs whose cancellation is asked for."""
    backlog: int
    """How many unfinished jobs there may be before it waits for the workers."""
    seed: int

    def tokens(self) -> list[str]:
        """The names of all jobs, the special ones spread among the plain."""
        special = [f"{POISON}-{n:02}" for n in range(self.poison)] + [
            f"{BOUNDARY}-{n:02}" for n in range(self.boundary)
        ]
        tokens = special + [f"plain-{n:05}" for n in range(self.jobs - len(special))]
        random.Random(self.seed).shuffle(tokens)
        return tokens


class Producer:
    """Enqueues each token once, whatever happens to connections and replies."""

    def __init__(self, order: Order, manager: DatabaseManager, history: History) -> None:
        self._manager = manager
        self._order = order
        self._history = history
        self._chance = random.Random(order.seed)
        self._owner: dict[str, Any] = {}

    def run(self) -> None:
        """Enqueue everything: one by one, several in a transaction, or in bulk."""
        (owner,), (voice,) = (patiently(lambda: list(model.select().limit(1))) for model in (User, VoiceClone))
        self._owner = {"owner": owner.id, "voice_clone": voice.id}
        tokens = iter(self._order.tokens())
        for batch in _batches(tokens, min(_BATCH, self._order.backlog)):
            while patiently(self._backlog) >= self._order.backlog:
                time.sleep(_PAUSE_SECONDS)
            way = self._chance.choice(("one by one", "in a transaction", "in bulk"))
            if way == "in a transaction":
                self._until_stored(batch, self._enqueue_together)
            elif way == "in bulk":
                self._until_stored(batch, PresentationJob.enqueue_many)
            else:
                for token in batch:
                    self._enqueue_one(token)

    def _backlog(self) -> int:
        return int(PresentationJob.select().where(PresentationJob.status.in_(UNFINISHED)).count())

    def _enqueue_together(self, rows: list[dict[str, Any]]) -> None:
        with self._manager.transaction():
            for row in rows:
                PresentationJob.enqueue(**row)

    def _enqueue_one(self, token: str) -> None:
        self._until_stored([token], lambda rows: PresentationJob.enqueue(**rows[0], idempotency_key=token))
        if token.startswith("plain") and self._chance.random() < self._order.cancelled:
            path = path_of(token)
            job = patiently(lambda: PresentationJob.get(PresentationJob.s3_pptx_path == path))
            try:
                job.cancel()
            except (InvalidTransition, *OUTAGES):
                pass  # it was completed first, or nobody knows

    def _until_stored(self, tokens: Sequence[str], enqueue: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Enqueue until that has returned, or the jobs are seen after an error that left it open."""
        rows = [
            {**self._owner, "s3_pptx_path": path_of(token), "max_attempts": _attempts_of(token)} for token in tokens
        ]
        paths = [row["s3_pptx_path"] for row in rows]
        while True:
            try:
                enqueue(rows)
                break
            except OUTAGES:
                time.sleep(_PAUSE_SECONDS)
                stored = PresentationJob.select().where(PresentationJob.s3_pptx_path.in_(paths))
                if patiently(stored.exists):
                    break
        self._history.write(
            *(Entry(verb="enqueue", phase=TOLD, token=token, max_attempts=_attempts_of(token)) for token in tokens)
        )


def _attempts_of(token: str) -> int:
    return _POISON_ATTEMPTS if token.startswith(POISON) else _PLENTY


def _batches(tokens: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(tokens, size)):
        yield batch


def patiently(read: Callable[[], Any]) -> Any:
    """What a read gives, once the database answers."""
    while True:
        try:
            return read()
        except OUTAGES:
            time.sleep(_PAUSE_SECONDS)


def main() -> None:
    order = Order.from_argument(sys.argv[1])
    manager, history = opened(order.url, order.folder, "producer")
    with manager:
        Producer(order, manager, history).run()


if __name__ == "__main__":
    main()
