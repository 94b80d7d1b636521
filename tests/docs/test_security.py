"""docs/security.md: its blocks run, in their order and on one database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.guides import run_guide
from fixtures.servers import Server

ROLES = ("web_login", "presgen_owner", "presgen_app", "presgen_worker")


@pytest.fixture
def without_roles(postgresql: str, servers: dict[str, Server]) -> Iterator[None]:
    """Roles belong to the whole server; they go after the database, whose things are theirs."""
    yield
    servers[postgresql].execute(*(f"DROP ROLE IF EXISTS {role}" for role in ROLES))


def test_the_blocks_of_the_security_guide_work(
    without_roles: None, empty_url: str, postgresql: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_url)
    for variable in ("DATABASE_ENCRYPTION_KEYS", "DATABASE_INDEX_KEYS"):
        monkeypatch.setenv(variable, "")  # so that what the guide sets is gone afterwards
    monkeypatch.chdir(tmp_path)
    scope = run_guide("security.md")
    scope["db"].close()
