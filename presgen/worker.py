"""Worker: claims jobs, hands them to a handler in threads, and stops in order."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Final

import peewee as pw

from .attempt import OUTAGES, Attempt, Handler
from .errors import DatabaseBusy, HandlerStuck, PresgenError
from .models import PresentationJob
from .models.fenced import DEFAULT_LEASE, in_seconds
from .validation import at_least_one

if TYPE_CHECKING:
    from .manager import DatabaseManager

logger = logging.getLogger("presgen.worker")

DEFAULT_POLL: Final = timedelta(seconds=1)
# Shorter than the 30 s after which Kubernetes kills what it has asked to end.
DEFAULT_GRACE: Final = timedelta(seconds=20)
# No video takes that long: what has not ended by then hangs.
DEFAULT_TIMEOUT: Final = timedelta(hours=6)
_OUTAGE_PAUSE_MAX_SECONDS: Final = 30.0


class Worker:
    """Calls `handler(job)` for the jobs of the queue, `concurrency` at a time, each in a thread of its own.

    The handler ends its job with `job.complete(…)`; an exception fails the attempt, and so does returning
    without an end, or none within `timeout`. Durations are seconds or timedeltas. `grace` is how long jobs in hand
    may go on after `stop()` or a signal. `fair` and `max_per_owner` are those of PresentationJob.claim().
    """

    def __init__(
        self,
        manager: DatabaseManager,
        handler: Handler,
        *,
        name: str | None = None,
        lease: timedelta | float = DEFAULT_LEASE,
        poll: timedelta | float = DEFAULT_POLL,
        concurrency: int = 1,
        timeout: timedelta | float | None = DEFAULT_TIMEOUT,
        grace: timedelta | float = DEFAULT_GRACE,
        fair: bool = False,
        max_per_owner: int | None = None,
    ) -> None:
        self.manager = manager
        self.handler = handler
        self.name: str = PresentationJob.worker.clean(name or f"{socket.gethostname()}-{os.getpid()}")
        self.lease_seconds = in_seconds(lease, "lease")
        self.poll_seconds = in_seconds(poll, "poll")
        self.concurrency = at_least_one(concurrency, "concurrency")
        self.timeout_seconds = None if timeout is None else in_seconds(timeout, "timeout")
        self.grace_seconds = in_seconds(grace, "grace")
        self.fair = fair
        self.max_per_owner = None if max_per_owner is None else at_least_one(max_per_owner, "max_per_owner")
        self._in_hand: set[Attempt] = set()
        self._stops_at: float | None = None
        self._is_paused = False
        self._stuck: HandlerStuck | None = None
        self._signals: list[int] = []
        # Unlike an Event's lock, a SimpleQueue's put() may interrupt its own get(), as a signal does.
        self._wake_ups: SimpleQueue[None] = SimpleQueue()

    def run(self) -> None:
        """Work until `stop()`, SIGTERM or SIGINT; then jobs in hand get `grace` to end, and are released.

        A second signal releases them at once, and exits. SIGUSR1 pauses, SIGUSR2 resumes. Outages of the database
        are waited out. Raises HandlerStuck after a handler that did not end within `timeout`: its thread cannot be
        stopped, so the process has to be.
        """
        with self._signal_handlers(), self.manager.wake_ups(self._wake):
            try:
                self._dispatch()
            finally:
                self._finish()
        if self._stuck is not None:
            raise self._stuck
        if len(self._signals) > 1:
            raise SystemExit(128 + self._signals[-1])

    def run_once(self) -> bool:
        """Claim one job and handle it in this thread; tells whether there was one."""
        jobs = self._claim(1)
        for job in jobs:
            Attempt(job, self.handler).run()
        return bool(jobs)

    def drain(self) -> int:
        """Handle jobs in this thread until none is due; gives the number of claims. For tests and one-off runs."""
        handled = 0
        while self._stops_at is None and self.run_once():
            handled += 1
        return handled

    def stop(self) -> None:
        """Let run() end after the jobs in hand; may be called from any thread."""
        if self._stops_at is None:
            self._stops_at = time.monotonic() + self.grace_seconds
        self._wake()

    def pause(self) -> None:
        """Claim nothing until `resume()`; jobs in hand go on. May be called from any thread."""
        self._is_paused = True

    def resume(self) -> None:
        """Claim again; may be called from any thread."""
        self._is_paused = False
        self._wake()

    def _dispatch(self) -> None:
        pause = self.poll_seconds
        while self._stops_at is None:
            free = self.concurrency - len(self._in_hand)
            jobs: list[PresentationJob] = []
            try:
                if free and not self._is_paused:
                    jobs, pause = self._claim(free), self.poll_seconds
            except (*OUTAGES, DatabaseBusy) as error:
                pause = min(max(pause, 0.1) * 2, _OUTAGE_PAUSE_MAX_SECONDS)
                logger.warning("%s: %s", self.name, error)
            for job in jobs:
                self._start(job)
            if len(jobs) < max(free, 1):
                # Jitter keeps workers that were started together from polling together.
                self._sleep(pause * random.uniform(0.5, 1.5))
            self._abandon_overdue()

    def _claim(self, limit: int) -> list[PresentationJob]:
        self.manager.require_binding()
        jobs: list[PresentationJob] = PresentationJob.claim(
            self.name, limit, lease=self.lease_seconds, fair=self.fair, max_per_owner=self.max_per_owner
        )
        return jobs

    def _start(self, job: PresentationJob) -> None:
        attempt = Attempt(job, self.handler)
        self._in_hand.add(attempt)
        threading.Thread(target=self._carry_out, args=(attempt,), name=f"job-{job.id}", daemon=True).start()

    def _carry_out(self, attempt: Attempt) -> None:
        try:
            attempt.run()
        except OUTAGES as error:
            logger.warning("%s: job %s waits for its lease to end: %s", self.name, attempt.job_id, error)
        except BaseException:  # told already; a handler that exits ends its job, not the worker
            pass
        finally:
            self._in_hand.discard(attempt)
            self._wake()

    def _abandon_overdue(self) -> None:
        """Fail what has been in hand for longer than `timeout`, and stop."""
        for attempt in tuple(self._in_hand):
            if self.timeout_seconds is None or time.monotonic() - attempt.began < self.timeout_seconds:
                continue
            reason = f"the handler had not ended after {self.timeout_seconds:g} s"
            self._stuck = HandlerStuck(f"job {attempt.job_id}: {reason}; its thread ends with this process: restart it")
            self._abandon(attempt, reason, counts=True)
            self.stop()

    def _finish(self) -> None:
        """Wait for the jobs in hand until the grace is over, or a second signal comes; then release them."""
        self.stop()
        while self._in_hand and len(self._signals) < 2 and (left := self._grace_left()) > 0:
            self._sleep(left)
            self._abandon_overdue()
        for attempt in tuple(self._in_hand):
            self._abandon(attempt, "released: its worker was stopped before the handler had ended", counts=False)

    def _grace_left(self) -> float:
        return 0.0 if self._stops_at is None else self._stops_at - time.monotonic()

    def _abandon(self, attempt: Attempt, reason: str, *, counts: bool) -> None:
        self._in_hand.discard(attempt)
        try:
            attempt.abandon(reason, counts=counts)
        except (PresgenError, pw.PeeweeException) as error:  # the lease brings the job back
            logger.warning("%s: job %s waits for its lease to end: %s", self.name, attempt.job_id, error)

    def _wake(self) -> None:
        self._wake_ups.put(None)

    def _sleep(self, seconds: float) -> None:
        """Wait for a wake-up, at most so long; several at once are one."""
        with suppress(Empty):
            self._wake_ups.get(timeout=seconds)
            while True:
                self._wake_ups.get_nowait()

    @contextmanager
    def _signal_handlers(self) -> Iterator[None]:
        """Act on signals during the block; only the main thread can receive them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        actions = {
            signal.SIGTERM: self._on_stop_signal,
            signal.SIGINT: self._on_stop_signal,
            signal.SIGUSR1: lambda *_: self.pause(),
            signal.SIGUSR2: lambda *_: self.resume(),
        }
        before = {number: signal.signal(number, action) for number, action in actions.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_stop_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)
        if len(self._signals) > 2:  # the second one waits for a server that does not answer
            raise SystemExit(128 + number)
        self.stop()
