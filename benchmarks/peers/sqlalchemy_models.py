"""The specification's improved models and their validators, as it writes them for SQLAlchemy.

Two things differ. `User.voice_clones` has the default loading and not `lazy="dynamic"`, which its own example of
eager loading cannot use; and there is no CHECK on completed jobs, whose text PostgreSQL refuses of a native enum
that holds the members' names.
"""

from __future__ import annotations

import datetime
import enum
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
)
from sqlalchemy.orm import declarative_base, relationship, validates

Base: Any = declarative_base()


def now() -> datetime.datetime:
    """datetime.utcnow, which newer Pythons warn of."""
    return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)


class JobStatus(enum.Enum):
    PENDING = "pending"
    PROCESSING_SLIDES = "processing_slides"
    SYNTHESIZING_AUDIO = "synthesizing_audio"
    ASSEMBLING_VIDEO = "assembling_video"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class User(Base):
    __tablename__ = "users"
    id = Column(Integer, primary_key=True, index=True)
    name = Column(String(255), nullable=False, index=True)
    email = Column(String(255), unique=True, index=True, nullable=True)
    password_hash = Column(String(128), nullable=True)
    created_at = Column(DateTime, default=now, nullable=False)
    updated_at = Column(DateTime, default=now, onupdate=now, nullable=False)
    is_active = Column(Boolean, default=True, nullable=False)
    voice_clones = relationship("VoiceClone", back_populates="owner", cascade="all, delete-orphan")
    presentations = relationship(
        "PresentationJob", back_populates="owner", lazy="dynamic", cascade="all, delete-orphan"
    )

    @validates("email")
    def validate_email(self, key: str, address: str | None) -> str | None:
        if address and "@" not in address:
            raise ValueError("Invalid email format")
        return address


class VoiceClone(Base):
    __tablename__ = "voice_clones"
    id = Column(Integer, primary_key=True, index=True)
    name = Column(String(255), nullable=False, index=True)
    s3_path = Column(String(1000), nullable=False, unique=True)
    file_size = Column(BigInteger, nullable=True)
    duration_seconds = Column(Float, nullable=True)
    sample_rate = Column(Integer, nullable=True)
    created_at = Column(DateTime, default=now, nullable=False)
    updated_at = Column(DateTime, default=now, onupdate=now, nullable=False)
    is_active = Column(Boolean, default=True, nullable=False)
    owner_id = Column(Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True)
    owner = relationship("User", back_populates="voice_clones")
    __table_args__ = (
        CheckConstraint("file_size > 0", name="positive_file_size"),
        CheckConstraint("duration_seconds > 0", name="positive_duration"),
        Index("idx_owner_name", "owner_id", "name"),
    )

    @validates("s3_path")
    def validate_s3_path(self, key: str, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("S3 path must start with '/'")
        if not path.endswith(".wav"):
            raise ValueError("Voice clone must be a WAV file")
        return path

    @validates("duration_seconds")
    def validate_duration(self, key: str, duration: float | None) -> float | None:
        if duration is not None and duration <= 0:
            raise ValueError("Duration must be positive")
        if duration is not None and duration > 300:
            raise ValueError("Voice clone too long (max 5 minutes)")
        return duration


class PresentationJob(Base):
    __tablename__ = "presentation_jobs"
    id = Column(Integer, primary_key=True, index=True)
    status = Column(Enum(JobStatus), default=JobStatus.PENDING, nullable=False, index=True)
    s3_pptx_path = Column(String(1000), nullable=False)
    s3_video_path = Column(String(1000), nullable=True)
    slides_count = Column(Integer, nullable=True)
    video_duration_seconds = Column(Float, nullable=True)
    file_size_bytes = Column(BigInteger, nullable=True)
    processing_time_seconds = Column(Float, nullable=True)
    error_message = Column(Text, nullable=True)
    created_at = Column(DateTime, default=now, nullable=False)
    updated_at = Column(DateTime, default=now, onupdate=now, nullable=False)
    started_at = Column(DateTime, nullable=True)
    completed_at = Column(DateTime, nullable=True)
    owner_id = Column(Integer, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True)
    voice_clone_id = Column(Integer, ForeignKey("voice_clones.id", ondelete="RESTRICT"), nullable=False, index=True)
    owner = relationship("User", back_populates="presentations")
    voice_clone = relationship("VoiceClone")
    __table_args__ = (
        Index("idx_owner_status", "owner_id", "status"),
        Index("idx_created_at", "created_at"),
        CheckConstraint("completed_at IS NULL OR completed_at >= started_at", name="valid_completion_time"),
        CheckConstraint("slides_count > 0", name="positive_slides_count"),
        CheckConstraint("video_duration_seconds > 0", name="positive_video_duration"),
    )
