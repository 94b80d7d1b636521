"""A folder for backups, and empty databases to restore into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from presgen import DatabaseConfig, DatabaseManager, PresentationJob, User, VoiceClone


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A database of the test's own, with rows."""
    with DatabaseManager(DatabaseConfig(url, pool_timeout=5)) as manager:
        owner = User.create(name="Ada \U0001f680", email="ada@example.com")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=owner, duration_seconds=1 / 3)
        for number in range(5):
            job = PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path=f"/{number}\t\\.pptx")
            job.checkpoint = {"number": number, "text": "\u00e4\n"}
            job.save()
        job.cancel()
        yield manager


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def new_manager(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], DatabaseManager]]:
    """Opens a manager on a new and empty database."""
    with ExitStack() as stack:

        def create() -> DatabaseManager:
            url = f"sqlite:///{tmp_path / 'new.db'}"
            if backend != "sqlite":
                url = request.getfixturevalue("new_database")()
            return stack.enter_context(DatabaseManager(url))

        yield create
