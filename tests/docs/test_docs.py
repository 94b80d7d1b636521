"""README, docs and ARCHITECTURE say what is so: their blocks run, their drawings are compared."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fixtures.rows import Enqueue, stored

from presgen import DatabaseManager, JobStatus
from presgen.status import TRANSITIONS

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_worker_script_of_the_readme_is_the_example() -> None:
    example = (ROOT / "examples" / "worker.py").read_text()
    assert blocks("python")[0] == example.partition('"""\n\n')[2]


def test_the_readmes_python_prints_what_it_says(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_url)
    scope: dict[str, object] = {}
    for block in blocks("python")[1:]:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(block, scope)
        promised = re.findall(r"print\(.*\)  # (.*)$", block, re.MULTILINE)
        assert said.getvalue().splitlines() == promised


def test_the_web_applications_of_the_docs_work(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    scope: dict[str, Any] = {"__name__": __name__}
    for block in blocks("python", (ROOT / "docs" / "web.md").read_text()):
        exec(block, scope)
    assert scope["counts"] == [0] * 8

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(scope["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://presgen.test") as client:
            answers = [await client.post("/users", params={"name": "Ada"}), await client.get("/jobs")]
        return [answer.json() for answer in answers]

    assert asyncio.run(ask()) == [{"id": 1}, []]
    assert scope["site"].test_client().get("/users/count").json == {"users": 1}
    scope["db"].close()


def test_the_loop_of_the_life_cycle_works(db: DatabaseManager, enqueue: Enqueue) -> None:
    jobs = [enqueue()]
    (loop,) = blocks("python", (ROOT / "docs" / "lifecycle.md").read_text())
    exec(loop, {})
    assert [stored(job).status for job in jobs] == [JobStatus.COMPLETED]


def test_the_readmes_commands_print_what_it_says(empty_url: str) -> None:
    environment = {**os.environ, "DATABASE_URL": empty_url}
    (console,) = blocks("console")
    for command, promised in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", console, re.MULTILINE):
        program, *arguments = shlex.split(command)
        assert program == "presgen"
        done = subprocess.run(
            [sys.executable, "-m", "presgen", *arguments], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == promised


def test_ci_runs_the_readmes_test_command() -> None:
    demo, tests = (block.strip() for block in blocks("sh"))
    assert demo.endswith("presgen demo")
    assert tests in (ROOT / ".ci" / "run").read_text()


def test_the_drawing_of_the_life_cycle_is_the_table_of_transitions() -> None:
    (drawing,) = blocks("mermaid", (ROOT / "docs" / "lifecycle.md").read_text())
    arrows = re.findall(r"^\s+(\w+) --> (\w+)", drawing, re.MULTILINE)
    assert len(arrows) == len(set(arrows))
    assert set(arrows) == {(str(before), str(after)) for before, ends in TRANSITIONS.items() for after in ends}


def test_the_floors_of_the_architecture_are_the_contract() -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    (floors,) = blocks("text", (ROOT / "ARCHITECTURE.md").read_text())
    assert floors.split("\n") == [*settings["importlinter:contract:floors"]["layers"].strip().split("\n"), ""]


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
