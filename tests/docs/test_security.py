"""docs/security.md: its blocks run, in their order and on one database."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.servers import Server

SECURITY = Path(__file__).parent.parent.parent / "docs" / "security.md"


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
    scope: dict[str, Any] = {"__name__": __name__}
    for language, block in re.findall(r"^```(python|console)\n(.*?)^```$", SECURITY.read_text(), re.M | re.S):
        if language == "python":
            run_python(block, scope)
        else:
            run_console(block)
    scope["db"].close()


def run_python(block: str, scope: dict[str, Any]) -> None:
    """Run it; what it prints is what its comments promise."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(block, scope)
    assert said.getvalue().splitlines() == re.findall(r"print\(.*\)  # (.*)$", block, re.MULTILINE)


def run_console(block: str) -> None:
    """Run its commands; each prints what follows it, where something does."""
    for command, promised in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE):
        program, *arguments = shlex.split(command)
        assert program == "presgen"
        words = [sys.executable, "-m", "presgen", *arguments]
        done = subprocess.run(words, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert promised in ("", done.stdout), command
