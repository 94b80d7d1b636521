"""`presgen watch`: frames as text, and the live view on a terminal of its own."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner
from fixtures.terminal import Terminal

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob
from presgen.cli import cli, watch, watch_frame
from presgen.embedded import EmbeddedServer

Enqueue = Callable[..., PresentationJob]

ENTER_OTHER_SCREEN, LEAVE_OTHER_SCREEN, SHOW_CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


@pytest.fixture
def db(url: str) -> Iterator[DatabaseManager]:
    """A database that a command in another process sees as well."""
    with DatabaseManager(url) as manager:
        yield manager


@pytest.fixture
def frame(url: str) -> Callable[[], str]:
    """Prints one frame, as text."""

    def printed() -> str:
        result = CliRunner().invoke(cli, ["--database", url, "watch", "--once"], prog_name="presgen")
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    return printed


def expire(job: PresentationJob, *, seconds_ago: float = 30) -> None:
    then = datetime.now(timezone.utc) - timedelta(seconds=seconds_ago)
    PresentationJob.update(lease_expires_at=then).where(PresentationJob.id == job.id).execute()


# A frame as text


def test_a_frame_of_an_empty_database_says_that_nothing_is_in_hand(db: DatabaseManager, frame: Any) -> None:
    text = frame()

    assert "no job is in a worker's hand" in text
    assert re.search(r"^jobs +0 pending +0 completed +0 failed +0 cancelled$", text, re.MULTILINE)
    assert re.search(r"^ +assembling_video +0 +- +- +0$", text, re.MULTILINE)
    assert "!" not in text
    assert "\x1b" not in text


def test_a_frame_shows_jobs_in_hand_stages_and_rates(enqueue: Enqueue, frame: Any) -> None:
    done, waiting, in_hand = enqueue(), enqueue(), enqueue()
    PresentationJob.update(priority=5).where(PresentationJob.id == in_hand.id).execute()
    PresentationJob.claim("w-other", 2)
    (claimed,) = PresentationJob.claim("w-1", lease=300)
    assert claimed.id == waiting.id
    claimed.heartbeat(progress=0.25)
    done = PresentationJob.get_by_id(done.id)
    done.complete("/video.mp4")
    done = JobEvent.get(JobEvent.to_status == JobStatus.PROCESSING_SLIDES, JobEvent.job == done.id)
    JobEvent.update(at=done.at - timedelta(seconds=90)).where(JobEvent.id == done.id).execute()
    text = frame()

    assert re.search(rf"^ w-1 +{claimed.id} +processing_slides +1 +25% +5.0 min left +[0-9.]+ m?s$", text, re.MULTILINE)
    assert re.search(rf"^ w-other +{in_hand.id} +processing_slides +1 +0% +[0-9]+ s left ", text, re.MULTILINE)
    assert text.index("w-other") < text.index("w-1 ")  # whose lease ends first
    assert re.search(r"^ +processing_slides +2 +9[01] s +9[01] s +1$", text, re.MULTILINE)
    assert "0.2 completed, 0.0 failed, 0.0 back to the queue" in text
    assert "!" not in text


def test_what_needs_somebody_is_on_top(db: DatabaseManager, enqueue: Enqueue, frame: Any) -> None:
    lost, broken = enqueue(), enqueue()
    lost, broken = PresentationJob.claim("w1", 2)
    broken.fail("no", retry=False)
    expire(lost)
    first, second, *_ = frame().splitlines()
    assert first == "! expired leases: 1; the worker crashed or hangs, and the next claim takes over"
    assert second == "! failed for good: 1; see: presgen dead list"
    assert re.search(rf"^ w1 +{lost.id} .* 3[0-9] s over ", frame(), re.MULTILINE)

    lost.release()
    hours_ago = datetime.now(timezone.utc) - timedelta(hours=5)
    PresentationJob.update(run_at=hours_ago).where(PresentationJob.id == lost.id).execute()
    assert frame().startswith("! no job in hand, and one has been due for 5.0 h: does a worker run?\n")


def test_an_old_transaction_is_told(
    url: str, postgresql: str, db: DatabaseManager, frame: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_frame, "OLD_SNAPSHOT_SECONDS", 0.1)
    holder = psycopg2.connect(url)
    try:
        holder.cursor().execute("INSERT INTO users (name) VALUES ('Ada')")
        holder.cursor().execute("SELECT pg_sleep(0.2)")
        assert re.match(r"! a transaction is .* old; until it ends, dead rows stay\n", frame())
    finally:
        holder.close()
    assert "!" not in frame()


def test_a_long_list_of_jobs_in_hand_is_cut(enqueue: Enqueue, frame: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "JOBS_SHOWN", 3)
    for _ in range(5):
        enqueue()
    PresentationJob.claim("w1", 5)

    assert len(re.findall(r"^ w1 ", frame(), re.MULTILINE)) == 3
    assert "  and 2 more\n" in frame()


def test_the_name_of_a_worker_cannot_steer_the_terminal(job: PresentationJob, frame: Any) -> None:
    PresentationJob.claim("[bold]w\x1b[2J[/bold]")

    assert r"[bold]w\x1b[2J[/bold]" in frame()


def test_a_stdout_that_is_no_terminal_gets_one_frame(url: str, job: PresentationJob) -> None:
    command = [sys.executable, "-m", "presgen", "--database", url, "watch"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)

    assert "1 pending" in done.stdout
    assert "\\u" not in done.stdout
    assert done.stderr == ""


def test_one_frame_of_a_dead_server_fails_in_one_line() -> None:
    result = CliRunner().invoke(cli, ["--database", "postgresql://ada@localhost:1/x", "watch", "--once"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(r"Error: [^\n]+ is the server running[^\n]+\n", result.stderr)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "3601"])
def test_a_pace_that_makes_no_sense_is_refused(seconds: str) -> None:
    result = CliRunner().invoke(cli, ["--database", "sqlite:///:memory:", "watch", "--every", seconds])

    assert result.exit_code == 2
    assert "is not in the range 0.1<=x<=3600" in result.stderr


def test_without_rich_the_extra_is_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['rich'] = None; sys.argv[1:] = ['--database', 'sqlite:///:memory:', 'watch']\n"
        "from presgen.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (
        1, "Error: rich is not installed; run: pip install 'presgen[watch]'\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0, "0 ms"),
        (0.25, "250 ms"),
        (1, "1.0 s"),
        (59.6, "60 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (3600, "60 min"),
        (7200, "2.0 h"),
        (172_800, "2 days"),
    ],
)
def test_durations_are_told_in_the_unit_that_fits(seconds: float | None, shown: str) -> None:
    assert watch_frame.duration(seconds) == shown


def test_counting_all_jobs_gets_a_small_share_of_the_time(
    db: DatabaseManager, job: PresentationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[float] = []
    clock = [1000.0]

    def count() -> dict[str, Any]:
        counted.append(clock[0])
        clock[0] += 2  # seconds that it takes
        return {"jobs_by_status": dict.fromkeys(JobStatus, 0)}

    monkeypatch.setattr(watch, "get_database_metrics", count)
    monkeypatch.setattr(watch.time, "monotonic", lambda: clock[0])
    lookout = watch.Lookout(db)
    for _ in range(100):
        lookout.look()
        clock[0] += 1
    assert counted == [1000.0, 1042.0, 1084.0]


# The live view


def test_the_live_view_follows_the_queue_and_gives_the_terminal_back(url: str, enqueue: Enqueue) -> None:
    enqueue()
    with Terminal("--database", url, "watch", "--every", "0.1") as terminal:
        terminal.wait_for(re.escape(ENTER_OTHER_SCREEN))
        terminal.wait_for(r"1 pending  0 completed")
        (claimed,) = PresentationJob.claim("w-17", lease=60)
        terminal.wait_for(r"w-17 .* s left")
        expire(claimed)
        terminal.wait_for(r"! expired leases: 1")
        claimed.complete("/video.mp4")
        terminal.wait_for(r"0 pending  1 completed")
        terminal.press(b"\x03")
        code, drawn = terminal.ended()

    assert code == 0
    assert drawn.rstrip().endswith(SHOW_CURSOR + LEAVE_OTHER_SCREEN)
    assert "Traceback" not in drawn


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP])
def test_signals_give_the_terminal_back_too(url: str, job: PresentationJob, ending: signal.Signals) -> None:
    with Terminal("--database", url, "watch", "--every", "60") as terminal:
        terminal.wait_for("1 pending")
        terminal.process.send_signal(ending)
        code, drawn = terminal.ended()

    assert code == 0
    assert drawn.rstrip().endswith(SHOW_CURSOR + LEAVE_OTHER_SCREEN)


def test_the_live_view_survives_an_outage() -> None:
    with TemporaryDirectory(prefix="presgen-watch-") as folder, EmbeddedServer(Path(folder)) as server:
        with DatabaseManager(server.url) as manager:
            manager.migrate()
        with Terminal("--database", server.url, "watch", "--every", "0.1") as terminal:
            terminal.wait_for("0 pending")
            server.stop()
            terminal.wait_for(r"Ctrl-C ends [^\n]*\n *no answer for [0-9.]+ m?s: (.|\n)*jobs +0 pending")
            server.start()
            terminal.wait_for(r"Ctrl-C ends [^\n]*\n *jobs +0 pending")
            terminal.press(b"\x03")
            assert terminal.ended()[0] == 0


def test_the_live_view_waits_for_a_server_that_is_not_there_yet() -> None:
    with Terminal("--database", "postgresql://ada@localhost:1/x", "watch", "--every", "0.1") as terminal:
        terminal.wait_for(r"no answer: cannot connect to postgresql://ada@localhost:1/x")
        terminal.press(b"\x03")
        assert terminal.ended()[0] == 0


def test_a_dumb_terminal_gets_one_frame_as_text(
    url: str, job: PresentationJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_and_here = pty.openpty()
    command = [sys.executable, "-m", "presgen", "--database", url, "watch"]
    environment = {**os.environ, "TERM": "dumb"}
    try:
        subprocess.run(command, env=environment, stdout=there_and_here[1], timeout=60, check=True)
        drawn = os.read(there_and_here[0], 65536)
    finally:
        for side in there_and_here:
            os.close(side)
    assert b"1 pending" in drawn
    assert b"\x1b" not in drawn
