"""The application's login, with two users."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixtures.tenants import Tenancy, with_voice_and_job

from presgen import DatabaseManager
from presgen.ext.tenancy import sign_up


@pytest.fixture
def app(tenancy: Tenancy) -> Iterator[DatabaseManager]:
    """The application, with two users who have a voice, a cancelled job and its event each."""
    with tenancy.open("app") as app:
        for name in ("Ada", "Bob"):
            user = sign_up(app, name=name, email=f"{name}@example.com")
            with app.acting_as(user):
                with_voice_and_job(user).cancel()
        yield app


@pytest.fixture
def ada(tenancy: Tenancy, app: DatabaseManager) -> int:
    return int(tenancy.admin("SELECT id FROM users WHERE name = 'Ada'")[0][0])


@pytest.fixture
def bob(tenancy: Tenancy, app: DatabaseManager) -> int:
    return int(tenancy.admin("SELECT id FROM users WHERE name = 'Bob'")[0][0])
