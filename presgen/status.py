"""The states of a job and the one table of transitions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class JobStatus(StrEnum):
    """Where a job stands; the value is what the database stores."""

    PENDING = "pending"
    PROCESSING_SLIDES = "processing_slides"
    SYNTHESIZING_AUDIO = "synthesizing_audio"
    ASSEMBLING_VIDEO = "assembling_video"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_running(self) -> bool:
        """Whether a worker has the job in hand."""
        return self in RUNNING

    @property
    def is_finished(self) -> bool:
        """Whether the job stays as it is unless it is retried by hand."""
        return self in FINISHED

    def can_become(self, other: JobStatus) -> bool:
        """Whether a job may go from this status to `other`; staying is no transition and always legal."""
        return other is self or other in TRANSITIONS[self]


RUNNING: Final = (JobStatus.PROCESSING_SLIDES, JobStatus.SYNTHESIZING_AUDIO, JobStatus.ASSEMBLING_VIDEO)
FINISHED: Final = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)
UNFINISHED: Final = (JobStatus.PENDING, *RUNNING)

_ENDS: Final = frozenset(FINISHED)

# The migration's trigger is this table as text; a test holds the two together.
TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = MappingProxyType(
    {
        JobStatus.PENDING: _ENDS | frozenset(RUNNING),
        JobStatus.PROCESSING_SLIDES: _ENDS | {JobStatus.SYNTHESIZING_AUDIO, JobStatus.PENDING},
        JobStatus.SYNTHESIZING_AUDIO: _ENDS | {JobStatus.ASSEMBLING_VIDEO, JobStatus.PENDING},
        JobStatus.ASSEMBLING_VIDEO: _ENDS | {JobStatus.PENDING},
        JobStatus.COMPLETED: frozenset(),
        JobStatus.FAILED: frozenset({JobStatus.PENDING}),
        JobStatus.CANCELLED: frozenset({JobStatus.PENDING}),
    }
)
