"""`presgen search`: words on the command line."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from presgen import DatabaseManager, PresentationJob, User, VoiceClone
from presgen.cli import cli


@pytest.fixture(autouse=True)
def rows(db: DatabaseManager, owner: User, voice: VoiceClone) -> None:
    for number in range(3):
        PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path=f"/decks/talk\x1b[31m {number}.pptx")


def run(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ("--database", url, "search", *arguments), prog_name="presgen")


def test_rows_are_listed_with_what_was_found(url: str) -> None:
    result = run(url, "jobs", "talk 2", "--newest")
    assert result.exit_code == 0, result.stderr
    heading, line = result.stdout.splitlines()
    assert heading.split() == ["id", "created", "what", "was", "found"]
    assert line.startswith("3 ")
    assert line.endswith("/decks/**talk**\\x1b[31m **2**.pptx")


def test_pages_follow_each_other(url: str) -> None:
    first = run(url, "jobs", "talk", "--limit", "2").stdout.splitlines()
    *_, command, cursor = first[-1].split()
    assert command == "--after"
    second = run(url, "jobs", "talk", "--limit", "2", "--after", cursor).stdout.splitlines()
    assert len(second) == 2


def test_a_document_has_all_of_it(url: str) -> None:
    found = json.loads(run(url, "users", "ada", "--json").stdout)
    assert found["next"] is None
    (hit,) = found["hits"]
    assert (hit["id"], hit["snippet"]) == (1, "**Ada**")
    assert json.loads(run(url, "voice-clones", "ada", "--owner", "99", "--json").stdout)["hits"] == []


def test_errors_take_one_line(url: str, db: DatabaseManager) -> None:
    result = run(url, "jobs", "!")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: query has no word to look for\n"
    db.uninstall("search")
    assert "presgen install search" in run(url, "jobs", "talk").stderr
