"""Threads of a worker: they outlast jobs, but what one job leaves in its context is not the next one's."""

from __future__ import annotations

import multiprocessing
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest
from fixtures.rows import Enqueue
from fixtures.waiting import wait_until

from presgen import DatabaseManager, PresentationJob, Worker
from presgen.hands import Hands
from presgen.heartbeat import Heartbeat

_VARIABLE: ContextVar[str] = ContextVar("a handler's own", default="")


def test_jobs_one_after_another_share_a_thread_and_no_context(db: DatabaseManager, enqueue: Enqueue) -> None:
    seen: list[tuple[int, str]] = []

    def handler(job: PresentationJob) -> None:
        seen.append((threading.get_ident(), _VARIABLE.get()))
        _VARIABLE.set(f"job {job.id}")
        job.complete(s3_video_path="/v.mp4")
        if len(seen) == 3:
            worker.stop()

    for _ in range(3):
        enqueue()
    worker = Worker(db, handler, poll=0.01)
    worker.run()
    assert len({thread for thread, _ in seen}) == 1
    assert [left for _, left in seen] == ["", "", ""]


def test_each_item_is_carried_out_at_once_and_the_threads_end() -> None:
    meeting = threading.Barrier(3)
    hands: Hands[int] = Hands(lambda _: meeting.wait(10) and None, name="hand-of-the-test")
    for number in range(3):
        hands.take(number)
    wait_until(lambda: meeting.n_waiting == 0 and hands._free == 3)
    hands.rest()
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith("hand-of-the-test")])


def test_hundreds_of_jobs_leave_no_threads_behind(db: DatabaseManager, enqueue: Enqueue) -> None:
    before, most = threading.active_count(), 0

    def handler(job: PresentationJob) -> None:
        nonlocal most
        most = max(most, threading.active_count())
        job.complete(s3_video_path="/v.mp4")
        if PresentationJob.select().where(PresentationJob.status == "pending").count() == 0:
            worker.stop()

    for _ in range(100):
        enqueue()
    worker = Worker(db, handler, concurrency=2, poll=0.01)
    worker.run()
    # The dispatcher, two hands, and the one that starts heartbeats.
    assert most <= before + 4
    wait_until(lambda: threading.active_count() <= before + 1)


def test_a_heartbeat_starts_when_its_first_beat_is_due_and_no_sooner() -> None:
    beats: list[float] = []
    with Heartbeat(lambda: beats.append(time.monotonic()), every_seconds=60, name="never due"):
        assert "never due" not in {thread.name for thread in threading.enumerate()}
    began = time.monotonic()
    with Heartbeat(lambda: beats.append(time.monotonic()), every_seconds=0.05, name="due"):
        wait_until(lambda: len(beats) >= 3)
    assert beats[0] - began >= 0.05
    ended = len(beats)
    time.sleep(0.15)
    assert len(beats) == ended


def test_a_sooner_heartbeat_does_not_wait_for_a_later_one() -> None:
    beats: list[int] = []
    later = Heartbeat(lambda: beats.append(1), every_seconds=3600, name="later")
    with later, Heartbeat(lambda: beats.append(2), every_seconds=0.02, name="sooner"):
        wait_until(lambda: bool(beats))
    assert set(beats) == {2}


def _beat_in_a_child(told: Any) -> None:
    with Heartbeat(told.set, every_seconds=0.02, name="in a child"):
        told.wait(10)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_starts_heartbeats_of_its_own() -> None:
    with Heartbeat(lambda: None, every_seconds=3600, name="the parent's"):
        fork = multiprocessing.get_context("fork")
        told = fork.Event()
        child = fork.Process(target=_beat_in_a_child, args=(told,))
        child.start()
        assert told.wait(10)
        child.join(10)
        assert child.exitcode == 0


def test_a_thread_that_cannot_be_started_costs_no_other_heartbeat(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beats: list[str] = []
    refused: list[str] = []
    start = threading.Thread.start

    def start_but_the_first(thread: threading.Thread) -> None:
        if thread.name.startswith("beat of") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_but_the_first)
    one, other = (
        Heartbeat(lambda name=name: beats.append(name), every_seconds=0.05, name=f"beat of {name}")  # type: ignore[misc]
        for name in ("one", "other")
    )
    with one, other:
        wait_until(lambda: set(beats) == {"one", "other"})
    assert len(refused) == 1
    assert "can't start new thread" in caplog.text
