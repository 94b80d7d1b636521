"""docs/operations.md and docs/scale.md: what a new user of an embedded server types works."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fixtures.guides import run_guide
from fixtures.sqlalchemy_rows import fill_database

from presgen.embedded import EmbeddedServer


def test_the_blocks_about_what_runs_beside_the_jobs_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory(prefix="presgen-guide-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("DATABASE_URL", "embedded:///primary")
        monkeypatch.setenv("DATABASE_REPLICA_URLS", "")
        monkeypatch.chdir(folder)
        scope: dict[str, Any] = {}
        for section in ("Migrations", "Replicas", "Archive", "Search"):
            scope = run_guide("operations.md", section=section, scope=scope)


def test_the_blocks_about_partitions_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory(prefix="presgen-guide-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("DATABASE_URL", "embedded:///primary")
        monkeypatch.chdir(folder)
        run_guide("scale.md", section="Partitions")


def test_a_database_of_sqlalchemys_is_adopted_as_the_guide_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory(prefix="presgen-guide-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder) / "server") as server:
            fill_database(server.url)
            monkeypatch.setenv("DATABASE_URL", server.url)
            run_guide("operations.md", section="Adoption")
