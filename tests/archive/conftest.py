"""A database that records archives, and a folder for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures.archives import new_voice
from fixtures.databases import database_with

from presgen import DatabaseManager, VoiceClone

db = database_with("archive")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def voice(db: DatabaseManager) -> VoiceClone:
    return new_voice()
