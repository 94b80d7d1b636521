"""Reapable: jobs come back from workers that gave no sign of life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import peewee as pw

from ..clock import backoff_time
from ..compiled import Statement, compiled
from ..errors import ReadOnlyBlock
from ..reading import reading_on
from ..status import RUNNING, JobStatus
from .chosen import update_chosen
from .fenced import logger
from .outcomes import entered, requeued

# A bound on how many expired leases one claim takes back, so that a claim stays short after an outage.
REAP_LIMIT: Final = 100
LEASE_EXPIRED: Final = "the worker's lease expired: it crashed, hung or lost its connection"


@compiled
def _expired(model: Any) -> Statement:
    return Statement(model, model._expired_query().limit(1), has_one_plan=True)


@compiled
def _reap(model: Any) -> Statement:
    return Statement(model, model._reap_query())


class Reapable:
    """The statement that takes expired leases back; a class method of PresentationJob."""

    @classmethod
    def reap(cls: Any) -> int:
        """Take back jobs whose lease has expired; gives their number.

        The lost attempt counts: they go to PENDING with a backoff, to FAILED when no attempt is left, or to
        CANCELLED when that was asked for.
        """
        if reading_on(cls._meta.database) is not None:
            raise ReadOnlyBlock  # of which the look would not tell
        if not _expired(cls).run():  # to look takes a quarter of the time
            return 0
        jobs = [(job_id, cls.status.python_value(status)) for job_id, status in _reap(cls).run()]
        for job_id, status in jobs:
            logger.info("Job %s status changed: its lease expired -> %s", job_id, status)
        return len(jobs)

    @classmethod
    def _expired_query(cls: Any) -> Any:
        expired = cls.select(cls.id).where(cls.status.among(RUNNING), cls.lease_expires_at < cls.server_time())
        return expired.order_by(cls.id)  # which is that of the index on running jobs

    @classmethod
    def _reap_query(cls: Any) -> Any:
        lost = cls._expired_query().limit(REAP_LIMIT)
        is_cancelled, is_over = cls.cancel_requested_at.is_null(False), cls.attempt >= cls.max_attempts
        outcomes = (
            (is_cancelled, entered(cls, JobStatus.CANCELLED)),
            (is_over, {**entered(cls, JobStatus.FAILED), cls.error_message: LEASE_EXPIRED}),
        )
        back = {**requeued(cls), cls.error_message: LEASE_EXPIRED, cls.run_at: backoff_time(cls._meta.database)}
        reaped = {field: _by_case(field, outcomes, back) for field in {*back, *outcomes[0][1], *outcomes[1][1]}}
        return update_chosen(cls, lost, reaped).returning(cls.id, cls.status)


def _by_case(field: Any, outcomes: Sequence[tuple[Any, dict[Any, Any]]], otherwise: dict[Any, Any]) -> Any:
    """A column's value under the first condition that holds; a row that leaves it out keeps the column as it is."""
    values = [row.get(field, field) for _, row in outcomes] + [otherwise.get(field, field)]
    if all(value is None for value in values):
        return None  # PostgreSQL would take a CASE of NULLs for text
    *chosen, last = [value if isinstance(value, pw.Node) else field.to_value(value) for value in values]
    return pw.Case(None, list(zip([condition for condition, _ in outcomes], chosen, strict=True)), last)
