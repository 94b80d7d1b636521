"""SQLAlchemy as the specification uses it: its engine's options, its session factory, and its functions.

The driver is psycopg2, presgen's own, so that libraries are compared and not drivers.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg2.extensions import parse_dsn
from sqlalchemy import URL, create_engine
from sqlalchemy.orm import Session, joinedload, selectinload, sessionmaker

from .sqlalchemy_models import Base, JobStatus, PresentationJob, User, VoiceClone


def engine_for(url: str) -> Any:
    """The specification's engine."""
    login = parse_dsn(url)
    return create_engine(
        URL.create("postgresql+psycopg2", login["user"], database=login["dbname"], query={"host": login["host"]}),
        pool_size=20,
        max_overflow=30,
        pool_pre_ping=True,
        pool_recycle=3600,
        connect_args={
            "options": "-c timezone=utc",
            "connect_timeout": 10,
            "application_name": "presentation-generator",
        },
    )


def session_factory(engine: Any, **options: Any) -> Any:
    """The specification's sessions; `expire_on_commit=False` is the one option that is tried beside."""
    return sessionmaker(autocommit=False, autoflush=False, bind=engine, **options)


@contextmanager
def opened(url: str, **options: Any) -> Iterator[Any]:
    """A session factory for the block."""
    engine = engine_for(url)
    try:
        yield session_factory(engine, **options)
    finally:
        engine.dispose()


def create_tables(url: str) -> None:
    """Make the specification's tables."""
    engine = engine_for(url)
    Base.metadata.create_all(bind=engine)
    engine.dispose()


def get_users_with_voice_clones(db: Session) -> list[Any]:
    return db.query(User).options(selectinload(User.voice_clones)).order_by(User.id).all()


def get_presentation_jobs(db: Session, skip: int = 0, limit: int = 100) -> list[Any]:
    return (
        db.query(PresentationJob)
        .options(joinedload(PresentationJob.owner))
        .order_by(PresentationJob.created_at.desc())
        .offset(skip)
        .limit(limit)
        .all()
    )


def get_jobs_by_status(db: Session) -> dict[str, Any]:
    """What presgen's metrics tell besides, counted as the specification counts."""
    jobs = db.query(PresentationJob)
    return {
        "jobs_by_status": {status.value: jobs.filter(PresentationJob.status == status).count() for status in JobStatus}
    }


def get_database_metrics(db: Session) -> dict[str, int]:
    jobs = db.query(PresentationJob)
    failed_today = (PresentationJob.status == JobStatus.FAILED, PresentationJob.created_at >= datetime.date.today())
    return {
        "total_users": db.query(User).count(),
        "active_users": db.query(User).filter(User.is_active == True).count(),  # noqa: E712 (the specification's text)
        "total_voice_clones": db.query(VoiceClone).count(),
        "pending_jobs": jobs.filter(PresentationJob.status == JobStatus.PENDING).count(),
        "failed_jobs_today": jobs.filter(*failed_today).count(),
    }
