"""The tables."""

from .job_event import JobEvent
from .presentation_job import PresentationJob
from .user import User
from .voice_clone import VoiceClone

MODELS = (User, VoiceClone, PresentationJob, JobEvent)

__all__ = ["MODELS", "JobEvent", "PresentationJob", "User", "VoiceClone"]
