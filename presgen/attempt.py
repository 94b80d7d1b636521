"""Attempt: one claim of a job in a worker, from the handler's start to the end that is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from .acting import acting_alike
from .context import contained
from .errors import JobCancelled, LeaseLost
from .heartbeat import Heartbeat
from .models import PresentationJob
from .models.fenced import REPEATED
from .models.leased import HEARTBEATS_PER_LEASE, as_message

logger = logging.getLogger("presgen.worker")

Handler = Callable[[PresentationJob], Any]
_LOOK_AGAIN_SECONDS: Final = 0.2
# A worker that is told to stop does not wait longer than this for a database that does not answer.
ABANDON_SECONDS: Final = 2.0


class Attempt:
    """Runs a handler over a claimed job, keeps the lease alive, and writes the end that the handler does not.

    It goes by the claim and by the stored row: the handler may do anything to its instance, and a transaction of
    its own may be undone.
    """

    def __init__(self, job: PresentationJob, handler: Handler) -> None:
        self.job_id: int = job.id
        self.began = time.monotonic()
        self._job, self._handler = job, handler
        self._worker, self._attempt_number = str(job.worker), int(job.attempt)
        self._lease_seconds = job.lease_seconds
        self._database: Any = job._meta.database
        self._is_abandoned = False
        job.waits_out_outages = True
        every = self._lease_seconds / HEARTBEATS_PER_LEASE
        keep_alive = acting_alike(self._database, job.lease_keeper().keep_alive)
        self._heartbeat = Heartbeat(keep_alive, every_seconds=every, name=f"heartbeat of job {job.id}")

    def run(self) -> None:
        """Call the handler and settle the job; raises what the handler raises that is no Exception.

        Raises DatabaseUnavailable and the like when the end could not be written: the lease brings the job back.
        """
        try:
            with self._heartbeat, contained(self._database):
                self._handler(self._job)
        except KeyboardInterrupt:
            self._settle(lambda held: held.release("interrupted"), self._lease_seconds)
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
        self._settle(lambda held: held.fail(reason) if counts else held.release(reason), ABANDON_SECONDS)

    def _fail(self, raised: BaseException | None) -> None:
        """Fail a job that the handler has not ended; `raised` is None for a handler that returned."""
        if self._is_abandoned:
            return
        error = "the handler returned without completing the job" if raised is None else raised
        if raised is not None:
            # Before anything else: the database may be what it died of.
            logger.error("%s: job %s: %s", self._worker, self.job_id, as_message(raised), exc_info=raised)
        was_in_hand = self._settle(lambda held: held.fail(error), self._lease_seconds)
        if was_in_hand and raised is None:
            logger.error("%s: job %s failed: %s", self._worker, self.job_id, error)
        elif was_in_hand:
            logger.error("%s: job %s failed", self._worker, self.job_id)
        elif raised is not None:
            logger.warning("%s: job %s is over or in other hands", self._worker, self.job_id)

    def _settle(self, end: Callable[[Any], None], patience_seconds: float) -> bool:
        """Write the end of a job that is still in hand; tells whether it was."""
        if self._job.has_let_go:
            return False
        deadline = time.monotonic() + patience_seconds
        while True:
            try:
                held = PresentationJob.in_hand(self.job_id, worker=self._worker, attempt=self._attempt_number)
                if held is None:
                    return False
                held.lease_seconds = max(0.0, deadline - time.monotonic())
                if held.cancel_requested_at is not None:
                    held.acknowledge_cancellation()
                else:
                    end(held)
                return True
            except (JobCancelled, LeaseLost):
                continue  # it has changed since it was read: look again
            except REPEATED:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)
