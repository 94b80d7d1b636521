"""JobEvent: one change of a job's status, written by a trigger."""

from __future__ import annotations

from ..fields import IdField, MomentField, StatusField, VarcharField, WholeField
from ..references import ReferenceField
from .base import BaseModel
from .presentation_job import PresentationJob


class JobEvent(BaseModel):
    """A job went from one status to another; `worker` and `attempt` are those who had it in hand."""

    id = IdField()
    job = ReferenceField(PresentationJob, backref="events", on_delete="CASCADE", index=False)
    from_status = StatusField()
    to_status = StatusField()
    at = MomentField(now=True)
    worker = VarcharField(max_length=255, null=True)
    attempt = WholeField()

    class Meta:
        table_name = "job_events"

    def __repr__(self) -> str:
        return f"<JobEvent(job_id={self.job_id}, {self.from_status} -> {self.to_status})>"


JobEvent.add_index(JobEvent.index(JobEvent.job, JobEvent.id, name="idx_job_events_job"))
