"""A database whose words are indexed."""

from __future__ import annotations

import pytest
from fixtures.databases import database_with

from presgen import DatabaseManager, User, VoiceClone

db = database_with("search")


@pytest.fixture
def owner(db: DatabaseManager) -> User:
    return User.create(name="Ada")  # type: ignore[no-any-return]


@pytest.fixture
def voice(owner: User) -> VoiceClone:
    return VoiceClone.create(name="Ada", s3_path="/voices/ada.wav", owner=owner)  # type: ignore[no-any-return]
