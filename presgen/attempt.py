"""Attempt: one claim of a job in a worker, from the handler's start to the end that is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from .context import contained
from .errors import CommitUnknown, DatabaseUnavailable, JobCancelled, LeaseLost, PoolTimeout
from .heartbeat import Heartbeat
from .models import PresentationJob
from .models.leased import HEARTBEATS_PER_LEASE, as_message

logger = logging.getLogger("presgen.worker")

Handler = Callable[[PresentationJob], Any]
OUTAGES: Final = (DatabaseUnavailable, PoolTimeout, CommitUnknown)


class Attempt:
    """Runs a handler over a claimed job, keeps the lease alive, and writes the end that the handler does not.

    It goes by the claim and by the stored row: the handler may do anything to its instance, and a transaction of
    its own may be undone.
    """

    def __init__(self, job: PresentationJob, handler: Handler) -> None:
        self.job_id: int = job.id
        self._database: Any = job._meta.database
        self.began = time.monotonic()
        self._job, self._handler = job, handler
        self._worker, self._number = str(job.worker), int(job.attempt)
        self._is_abandoned = False
        every = job.lease_seconds / HEARTBEATS_PER_LEASE
        self._heartbeat = Heartbeat(job.keep_alive, every_seconds=every, name=f"heartbeat of job {job.id}")
        job.waits_out_outages = True

    def run(self) -> None:
        """Call the handler and settle the job.

        Raises outages of the database, after which the lease brings the job back, and what is no Exception.
        """
        try:
            with self._heartbeat, contained(self._database):
                self._handler(self._job)
        except OUTAGES:
            raise
        except KeyboardInterrupt:
            self._settle(lambda held: held.release("interrupted"))
            raise
        except Exception as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise
        else:
            self._fail(None)

    def abandon(self, reason: str, *, counts: bool) -> None:
        """End the attempt whatever its handler is doing; the fence refuses what that still writes.

        An attempt that counts has failed; otherwise the job is released.
        """
        self._is_abandoned = True
        self._heartbeat.stop()
        logger.warning("%s: job %s: %s", self._worker, self.job_id, reason)
        self._settle(lambda held: held.fail(reason) if counts else held.release(reason))

    def _fail(self, raised: BaseException | None) -> None:
        """Fail a job that the handler has not ended; `raised` is None for a handler that returned."""
        error = raised or "the handler returned without completing the job"

        def fail(held: Any) -> None:
            logger.error("%s: job %s failed: %s", self._worker, self.job_id, as_message(error), exc_info=raised)
            held.fail(error)

        if not self._is_abandoned and not self._settle(fail) and raised is not None:
            logger.warning("%s: job %s is over or in other hands: %s", self._worker, self.job_id, as_message(raised))

    def _settle(self, end: Callable[[Any], None]) -> bool:
        """Write the end of a job that is still in hand; tells whether it was."""
        held = PresentationJob.in_hand(self.job_id, worker=self._worker, attempt=self._number)
        if held is None:
            return False
        try:
            if held.cancel_requested_at is not None:
                held.acknowledge_cancellation()
            else:
                end(held)
        except (JobCancelled, LeaseLost) as lost:  # in this very moment; whoever has it now ends it
            logger.warning("%s: %s", self._worker, lost)
        return True
