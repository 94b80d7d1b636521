"""presgen: the persistence module of a Presentation Video Generator."""

from .config import DatabaseConfig
from .errors import (
    CommitUnknown,
    DatabaseUnavailable,
    InvalidTransition,
    JobCancelled,
    LeaseLost,
    PoolTimeout,
    PresgenError,
    ValidationError,
)
from .manager import DatabaseManager
from .models import MODELS, JobEvent, PresentationJob, User, VoiceClone
from .status import JobStatus
from .worker import Worker

__version__ = "0.1.0"

__all__ = [
    "MODELS",
    "CommitUnknown",
    "DatabaseConfig",
    "DatabaseManager",
    "DatabaseUnavailable",
    "InvalidTransition",
    "JobCancelled",
    "JobEvent",
    "JobStatus",
    "LeaseLost",
    "PoolTimeout",
    "PresentationJob",
    "PresgenError",
    "User",
    "ValidationError",
    "VoiceClone",
    "Worker",
]
