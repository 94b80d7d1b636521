"""`presgen archive`: the archive on the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fixtures.archives import finished, in_hand, stored_ids

from presgen import DatabaseManager, JobStatus, PresentationJob, VoiceClone
from presgen.cli import cli
from presgen.ext import archive

Run = Callable[..., Result]


@pytest.fixture
def run(url: str) -> Run:
    """Runs `presgen archive …` in this process."""

    def run(*arguments: object) -> Result:
        words = ("--database", url, "archive", *map(str, arguments))
        return CliRunner().invoke(cli, words, prog_name="presgen")

    return run


@pytest.fixture(autouse=True)
def jobs(db: DatabaseManager, voice: VoiceClone) -> list[PresentationJob]:
    """Three jobs that ended 100 days ago, one of them failed, and one that is in hand."""
    found = [finished(voice), finished(voice, JobStatus.FAILED), finished(voice)]
    in_hand(voice)
    return found


def succeeded(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


def test_jobs_go_and_come_back(run: Run, folder: Path, jobs: list[PresentationJob]) -> None:
    assert succeeded(run("run", folder, "--dry-run")) == "jobs to archive: 3\n"
    assert not folder.exists()
    result = run("run", folder, "--batch", 2)
    assert (succeeded(result), result.stderr) == ("jobs archived: 3\n", "2 of 3\n3 of 3\n")
    assert succeeded(run("verify", folder)) == "every archive is whole\n"
    assert succeeded(run("restore", folder, "--job", jobs[1].id)) == "jobs restored: 1\n"
    last = next(found.name for found in archive.manifests(folder) if found.first_job_id == jobs[2].id)
    assert succeeded(run("restore", folder, "--archive", last)) == "jobs restored: 1\n"
    assert succeeded(run("restore", folder, "--all")) == "jobs restored: 1\n"
    assert stored_ids()[:3] == [job.id for job in jobs]


def test_each_status_has_its_own_retention(run: Run, folder: Path) -> None:
    assert succeeded(run("run", folder, "--completed", "never", "--failed", "0.5")) == "jobs archived: 1\n"
    assert succeeded(run("run", folder, "--completed", "200")) == "jobs archived: 0\n"
    result = run("run", folder, "--completed", "soon")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'soon' is neither a number of days nor: never" in result.stderr


def test_archives_are_listed(run: Run, folder: Path) -> None:
    succeeded(run("run", folder, "--zstd"))
    heading, line = succeeded(run("list", folder)).splitlines()
    assert heading.split() == ["archive", "jobs", "ids", "last", "finished", "bytes"]
    assert line.split()[1:3] == ["3", "1-3"]
    (manifest,) = json.loads(succeeded(run("list", folder, "--json")))["archives"]
    assert manifest["file"].endswith(".jsonl.zst")


def test_a_search_needs_no_database(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    succeeded(run("run", folder))
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def search(*arguments: str) -> str:
        return succeeded(CliRunner().invoke(cli, ("archive", "search", str(folder), *arguments)))

    heading, line = search("--status", "failed").splitlines()
    assert heading.split() == ["id", "status", "owner", "finished", "archive"]
    assert line.split()[:3] == ["2", "failed", "1"]
    assert search("--limit", "2").splitlines()[-1] == "there are more: --limit"
    found = json.loads(search("--text", "TALK", "--limit", "2", "--json"))
    assert ([hit["job"]["id"] for hit in found["jobs"]], found["more"]) == ([1, 2], True)
    assert found["jobs"][0]["events"][0]["to_status"] == "processing_slides"
    assert search("--since", "2999-01-01").splitlines()[1:] == []


def test_damage_is_told_with_exit_code_1(run: Run, folder: Path) -> None:
    succeeded(run("run", folder))
    (folder / archive.manifests(folder)[0].file).write_bytes(b"x")
    result = run("verify", folder, "--files-only")
    assert result.exit_code == 1
    assert "is damaged: it has 1 of " in result.stdout
    assert result.stdout.endswith("1 things are wrong\n")


def test_one_choice_has_to_be_made(run: Run, folder: Path) -> None:
    for options in ((), ("--all", "--job", 1)):
        result = run("restore", folder, *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "name jobs by --job, or archives by --archive, or say --all" in result.stderr


def test_a_missing_folder_takes_one_line(run: Run, folder: Path) -> None:
    result = run("list", folder)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No such file or directory" in result.stderr


def test_purging_asks(run: Run, jobs: list[PresentationJob]) -> None:
    jobs[0].soft_delete()
    refused = run("purge", "--older-than", 0)  # to which nobody answers
    assert (refused.exit_code, jobs[0].id in stored_ids()) == (1, True)
    assert "will be lost. Go on?" in refused.stdout
    assert succeeded(run("purge", "--older-than", 0, "--yes")) == "jobs deleted: 1\n"
    assert jobs[0].id not in stored_ids()


def test_the_units_call_this_very_presgen(run: Run, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "systemd"
    target.mkdir()
    odd = tmp_path / "100 % of it"
    text = succeeded(run("units", odd))
    cron = text.splitlines()[0]
    assert cron.startswith("15 3 * * * ")
    assert shlex.split(cron)[-3:] == ["archive", "run", str(odd).replace("%", r"\%")]
    assert "[Timer]" in text
    succeeded(run("units", odd, "--to", target))
    assert {file.name for file in target.iterdir()} == {"presgen-archive.service", "presgen-archive.timer"}
    service = (target / "presgen-archive.service").read_text()
    assert f'-m presgen archive run "{str(odd).replace("%", "%%")}"\n' in service
    assert "{" not in service


def test_uninstalling_asks_and_leaves_the_files(url: str, run: Run, folder: Path) -> None:
    succeeded(run("run", folder))
    command = ("--database", url, "uninstall", "archive")
    refused = CliRunner().invoke(cli, command, input="n\n")
    assert "the files stay" in refused.stdout
    assert refused.exit_code == 1
    succeeded(CliRunner().invoke(cli, (*command, "--yes")))
    assert len(list(folder.glob("jobs-*"))) == 2
