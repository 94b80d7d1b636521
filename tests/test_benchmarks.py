"""`python -m benchmarks` runs, compares before it times, and shows every row, also of who is not there."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
SUBJECTS = ("save", "get", "page", "bulk", "deep", "metrics", "voices", "claim + finish", "worker", "pool", "footprint")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the benchmarks and nothing else, so that what is measured is the presgen that is installed."""
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *options]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def quick(folder: Path) -> tuple[Path, str]:
    """The files and the output of a quick run beside what the suite has installed."""
    files = ("--json", "found.json", "--svg", "found.svg", "--results", "found.md")
    done = run(folder, "--quick", "--peers", "sqlalchemy", *files)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_a_quick_run_shows_every_row(quick: tuple[Path, str]) -> None:
    folder, said = quick
    found: dict[str, Any] = json.loads((folder / "found.json").read_text())
    rows = found["rows"]
    assert {row["subject"].partition(":")[0].partition(",")[0] for row in rows} == set(SUBJECTS)
    for row in rows:
        absent = row["against"].partition(" ")[0] in ("Django", "procrastinate", "pgqueuer")
        assert (row["measured"] is None) == absent, row
        assert not absent or row["note"] == "left out"
        assert row["what"] in said
    assert {growth["operation"] for growth in found["growth"]} == {
        "get by id",
        "page 1",
        "last page, keyset",
        "last page, OFFSET",
        "metrics",
        "claim + finish",
    }
    assert found["machine"]["postgresql"].startswith("18")
    table = (folder / "found.md").read_text()
    assert all(f"| {row['what']} | {row['against']} |" in table for row in rows)
    bars = ElementTree.parse(folder / "found.svg").getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == sum(bool(row["target"]) for row in rows)


def test_what_is_not_known_is_refused(folder: Path) -> None:
    done = run(folder, "--only", "save,everything")
    assert done.returncode == 2
    assert "unknown: everything" in done.stderr


@pytest.mark.usefixtures("folder")
def test_contenders_who_differ_end_the_race_before_it_begins() -> None:
    from benchmarks.rounds import Contender, Mismatch, race

    honest, other = Contender("honest", lambda number: number), Contender("other", lambda number: number // 2)
    with pytest.raises(Mismatch, match=r"^a page: other gives 0, but honest gives 1$"):
        race("a page", [honest, other], rounds=1, seconds=0)


@pytest.mark.usefixtures("folder")
def test_a_peer_that_is_not_installed_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import peers
    from benchmarks.rounds import Race
    from benchmarks.rows import at_least
    from benchmarks.table import cells

    monkeypatch.setattr(peers, "version_of", {"sqlalchemy": "2.0", "procrastinate": "3.0"}.get)
    absent = peers.absent_peers(["sqlalchemy", "procrastinate", "django"])
    assert absent == {"Django": "not installed", "procrastinate": "not installed", "pgqueuer": "left out"}
    row = Race("get", 10, {}, absent).row("get", "Django", at_least())
    assert (row.met, cells(row)[-1]) == (None, "not installed")


@pytest.mark.usefixtures("folder")
def test_a_ratio_is_read_by_its_limit() -> None:
    from benchmarks.rows import Growth, Row, at_least, at_most

    assert at_most(1.5).ratio(3, 2) == 1.5
    assert at_least(4).ratio(2, 8) == 4
    assert [Row("", "", "", at_most(1.5), ratio).met for ratio in (1.5, 1.6)] == [True, False]
    assert [Row("", "", "", at_least(4), ratio).met for ratio in (4, 3.9)] == [True, False]
    growth = Growth("", "", {1_000: 0.5, 10_000: 5.0, 100_000: 50.0})
    assert growth.exponent == pytest.approx(1)


def test_the_peers_are_an_extra_that_neither_presgen_nor_its_tests_need() -> None:
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    extras = settings["options.extras_require"]

    def names(text: str) -> set[str]:
        own = {match[0] for line in text.split() if (match := re.match(r"[a-z][\w-]*", line))}
        return own.union(*(names(extras[extra]) for extra in re.findall(r"%\((\w+)\)s", text)))

    peers = {"asyncpg", "django", "pgqueuer", "procrastinate", "psycopg"}
    assert peers | {"sqlalchemy"} <= names(extras["benchmarks"])
    for text in (settings["options"]["install_requires"], extras["test"]):
        assert not peers & names(text)
