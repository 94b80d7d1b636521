"""Revivable: dead letters, the failed jobs that wait for somebody to look at them, and their way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

import peewee as pw

from ..clock import is_sqlite
from ..context import session
from ..errors import ValidationError
from ..status import UNFINISHED, JobStatus
from ..validation import argument, flag, several
from .fenced import log_after_commit
from .outcomes import requeued

# Rows that one statement locks and writes: a million dead letters must not hold their locks all at once.
RETRY_BATCH: Final = 500


class Revivable:
    """Statements on dead letters: jobs that are FAILED and not soft-deleted."""

    @classmethod
    def dead_letters(
        cls: Any,
        *,
        owner: Any = None,
        error: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Any:
        """Select the dead letters, the last that was enqueued first: in the order of the primary key.

        `error` is a part of the message, whatever its case; `since` (inclusive) and `until` (exclusive) bound the
        moment of failure. Raises ValidationError.
        """
        conditions = [cls.status == JobStatus.FAILED]
        if owner is not None:
            conditions.append(cls.owner == cls.owner.clean(owner))
        if error is not None:
            conditions.append(cls.error_message.contains(cls.error_message.clean(error)))
        if since is not None:
            conditions.append(cls.completed_at >= cls.completed_at.clean(since))
        if until is not None:
            conditions.append(cls.completed_at < cls.completed_at.clean(until))
        return cls.alive().where(*conditions).order_by(cls.id.desc())

    @property
    def is_dead_letter(self: Any) -> bool:
        """Whether the job failed for good and was not soft-deleted, as the instance shows it."""
        return self.status is JobStatus.FAILED and self.deleted_at is None

    @classmethod
    def retry_many(cls: Any, ids: Iterable[int] | None = None, *, everything: bool = False, **conditions: Any) -> int:
        """Put dead letters back into the queue, each with at least one more attempt; gives their number.

        Those of `ids`, those that `conditions` (dead_letters()'s) choose, or those of both; all of them only with
        `everything`, else ValidationError is raised. Ids of other jobs are passed over. Of jobs with one idempotency
        key only the newest goes back, and none while an unfinished job has it.
        Each statement takes at most RETRY_BATCH jobs and commits them, unless the caller has a transaction; a job
        that fails again meanwhile is not taken twice. Raises ConstraintViolation when a key is enqueued in this very
        moment: then the last batch is undone, and the same call may be made again.
        """
        everything = argument(flag, everything, "everything")
        if ids is None and not everything and all(value is None for value in conditions.values()):
            raise ValidationError("name the ids or a condition, or say everything=True", field="ids", rule="required")
        letters = cls.dead_letters(**conditions)
        with session(cls._meta.database):
            if ids is None:
                return sum(cls._retry_all(letters))
            wanted = sorted({cls.id.clean_value(job_id) for job_id in argument(several, ids, "ids")}, reverse=True)
            return sum(
                len(cls._retry_batch(letters.where(cls.id.in_(batch)))) for batch in pw.chunked(wanted, RETRY_BATCH)
            )

    @classmethod
    def _retry_all(cls: Any, letters: Any) -> Iterator[int]:
        """Retry the selected jobs batch by batch, newest first by id; yields how many each took."""
        retried = cls._retry_batch(letters)
        while retried:
            yield len(retried)
            # What was retried and fails again meanwhile lies behind.
            retried = cls._retry_batch(letters.where(cls.id < min(retried)))

    @classmethod
    def _retry_batch(cls: Any, letters: Any) -> list[int]:
        """Retry the newest of the selected jobs in one statement; gives their ids."""
        retried = [job_id for (job_id,) in cls._retry_query(letters).execute()]
        for job_id in retried:
            log_after_commit(cls._meta.database, job_id, JobStatus.FAILED, JobStatus.PENDING)
        return retried

    @classmethod
    def _retry_query(cls: Any, letters: Any) -> Any:
        twin = cls.alias("twin")
        has_twin = pw.fn.EXISTS(
            twin.select(twin.id).where(
                twin.owner == cls.owner,
                twin.idempotency_key == cls.idempotency_key,
                twin.status.among(UNFINISHED),
            )
        )
        chosen = (
            letters.select(cls.id, cls.owner, cls.idempotency_key)
            .where(cls.idempotency_key.is_null() | ~has_twin)
            .limit(RETRY_BATCH)
        )
        if not is_sqlite(cls._meta.database):
            # Waits for whoever writes a job at the moment, and then looks again whether it is a dead letter.
            chosen = chosen.for_update("FOR UPDATE")
        letter = chosen.cte("letter", materialized=True)
        # Of each key the newest; a job without one stands for itself.
        itself = pw.Case(None, [(letter.c.idempotency_key.is_null(), letter.c.id)])
        newest = (
            pw.Select([letter], [pw.fn.MAX(letter.c.id).alias("id")])
            .group_by(letter.c.owner_id, letter.c.idempotency_key, itself)
            .cte("newest", materialized=True)
        )
        row = cls.touched({**requeued(cls), cls.run_at: cls.server_time()})
        update = pw.ModelUpdate(cls, row).from_(newest).where(cls.id == newest.c.id)
        return update.with_cte(letter, newest).returning(cls.id).tuples()
