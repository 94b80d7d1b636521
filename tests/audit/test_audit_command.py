"""`presgen audit`: the audit log on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from presgen import DatabaseManager, User
from presgen.cli import cli
from presgen.ext import audit

Run = Callable[..., Result]


@pytest.fixture
def run(url: str) -> Run:
    """Runs `presgen audit …` in this process."""
    return lambda *arguments: CliRunner().invoke(cli, ("--database", url, "audit", *arguments), prog_name="presgen")


@pytest.fixture(autouse=True)
def story(db: DatabaseManager) -> None:
    """A user who is made, renamed by support, and logs in."""
    ada = User.create(name="Ada")
    with db.acting_as(ada, actor="support"):
        ada.name = "Ada\x1b[31m L."
        ada.save()
    audit.action("login", user=ada, address="::1")


def succeeded(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def columns(line: str) -> list[str]:
    return re.split(r" {2,}", line)


def test_history_shows_a_row_oldest_first(run: Run) -> None:
    heading, created, renamed = succeeded(run("history", "users", "1")).splitlines()
    assert columns(heading) == ["at", "operation", "about", "actor", "changes"]
    assert columns(created)[1:3] == ["INSERT", "users 1"]
    assert '"name": "Ada"' in created
    assert columns(renamed)[1:] == ["UPDATE", "users 1", "support", '{"name": ["Ada", "Ada\\u001b[31m L."]}']


def test_search_lists_pages_newest_first(run: Run) -> None:
    _, login, renamed, more = succeeded(run("search", "--limit", "2")).splitlines()
    assert columns(login)[1:4] == ["ACTION", "login", "user 1"]
    assert columns(login)[-1] == '{"address": "::1"}'
    assert columns(renamed)[1] == "UPDATE"
    option, cursor = more.removeprefix("next page: ").split()
    _, created = succeeded(run("search", "--limit", "2", option, cursor)).splitlines()
    assert columns(created)[1] == "INSERT"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--actor", "support"], ["UPDATE"]),
        (["--user", "1"], ["ACTION", "UPDATE"]),
        (["--table", "users", "--operation", "insert"], ["INSERT"]),
        (["--action", "login"], ["ACTION"]),
        (["--table", "users", "--row", "1"], ["UPDATE", "INSERT"]),
        (["--row", "2"], []),
        (["--transaction", "1"], []),
        (["--database-user", "somebody"], []),
        (["--since", "2026-01-01"], ["ACTION", "UPDATE", "INSERT"]),
        (["--until", "2026-01-01 12:00:00"], []),
    ],
)
def test_search_takes_conditions(run: Run, options: list[str], found: list[str]) -> None:
    document = json.loads(succeeded(run("search", "--json", *options)))
    assert [entry["operation"] for entry in document["entries"]] == found


def test_export_writes_lines_of_json(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "log.jsonl"
    result = run("export", str(target))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "entries exported: 3\n")
    assert [json.loads(line)["operation"] for line in target.read_text().splitlines()] == ["ACTION", "UPDATE", "INSERT"]
    result = run("export", "-", "--operation", "UPDATE")
    assert json.loads(result.stdout)["new"] == {"name": "Ada\x1b[31m L."}


def test_prune_deletes_what_is_older(run: Run) -> None:
    assert succeeded(run("prune", "--before", "2026-01-01")) == "entries pruned: 0\n"
    result = run("prune", "--before", "2999-01-01")
    assert (result.exit_code, result.stderr) == (1, "Error: before must not lie in the future\n")
    assert len(audit.search()) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prune",), "Missing option '--before'"),
        (("history", "users", "ada"), "'ada' is not a valid integer"),
        (("search", "--operation", "select"), "'select' is not one of"),
        (("search", "--after", "here"), "after must be an AuditEntry or its cursor"),
        (("export", "/nowhere/log.jsonl"), "/nowhere/log.jsonl: No such file or directory"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(run: Run, words: tuple[str, ...], said: str) -> None:
    result = run(*words)
    assert result.exit_code != 0
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr)
    assert said in result.stderr


def test_without_the_log_the_command_says_so(run: Run, db: DatabaseManager) -> None:
    db.uninstall("audit")
    result = run("search")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: the database has no audit log; run: presgen install audit\n",
    )
