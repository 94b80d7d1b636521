"""A database whose words are indexed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from presgen import DatabaseConfig, DatabaseManager, User, VoiceClone


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A database of the test's own with the feature."""
    with DatabaseManager(DatabaseConfig(url, pool_timeout=5)) as manager:
        manager.install("search")
        yield manager


@pytest.fixture
def owner(db: DatabaseManager) -> User:
    return User.create(name="Ada")  # type: ignore[no-any-return]


@pytest.fixture
def voice(owner: User) -> VoiceClone:
    return VoiceClone.create(name="Ada", s3_path="/voices/ada.wav", owner=owner)  # type: ignore[no-any-return]
