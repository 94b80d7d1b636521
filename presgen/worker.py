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

from .context import session
from .errors import CommitUnknown, DatabaseUnavailable, JobCancelled, LeaseLost, PoolTimeout
from .models import PresentationJob
from .models.fenced import DEFAULT_LEASE, in_seconds

if TYPE_CHECKING:
    from .manager import DatabaseManager

logger = logging.getLogger("presgen.worker")

Handler = Callable[[PresentationJob], Any]
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
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self.lease_seconds = in_seconds(lease)
        self.poll_seconds = in_seconds(poll)
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
                    if self.run_once():
                        continue
                    pause = self.poll_seconds
                except (DatabaseUnavailable, PoolTimeout, CommitUnknown) as error:
                    pause = min(max(pause, 0.1) * 2, _OUTAGE_PAUSE_MAX_SECONDS)
                    logger.warning("%s: %s", self.name, error)
                # Jitter keeps workers that were started together from polling together.
                with suppress(Empty):
                    self._wake_ups.get(timeout=pause * random.uniform(0.5, 1.5))

    def run_once(self) -> bool:
        """Claim one job and handle it; tells whether there was one."""
        database = self.manager.database
        with session(database):
            jobs = PresentationJob.claim(self.name, lease=self.lease_seconds)
        if not jobs:
            return False
        self._work_on(jobs[0])
        return True

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
        try:
            with _Heartbeat(self.manager.database, job, self.lease_seconds / HEARTBEATS_PER_LEASE):
                self.handler(job)
            if job.status.is_running:
                job.fail("the handler returned without completing the job")
        except JobCancelled:
            logger.info("%s: job %s was cancelled", self.name, job.id)
            self._settle(job, job.acknowledge_cancellation)
        except LeaseLost as error:
            logger.warning("%s: %s", self.name, error)
        except (DatabaseUnavailable, PoolTimeout, CommitUnknown):
            raise  # the lease brings the job back
        except Exception as error:
            logger.exception("%s: job %s failed", self.name, job.id)
            reason = error
            self._settle(job, lambda: job.fail(reason))
        except BaseException:
            self._settle(job, job.release)
            raise

    def _settle(self, job: PresentationJob, ending: Callable[[], None]) -> None:
        """Write the end of a job that may have left this worker's hand in the meantime."""
        try:
            if job.status.is_running:
                ending()
        except JobCancelled:
            self._settle(job, job.acknowledge_cancellation)
        except LeaseLost as error:
            logger.warning("%s: %s", self.name, error)

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
            raise SystemExit(128 + number)
        self.stop()


class _Heartbeat:
    """A thread that keeps a job's lease alive while its handler works."""

    def __init__(self, database: Any, job: PresentationJob, every_seconds: float) -> None:
        self._database = database
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
            except (DatabaseUnavailable, PoolTimeout) as error:
                logger.warning("heartbeat of job %s: %s", self._job.id, error)
