"""`presgen dead`: the dead letters on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fixtures.rows import Enqueue, stored

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone
from presgen.cli import cli

Dead = Callable[..., Result]
Bury = Callable[..., PresentationJob]


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """The database that the command under test works on as well, which one in memory could not be."""
    with DatabaseManager(url) as manager:
        yield manager


@pytest.fixture
def dead(url: str) -> Dead:
    """Runs `presgen dead …` in this process, on a migrated database."""
    return lambda *arguments: CliRunner().invoke(cli, ("--database", url, "dead", *arguments), prog_name="presgen")


@pytest.fixture
def bury(enqueue: Enqueue) -> Bury:
    """Enqueues a job that a worker fails for good."""

    def bury(error: str = "no deck", **columns: Any) -> PresentationJob:
        job = enqueue(**columns)
        (claimed,) = PresentationJob.claim("w1")
        assert claimed == job
        claimed.fail(error, retry=False)
        return stored(job)

    return bury


def succeeded(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(result: Result, *, code: int = 1) -> str:
    """The one line of a command that could not do what it was asked to."""
    assert result.exit_code == code, result
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr), result.stderr
    return result.stderr


def ids(result: Result) -> list[int]:
    return [job["id"] for job in json.loads(succeeded(result))["jobs"]]


# list


def test_dead_letters_are_listed_newest_first_with_the_first_line_of_their_error(
    dead: Dead, bury: Bury, enqueue: Enqueue
) -> None:
    first, second = bury("BadDeck: none\nsecond line"), bury("x" * 100)
    enqueue()
    heading, *rows = succeeded(dead("list")).splitlines()

    assert heading.split() == ["id", "failed", "attempt", "owner", "error"]
    assert [re.split(" {2,}", row) for row in rows] == [
        [str(job.id), f"{job.completed_at:%Y-%m-%d %H:%M:%SZ}", "1/3", f"{job.owner_id} Ada", error]
        for job, error in ((second, "x" * 79 + "…"), (first, "BadDeck: none"))
    ]


def test_a_full_page_ends_with_the_cursor_of_the_next(dead: Dead, bury: Bury) -> None:
    buried = [str(bury().id) for _ in range(3)][::-1]
    *page, last = succeeded(dead("list", "--limit", "2")).splitlines()
    option, cursor = last.removeprefix("next page: ").split()
    rest = succeeded(dead("list", "--limit", "2", option, cursor)).splitlines()

    assert [row.split()[0] for row in page[1:] + rest[1:]] == buried
    assert len(page) == 3
    assert "after must be a job or its cursor" in refused(dead("list", "--after", "yesterday"))


def test_lists_are_narrowed_and_json_has_every_column(dead: Dead, bury: Bury) -> None:
    early, late = bury("Timeout of the voice"), bury("BadDeck")
    moments = {
        early.id: datetime(2026, 1, 1, 12, tzinfo=timezone.utc),
        late.id: datetime(2026, 1, 2, tzinfo=timezone.utc),
    }
    for job_id, moment in moments.items():
        PresentationJob.update(started_at=None, completed_at=moment).where(PresentationJob.id == job_id).execute()

    assert ids(dead("list", "--json")) == [late.id, early.id]
    assert ids(dead("list", "--json", "--error", "timeout")) == [early.id]
    assert ids(dead("list", "--json", "--owner", str(early.owner_id))) == [late.id, early.id]
    assert ids(dead("list", "--json", "--owner", "999")) == []
    for since in ("2026-01-01 12:00:01", "2026-01-01T12:00:01Z", "2026-01-02", "2026-01-02 00:00:00Z"):
        assert ids(dead("list", "--json", "--since", since)) == [late.id]
    assert ids(dead("list", "--json", "--until", "2026-01-02")) == [early.id]
    page = json.loads(succeeded(dead("list", "--json", "--limit", "1")))
    assert page["next"] == stored(late).cursor
    assert page["jobs"][0]["error_message"] == "BadDeck"


def test_what_people_typed_cannot_steer_the_terminal(dead: Dead, bury: Bury) -> None:
    job = bury("\x1b[2Jgone")

    for arguments in (("list",), ("errors",), ("show", str(job.id))):
        assert r"\x1b[2Jgone" in succeeded(dead(*arguments))


# show


def test_show_prints_the_whole_error_the_history_and_the_time_of_each_stage(dead: Dead, enqueue: Enqueue) -> None:
    enqueue()
    (claimed,) = PresentationJob.claim("w1")
    claimed.advance(JobStatus.SYNTHESIZING_AUDIO)
    claimed.fail("first line\nsecond line", retry=False)
    shown = succeeded(dead("show", str(claimed.id)))

    assert re.search(r"^error_message +first line\n +second line$", shown, re.MULTILINE)
    assert re.search(r" synthesizing_audio -> failed +w1 +1$", shown, re.MULTILINE)
    times = shown.partition("\n\nseconds in each stage\n")[2]
    assert re.fullmatch(r"processing_slides +[0-9.]+\nsynthesizing_audio +[0-9.]+\n", times)


def test_show_of_a_job_that_no_worker_had_has_no_times(dead: Dead, job: PresentationJob) -> None:
    job.status = JobStatus.FAILED
    job.save()

    assert "seconds in each stage" not in succeeded(dead("show", str(job.id)))


def test_a_job_that_is_no_dead_letter_is_not_shown_as_one(dead: Dead, job: PresentationJob, bury: Bury) -> None:
    assert refused(dead("show", str(job.id))) == (
        f"Error: job {job.id} is pending, no dead letter; see: presgen jobs show {job.id}\n"
    )
    assert "there is no job 999" in refused(dead("show", "999"))
    job.cancel()
    deleted = bury()
    deleted.deleted_at = datetime.now(timezone.utc)
    deleted.save()
    assert "is failed and deleted, no dead letter" in refused(dead("show", str(deleted.id)))


# errors


def test_errors_are_counted_the_commonest_first(dead: Dead, bury: Bury) -> None:
    bury("Timeout\nslide 1")
    alone, newest = bury("BadDeck"), bury("Timeout\nslide 2")
    heading, *rows = succeeded(dead("errors")).splitlines()

    assert heading.split() == ["jobs", "latest", "example", "error"]
    assert [re.split(" {2,}", row) for row in rows] == [
        [count, f"{job.completed_at:%Y-%m-%d %H:%M:%SZ}", str(job.id), error]
        for count, job, error in (("2", newest, "Timeout"), ("1", alone, "BadDeck"))
    ]
    assert len(succeeded(dead("errors", "--limit", "1")).splitlines()) == 2
    assert json.loads(succeeded(dead("errors", "--json", "--error", "deck"))) == {
        "errors": [{"error": "BadDeck", "jobs": 1, "latest": alone.completed_at.isoformat(), "job_id": alone.id}]
    }


def test_without_dead_letters_the_tables_are_empty(dead: Dead, job: PresentationJob) -> None:
    for command in ("list", "errors"):
        assert len(succeeded(dead(command)).splitlines()) == 1


# retry


def test_the_named_dead_letters_are_retried_and_counted(dead: Dead, bury: Bury) -> None:
    first, second, third = bury(), bury(), bury()

    assert succeeded(dead("retry", str(first.id), str(second.id))) == "jobs put back into the queue: 2\n"
    assert [stored(job).status for job in (first, second, third)] == ["pending", "pending", "failed"]


def test_all_dead_letters_are_retried_only_when_that_is_said(dead: Dead, bury: Bury) -> None:
    jobs = [bury(), bury()]
    for arguments in ((), ("--error", "deck"), ("--owner", "1"), ("--all", str(jobs[0].id)), ("1", "--error", "deck")):
        assert "name the jobs by their ids, or say --all" in refused(dead("retry", *arguments), code=2)
    assert {stored(job).status for job in jobs} == {JobStatus.FAILED}

    assert succeeded(dead("retry", "--all")) == "jobs put back into the queue: 2\n"
    assert succeeded(dead("retry", "--all")) == "jobs put back into the queue: 0\n"


def test_all_is_narrowed_by_owner_and_error(dead: Dead, bury: Bury) -> None:
    eve = User.create(name="Eve")
    voice = VoiceClone.create(name="Eve's", s3_path="/voices/eve.wav", owner=eve)
    mine, hers, other = bury("Timeout"), bury("Timeout", owner=eve, voice_clone=voice), bury("BadDeck")

    assert succeeded(dead("retry", "--all", "--owner", str(eve.id), "--error", "timeout")).endswith(": 1\n")
    assert [stored(job).status for job in (mine, hers, other)] == ["failed", "pending", "failed"]


def test_jobs_that_are_no_dead_letters_are_told_and_stop_no_other(dead: Dead, bury: Bury, enqueue: Enqueue) -> None:
    buried, pending = bury(), enqueue()
    result = dead("retry", str(buried.id), str(buried.id), str(pending.id), "999")

    assert refused(result).startswith("Error: 2 of 3 jobs were not retried: they are no dead letters, or")
    assert result.stdout == "jobs put back into the queue: 1\n"
    assert stored(buried).status is JobStatus.PENDING


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("list", "--since", "yesterday"), "'yesterday' does not match the formats"),
        (("retry", "one"), "'one' is not a valid integer"),
        (("show",), "Missing argument 'ID'"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(dead: Dead, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused(dead(*arguments), code=2)


def test_an_empty_error_is_refused(dead: Dead, bury: Bury) -> None:
    job = bury()
    assert "error_message must not be empty" in refused(dead("retry", "--all", "--error", ""))
    assert stored(job).status is JobStatus.FAILED
