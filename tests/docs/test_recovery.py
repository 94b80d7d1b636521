"""docs/recovery.md: what it tells a new user of an embedded server to type works."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fixtures.guides import run_guide


def test_the_blocks_of_the_recovery_guide_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory(prefix="presgen-guide-") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setenv("DATABASE_URL", "embedded:///primary")
        monkeypatch.chdir(folder)
        run_guide("recovery.md")
