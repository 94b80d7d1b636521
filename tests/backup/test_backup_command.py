"""`presgen backup`: backups on the command line, and the drill."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from click.testing import CliRunner, Result

from presgen import DatabaseManager, User
from presgen.cli import cli
from presgen.errors import BackupError
from presgen.ext import backup
from presgen.ext.backup import recovery_drill

Run = Callable[..., Result]


@pytest.fixture
def run(url: str) -> Run:
    """Runs `presgen backup …` in this process."""

    def run(*arguments: object, database: str = url) -> Result:
        words = ("--database", database, "backup", *map(str, arguments))
        return CliRunner().invoke(cli, words, prog_name="presgen")

    return run


def succeeded(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_backup_is_made_verified_and_restored(
    db: DatabaseManager, run: Run, folder: Path, new_manager: Callable[[], DatabaseManager]
) -> None:
    made = succeeded(run("create", folder))
    name = made.partition(":")[0]
    heading, line = succeeded(run("list", folder)).splitlines()
    assert heading.split() == ["backup", "of", "database", "rows", "bytes"]
    assert line.startswith(name)
    (document,) = json.loads(succeeded(run("list", folder, "--json")))["backups"]
    assert document["name"] == name
    assert succeeded(run("verify", folder)).startswith(f"{name} gives back its ")
    assert succeeded(run("verify", folder, name, "--embedded")).startswith(f"{name} gives back its ")
    succeeded(run("create", folder))
    assert len(succeeded(run("verify", folder, "--all")).splitlines()) == 2
    target = new_manager()
    assert f"{name} is restored" in succeeded(run("restore", folder, name, database=target.config.url))
    assert User.select().count() == 1
    refused = run("restore", folder)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "is not empty" in refused.stderr


def test_a_rotation_says_what_it_removes(db: DatabaseManager, run: Run, folder: Path) -> None:
    for _ in range(2):
        succeeded(run("create", folder))
    assert "would remove presgen-" in succeeded(run("rotate", folder, "--daily", 1, "--dry-run"))
    assert succeeded(run("rotate", folder, "--daily", 1)).endswith("backups removed: 1\n")
    assert succeeded(run("rotate", folder)) == "backups removed: 0\n"


def test_damage_takes_one_line_and_exit_code_1(db: DatabaseManager, run: Run, folder: Path) -> None:
    succeeded(run("create", folder))
    (folder / backup.backups(folder)[0].file).write_bytes(b"x")
    result = run("verify", folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "is damaged: it has 1 of" in result.stderr
    assert run("verify", folder, "x", "--all").exit_code == 2


def test_the_drill_gets_back_every_job_up_to_the_restore_point() -> None:
    with TemporaryDirectory(prefix="presgen-drill-") as folder:
        Path(folder).chmod(0o755)
        result = CliRunner().invoke(cli, ("backup", "drill", f"{folder}/drill", "--jobs", "301"))
        said = succeeded(result).splitlines()
        assert said[-1] == "every job up to the restore point is back: 301"
        assert any("the loss" in line and "(161 jobs)" in line for line in said)
        assert any("base backup (150 jobs)" in line for line in said)
        with pytest.raises(BackupError, match="is not empty"):
            backup.drill(f"{folder}/drill")


def test_a_recovery_without_its_restore_point_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A deliberate bug: the log is replayed to its end, with the loss."""
    recovery = recovery_drill._recovery
    command = "restore_command"
    monkeypatch.setattr(recovery_drill, "_recovery", lambda archive: {command: recovery(archive)[command]})
    with TemporaryDirectory(prefix="presgen-drill-") as folder:
        Path(folder).chmod(0o755)
        with pytest.raises(BackupError, match="jobs are missing"):
            backup.drill(f"{folder}/drill", jobs=20)
