"""Worker: claims jobs, hands them to a handler in threads, and stops in order."""

from __future__ import annotations

import inspect
import logging
import math
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

import peewee as pw

from .acting import Arguments, acting_alike
from .attempt import ABANDON_SECONDS, Attempt, Handler
from .errors import ConfigurationError, HandlerStuck, PresgenError, ValidationError
from .hands import Hands
from .models import PresentationJob
from .models.fenced import DEFAULT_LEASE, in_seconds
from .signals import acting_on
from .validation import argument, at_least, flag

if TYPE_CHECKING:
    from .manager import DatabaseManager

logger = logging.getLogger("presgen.worker")

DEFAULT_POLL: Final = timedelta(seconds=1)
# Shorter than the 30 s after which Kubernetes kills what it has asked to end.
DEFAULT_GRACE: Final = timedelta(seconds=20)
# No video takes that long: what has not ended by then hangs.
DEFAULT_TIMEOUT: Final = timedelta(hours=6)
_OUTAGE_PAUSE_MAX_SECONDS: Final = 30.0
_LOOK_EVERY_SECONDS: Final = 0.5


def default_name(pid: int) -> str:
    """What the worker of a process of this machine calls itself."""
    return f"{socket.gethostname()}-{pid}"


class Worker:
    """Calls `handler(job)` for the jobs of the queue, `concurrency` at a time, each in a thread and context of its own.

    The handler ends its job with `job.complete(…)`; an exception fails the attempt, and so does returning
    without an end, or, in run(), none within `timeout`. Its thread takes another job afterwards: what it leaves in a
    `threading.local` stays there. Durations are seconds or timedeltas. `grace` is how long jobs
    in hand may go on after `stop()` or a signal. `fair` and `max_per_owner` are those of PresentationJob.claim().
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
        if not callable(handler) or inspect.iscoroutinefunction(handler) or inspect.isgeneratorfunction(handler):
            raise ValidationError("the handler must be a plain function of a job", field="handler", rule="type")
        # The class itself is of a floor above.
        if not hasattr(manager, "require_binding"):
            raise ValidationError("a worker needs a DatabaseManager", field="manager", rule="type")
        self.manager = manager
        self.handler = handler
        self.name: str = PresentationJob.worker.clean(default_name(os.getpid()) if name in (None, "") else name)
        self.lease_seconds = in_seconds(lease, "lease")
        self.poll_seconds = in_seconds(poll, "poll")
        self.concurrency: int = argument(at_least(1), concurrency, "concurrency")
        self.timeout_seconds = None if timeout is None else in_seconds(timeout, "timeout")
        self.grace_seconds = in_seconds(grace, "grace", or_zero=True)
        self.fair: bool = argument(flag, fair, "fair")
        self.max_per_owner = None if max_per_owner is None else argument(at_least(1), max_per_owner, "max_per_owner")
        self._in_hand: set[Attempt] = set()
        self._stops_at: float | None = None
        self._is_paused = False
        self._failure: BaseException | None = None
        self._stop_signals: list[int] = []
        # Unlike an Event's lock, a SimpleQueue's put() may interrupt its own get(), as a signal does.
        self._wake_ups: SimpleQueue[None] = SimpleQueue()
        self._news: SimpleQueue[None] = SimpleQueue()

    def run(self) -> None:
        """Work until `stop()`, SIGTERM or SIGINT; then jobs in hand get `grace` to end, and are released.

        A second signal releases them at once, and exits; a third exits without. SIGUSR1 pauses, SIGUSR2 resumes.
        Outages of the database are waited out. Raises HandlerStuck after a handler that did not end within
        `timeout`: its thread cannot be stopped, so the process has to be.
        """
        actions = {
            signal.SIGTERM: self._on_stop_signal,
            signal.SIGINT: self._on_stop_signal,
            signal.SIGUSR1: lambda _: self.pause(),
            signal.SIGUSR2: lambda _: self.resume(),
        }
        # Claims have a thread of their own: a statement that waits for its server must not keep signals waiting.
        dispatcher = threading.Thread(
            target=self._alike(self._dispatch), name=f"dispatcher of {self.name}", daemon=True
        )
        with acting_on(actions), self.manager.wake_ups(self._wake):
            dispatcher.start()
            try:
                while self._stops_at is None:
                    # Not for ever: a signal that comes while the process is stopped may go to another thread, and is
                    # acted upon only when this one runs.
                    _wait_for(self._news, _LOOK_EVERY_SECONDS)
                self._finish(dispatcher)
            finally:
                self.stop()  # an exception of somebody else's signal handler must not leave the dispatcher at work
        failure, signals = self._failure, self._stop_signals
        self._stops_at, self._failure, self._stop_signals = None, None, []  # it may run again
        if failure is not None:
            raise failure
        if len(signals) > 1:
            raise SystemExit(128 + signals[-1])

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
        self._stops_at = None
        return handled

    def stop(self) -> None:
        """Let run() end after the jobs in hand; may be called from any thread."""
        if self._stops_at is None:
            self._stops_at = time.monotonic() + self.grace_seconds
        self._wake()
        self._news.put(None)

    def pause(self) -> None:
        """Claim nothing until `resume()`; jobs in hand go on. May be called from any thread."""
        self._is_paused = True

    def resume(self) -> None:
        """Claim again; may be called from any thread."""
        self._is_paused = False
        self._wake()

    def _dispatch(self) -> None:
        """Claim and start jobs until the worker stops; what ends it otherwise is raised by run()."""
        pause = self.poll_seconds
        hands = Hands(self._alike(self._carry_out), name="job-hand")
        try:
            while self._stops_at is None:
                free = self.concurrency - len(self._in_hand)
                jobs: list[PresentationJob] = []
                try:
                    if free and not self._is_paused:
                        jobs, pause = self._claim(free), self.poll_seconds
                except ConfigurationError:
                    raise
                except PresgenError as error:
                    pause = min(max(pause, 0.1) * 2, _OUTAGE_PAUSE_MAX_SECONDS)
                    logger.warning("%s: %s", self.name, error)
                for job in jobs:
                    attempt = Attempt(job, self.handler)
                    self._in_hand.add(attempt)
                    hands.take(attempt)
                if len(jobs) < max(free, 1):
                    # Jitter keeps workers that were started together from polling together.
                    _wait_for(self._wake_ups, min(pause * random.uniform(0.5, 1.5), self._until_overdue()))
                self._abandon_overdue()
        except BaseException as error:
            self._failure = error
            self.stop()
        finally:
            hands.rest()

    def _claim(self, limit: int) -> list[PresentationJob]:
        self.manager.require_binding()
        jobs: list[PresentationJob] = PresentationJob.claim(
            self.name, limit, lease=self.lease_seconds, fair=self.fair, max_per_owner=self.max_per_owner
        )
        return jobs

    def _carry_out(self, attempt: Attempt) -> None:
        try:
            attempt.run()
        except (PresgenError, pw.PeeweeException) as error:
            logger.warning("%s: job %s waits for its lease to end: %s", self.name, attempt.job_id, error)
        except BaseException:  # told already; a handler that exits ends its job, not the worker
            pass
        finally:
            self._in_hand.discard(attempt)
            self._wake()
            if self._stops_at is not None:  # before that run() waits for nothing but stop()
                self._news.put(None)

    def _abandon_overdue(self) -> None:
        """Fail what has been in hand for longer than `timeout`, and stop."""
        for attempt in tuple(self._in_hand):
            if self.timeout_seconds is None or time.monotonic() - attempt.began < self.timeout_seconds:
                continue
            reason = f"the handler had not ended after {self.timeout_seconds:g} s"
            self._failure = HandlerStuck(
                f"job {attempt.job_id}: {reason}; its thread ends with this process: restart it"
            )
            self._abandon(attempt, reason, counts=True)
            self.stop()

    def _until_overdue(self) -> float:
        """Seconds until the first job in hand is overdue."""
        if self.timeout_seconds is None:
            return math.inf
        first = min((attempt.began for attempt in tuple(self._in_hand)), default=math.inf)
        return max(0.0, first + self.timeout_seconds - time.monotonic())

    def _finish(self, dispatcher: threading.Thread) -> None:
        """Wait for the jobs in hand until the grace is over, or a second signal comes; then release them."""
        while (
            (dispatcher.is_alive() or self._in_hand)
            and len(self._stop_signals) < 2
            and (left := self._grace_left()) > 0
        ):
            _wait_for(self._news, min(left, self._until_overdue(), _LOOK_EVERY_SECONDS))
            self._abandon_overdue()
        for attempt in tuple(self._in_hand):
            self._abandon(attempt, "released: its worker was stopped before the handler had ended", counts=False)

    def _grace_left(self) -> float:
        return 0.0 if self._stops_at is None else self._stops_at - time.monotonic()

    def _abandon(self, attempt: Attempt, reason: str, *, counts: bool) -> None:
        """Write the end of an attempt from a thread: its statement may hang as well."""
        self._in_hand.discard(attempt)

        def write() -> None:
            try:
                attempt.abandon(reason, counts=counts)
            except (PresgenError, pw.PeeweeException) as error:
                logger.warning("%s: job %s waits for its lease to end: %s", self.name, attempt.job_id, error)

        thread = threading.Thread(target=self._alike(write), name=f"end of job {attempt.job_id}", daemon=True)
        thread.start()
        thread.join(2 * ABANDON_SECONDS)

    def _alike(self, call: Callable[Arguments, None]) -> Callable[Arguments, None]:
        """The call, for a thread of the worker's that acts for whom the caller of run() acts."""
        return acting_alike(self.manager.database, call)

    def _wake(self) -> None:
        self._wake_ups.put(None)

    def _on_stop_signal(self, number: int) -> None:
        self._stop_signals.append(number)
        if len(self._stop_signals) > 2:
            raise SystemExit(128 + number)
        self.stop()


def _wait_for(queue: SimpleQueue[None], seconds: float) -> None:
    """Wait for an item, at most so long; several at once are one."""
    with suppress(Empty):
        queue.get(timeout=seconds)
        while True:
            queue.get_nowait()
