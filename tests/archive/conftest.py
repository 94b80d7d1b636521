"""A database that records archives, and a folder for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.archives import new_voice

from presgen import DatabaseConfig, DatabaseManager, VoiceClone


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A database of the test's own that records archives."""
    with DatabaseManager(DatabaseConfig(url, pool_timeout=5)) as manager:
        manager.install("archive")
        yield manager


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def voice(db: DatabaseManager) -> VoiceClone:
    return new_voice()
