"""Worker: claims jobs, hands them to a handler, keeps their leases alive, and stops in order."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import peewee as pw

from .errors import (
    CommitUnknown,
    DatabaseBusy,
    DatabaseUnavailable,
    JobCancelled,
    LeaseLost,
    PoolTimeout,
    PresgenError,
)
from .models import PresentationJob
from .models.fenced import DEFAULT_LEASE, in_seconds

if TYPE_CHECKING:
    from .manager import DatabaseManager

logger = logging.getLogger("presgen.worker")

Handler = Callable[[PresentationJob], Any]
_OUTAGES: Final = (DatabaseUnavailable, PoolTimeout, CommitUnknown)
DEFAULT_POLL: Final = timedelta(seconds=1)
# A lease survives two heartbeats that are late or lost.
HEARTBEATS_PER_LEASE: Final = 3
_OUTAGE_PAUSE_MAX_SECONDS: Final = 30.0


class Worker:
    """Calls `handler(job)` for one job after the other.

    The handler ends its job with `job.complete(…)`; an exception fails the attempt, and so does returning
    without an end. `lease` and `poll` are seconds or timedeltas.
    """

    def __init__(
        self,
        manager: DatabaseManager,
        handler: Handler,
        *,
        name: str | None = None,
        lease: timedelta | float = DEFAULT_LEASE,
        poll: timedelta | float = DEFAULT_POLL,
    ) -> None:
        self.manager = manager
        self.handler = handler
        self.name: str = PresentationJob.worker.clean(name or f"{socket.gethostname()}-{os.getpid()}")
        self.lease_seconds = in_seconds(lease, "lease")
        self.poll_seconds = in_seconds(poll, "poll")
        self._is_stopping = False
        # Unlike an Event's lock, a SimpleQueue's put() may interrupt its own get(), as a signal does.
        self._wake_ups: SimpleQueue[None] = SimpleQueue()

    def run(self) -> None:
        """Work until `stop()`, SIGTERM or SIGINT; the job in hand is finished first.

        A second signal interrupts the handler, and the job goes back to the queue. Outages of the database
        are waited out.
        """
        pause = self.poll_seconds
        with self._signals():
            while not self._is_stopping:
                try:
                    is_idle, pause = not self.run_once(), self.poll_seconds
                except (*_OUTAGES, DatabaseBusy) as error:
                    is_idle, pause = True, min(max(pause, 0.1) * 2, _OUTAGE_PAUSE_MAX_SECONDS)
                    logger.warning("%s: %s", self.name, error)
                if is_idle:
                    # Jitter keeps workers that were started together from polling together.
                    with suppress(Empty):
                        self._wake_ups.get(timeout=pause * random.uniform(0.5, 1.5))

    def run_once(self) -> bool:
        """Claim one job and handle it; tells whether there was one."""
        self.manager.require_binding()
        jobs = PresentationJob.claim(self.name, lease=self.lease_seconds)
        for job in jobs:
            self._work_on(job)
        return bool(jobs)

    def drain(self) -> int:
        """Handle jobs until none is due; gives the number of claims. For tests and one-off runs."""
        handled = 0
        while not self._is_stopping and self.run_once():
            handled += 1
        return handled

    def stop(self) -> None:
        """Let run() end after the job in hand; may be called from any thread."""
        self._is_stopping = True
        self._wake_ups.put(None)

    def _work_on(self, job: PresentationJob) -> None:
        claim = (job.id, int(job.attempt))  # the handler may do anything to its instance
        try:
            with _Heartbeat(job, self.lease_seconds / HEARTBEATS_PER_LEASE):
                self.handler(job)
            if job.status.is_running:
                self._settle(*claim, "the handler returned without completing the job")
        except _OUTAGES:
            raise  # the lease brings the job back
        except Exception as error:
            self._settle(*claim, error)
        except (KeyboardInterrupt, _Interrupted):
            self._settle(*claim, None)
            raise
        except BaseException as error:
            self._settle(*claim, error)
            raise

    def _settle(self, job_id: int, attempt: int, error: BaseException | str | None) -> None:
        """Write the end that the handler did not, on the row as it is: a transaction of its own may be undone.

        Without an error the job is released.
        """
        held = PresentationJob.in_hand(job_id, worker=self.name, attempt=attempt)
        try:
            if held is None:
                logger.warning("%s: job %s is over or in other hands: %s", self.name, job_id, error)
            elif held.cancel_requested_at is not None:
                held.acknowledge_cancellation()
            elif error is None:
                held.release()
            else:
                logger.error("%s: job %s failed", self.name, job_id, exc_info=_traceback(error))
                held.fail(error)
        except (JobCancelled, LeaseLost) as lost:  # in this very moment; whoever has it now ends it
            logger.warning("%s: %s", self.name, lost)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop in order on SIGTERM and SIGINT; only the main thread can receive them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._is_stopping:
            raise _Interrupted(128 + number)
        self.stop()


class _Interrupted(SystemExit):
    """The second signal."""


def _traceback(error: BaseException | str) -> BaseException | None:
    return error if isinstance(error, BaseException) else None


class _Heartbeat:
    """A thread that keeps a job's lease alive while its handler works."""

    def __init__(self, job: PresentationJob, every_seconds: float) -> None:
        self._job = job
        self._every_seconds = every_seconds
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(self._every_seconds):
            try:
                self._job.keep_alive()
            except (JobCancelled, LeaseLost) as error:
                logger.info("%s", error)  # the handler hears of it at its next write
                return
            except (PresgenError, pw.PeeweeException) as error:
                # One may be missed; the lease is as long as several.
                logger.warning("heartbeat of job %s: %s", self._job.id, error)
