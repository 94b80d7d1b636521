"""The life cycle against its model: any verb, through any instance that was ever given out, in any order."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any

import hypothesis.configuration
import pytest
from fixtures.effort import IS_FULL, settings_for
from hypothesis import Phase, assume, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from job_model import Hand, Queue, Refusal, Row, Soon, in_between

from presgen import DatabaseManager, JobEvent, JobStatus, PresentationJob, PresgenError, User, VoiceClone
from presgen.clock import database_now
from presgen.errors import ConstraintViolation
from presgen.status import RUNNING

SETTINGS = settings(settings_for(short=25, full=150), stateful_step_count=60 if IS_FULL else 40)
LEASES = (1000, 3000)
_NEXT = {
    JobStatus.PROCESSING_SLIDES: JobStatus.SYNTHESIZING_AUDIO,
    JobStatus.SYNTHESIZING_AUDIO: JobStatus.ASSEMBLING_VIDEO,
    JobStatus.ASSEMBLING_VIDEO: JobStatus.COMPLETED,
}


class LifeOfJobs(RuleBasedStateMachine):
    """Every verb, on a queue of a few jobs; `hands` keeps each instance that was ever given out, stale or not."""

    db: DatabaseManager
    owner: User
    voice: VoiceClone

    jobs = Bundle("jobs")
    hands = Bundle("hands")

    def __init__(self) -> None:
        super().__init__()
        PresentationJob.delete().execute()
        self.queue = Queue()

    @initialize(target=hands, limits=st.lists(st.integers(1, 3), min_size=2, max_size=4), lease=st.sampled_from(LEASES))
    def begin(self, limits: list[int], lease: int) -> Any:
        """Begin with jobs that may be tried so many times, most of them in hand."""
        for max_attempts in limits:
            self.enqueue_one(priority=1, max_attempts=max_attempts)
        return self.claim_some("w1", len(limits) - 1, lease)

    # Into the queue and out of it

    @rule(
        target=jobs,
        priority=st.integers(0, 2),
        max_attempts=st.integers(1, 3),
        key=st.sampled_from([None, None, "upload-1", "upload-2"]),
        delay=st.sampled_from([None, None, 2000]),
    )
    def enqueue(self, **columns: Any) -> Any:
        twin = self.queue.twin_of(columns["key"])
        if twin is None or not twin.is_deleted:
            return self.enqueue_one(**columns)
        with pytest.raises(ConstraintViolation, match="was deleted; cancel it first"):
            self.enqueue_one(**columns)
        return multiple()

    def enqueue_one(self, *, priority: int, max_attempts: int, key: str | None = None, delay: int | None = None) -> int:
        now, twin = self.now(), self.queue.twin_of(key)
        job = PresentationJob.enqueue(
            owner=self.owner,
            voice_clone=self.voice,
            s3_pptx_path="/deck.pptx",
            priority=priority,
            max_attempts=max_attempts,
            idempotency_key=key,
            run_at=None if delay is None else now + timedelta(seconds=delay),
        )
        if twin is None:
            run_at = Soon(now, delay or 0, delay or 0)
            self.queue.rows[job.id] = Row(job.id, priority, max_attempts, key, run_at)
        else:
            assert job.id == twin.id
        return int(job.id)

    @rule(target=hands, worker=st.sampled_from(["w1", "w2"]), limit=st.integers(1, 3), lease=st.sampled_from(LEASES))
    def claim(self, worker: str, limit: int, lease: int) -> Any:
        return self.claim_some(worker, limit, lease)

    def claim_some(self, worker: str, limit: int, lease: int) -> Any:
        self.learn_moments()
        now = self.now()
        claimed = PresentationJob.claim(worker, limit, lease=lease)
        assume(not in_between(self.queue.rows.values(), now, self.now()))
        taken = self.queue.claim(worker, limit, lease, now)
        assert [job.id for job in claimed] == [row.id for row in taken]
        return multiple(
            *(
                Hand.of(job, row, lease_seconds=lease, resumed_at=job.resumed_at, token=(worker, row.attempt))
                for job, row in zip(claimed, taken, strict=True)
            )
        )

    @rule(target=hands, job=jobs)
    def look(self, job: int) -> Any:
        row = self.queue.rows.get(job)
        found = PresentationJob.get_or_none(PresentationJob.id == job)
        assert (row is None) == (found is None)
        return multiple() if row is None else Hand.of(found, row)

    # A worker's verbs

    @rule(hand=hands, stage=st.sampled_from([None] * 6 + [*RUNNING, JobStatus.COMPLETED]), slides=st.integers(1, 9))
    def advance(self, hand: Hand, stage: JobStatus | None, slides: int) -> None:
        """To some status, or, as handlers do, to the stage after the one that the instance shows."""
        stage = stage or _NEXT.get(hand.status, JobStatus.PROCESSING_SLIDES)
        refusal = self.queue.advance(hand, stage, slides, self.now())
        self.expect(refusal, hand, lambda: hand.job.advance(stage, slides_count=slides))

    @rule(
        hand=hands,
        progress=st.sampled_from([None, 0.25, 0.5]),
        checkpoint=st.sampled_from([None, {"slide": 1}, [1, "two"]]),
    )
    def heartbeat(self, hand: Hand, progress: float | None, checkpoint: Any) -> None:
        refusal = self.queue.heartbeat(hand, progress, checkpoint, self.now())
        self.expect(refusal, hand, lambda: hand.job.heartbeat(progress, checkpoint))

    @rule(hand=hands)
    def keep_alive(self, hand: Hand) -> None:
        refusal = self.queue.heartbeat(hand, None, None, self.now())
        self.expect(refusal, hand, lambda: hand.job.keep_alive())

    @rule(hand=hands, video=st.sampled_from(["/a.mp4", "/b.mp4"]))
    def complete(self, hand: Hand, video: str) -> None:
        refusal = self.queue.complete(hand, video, self.now())
        self.expect(refusal, hand, lambda: hand.job.complete(video))

    @rule(hand=hands, message=st.sampled_from(["no disk", "no voice"]), retry=st.booleans())
    def fail(self, hand: Hand, message: str, retry: bool) -> None:
        refusal = self.queue.fail(hand, message, retry=retry, now=self.now())
        self.expect(refusal, hand, lambda: hand.job.fail(message, retry=retry))

    @rule(hand=hands)
    def release(self, hand: Hand) -> None:
        refusal = self.queue.release(hand)
        self.expect(refusal, hand, lambda: hand.job.release())

    @rule(hand=hands)
    def acknowledge_cancellation(self, hand: Hand) -> None:
        refusal = self.queue.acknowledge_cancellation(hand)
        self.expect(refusal, hand, lambda: hand.job.acknowledge_cancellation())

    # Everybody's verbs

    @rule(hand=hands)
    def cancel(self, hand: Hand) -> None:
        refusal = self.queue.cancel(hand)
        self.expect(refusal, hand, lambda: hand.job.cancel())

    @rule(hand=hands)
    def retry(self, hand: Hand) -> None:
        refusal = self.queue.retry(hand, self.now())
        self.expect(refusal, hand, lambda: hand.job.retry())

    @rule(hand=hands)
    def wait(self, hand: Hand) -> None:
        """One look, which shows whatever others have made of the job, and gives nothing into the hand."""
        row = self.queue.rows.get(hand.job.id)
        if row is None or (row.is_deleted and row.status is JobStatus.PENDING):
            with pytest.raises(PresgenError, match="was deleted"):
                hand.job.wait(timeout=0)
        else:
            with suppress(TimeoutError):
                hand.job.wait(timeout=0)
            hand.see(row)
            assert hand.agrees_with_its_job()

    @rule(hand=hands, status=st.sampled_from(JobStatus))
    def save(self, hand: Hand, status: JobStatus) -> None:
        if status is hand.status:
            return
        refusal = self.queue.save(hand, status, "/plain.mp4")
        changed = copy.deepcopy(hand.job)  # a refused save() leaves its wish on the instance
        changed.status, changed.s3_video_path = status, "/plain.mp4"
        if refusal is None:
            hand.job = changed
        self.expect(refusal, hand, changed.save)

    @rule(job=jobs, how=st.sampled_from(["not", "not", "not", "softly", "for good"]))
    def delete(self, job: int, how: str) -> None:
        if how == "softly" and job in self.queue.rows:
            self.queue.rows[job].is_deleted = True
            PresentationJob.update(deleted_at=self.now()).where(PresentationJob.id == job).execute()
        elif how == "for good":
            self.queue.rows.pop(job, None)
            PresentationJob.delete().where(PresentationJob.id == job).execute()

    # Time

    @rule(seconds=st.sampled_from([0, 300, 1100, 4000]), is_reaped=st.booleans())
    def tick(self, seconds: int, is_reaped: bool) -> None:
        """Let time pass: every moment lies so much earlier, as the database's clock sees it.

        With 0, only the pauses before the next attempts end. Leases that have expired may be taken back.
        """
        if seconds:
            self.shift(("run_at", "lease"), seconds)
        else:
            self.shift(("run_at",), 700)
        if is_reaped:
            now = self.now()
            reaped = PresentationJob.reap()
            assume(not in_between(self.queue.rows.values(), now, self.now()))
            assert reaped == self.queue.reap(now)

    def shift(self, names: tuple[str, ...], seconds: int) -> None:
        columns = {"run_at": PresentationJob.run_at, "lease": PresentationJob.lease_expires_at}
        for row in self.queue.rows.values():
            moments = {name: getattr(row, name) for name in names}
            earlier = {name: at - timedelta(seconds=seconds) for name, at in moments.items() if at is not None}
            for name, at in earlier.items():
                setattr(row, name, at)
            if earlier:
                stored = {columns[name]: at for name, at in earlier.items()}
                PresentationJob.update(stored).where(PresentationJob.id == row.id).execute()

    # What must hold

    @invariant()
    def the_rows_are_the_models(self) -> None:
        assert self.learn_moments() == {row.id: _predicted(row) for row in self.queue.rows.values()}

    @invariant()
    def every_change_of_status_is_on_record(self) -> None:
        event = JobEvent
        columns = (event.job, event.from_status, event.to_status, event.worker, event.attempt)
        recorded: dict[int, list[Any]] = {number: [] for number in self.queue.rows}
        for number, *change in event.select(*columns).order_by(event.id).tuples():
            recorded[number].append(tuple(change))
        assert recorded == {row.id: row.events for row in self.queue.rows.values()}

    # How the rules go about it

    def now(self) -> datetime:
        return database_now(self.db.database)

    def learn_moments(self) -> dict[int, dict[str, Any]]:
        """The stored rows; the moments that the database has chosen, within bounds, become the model's."""
        stored = {job.id: _facts(job) for job in PresentationJob.select()}
        now = self.now()
        for row in self.queue.rows.values():
            for name in ("run_at", "lease"):
                moment, chosen = getattr(row, name), stored[row.id][name]
                if isinstance(moment, Soon):
                    assert moment.agrees_with(chosen, until=now), (name, chosen, moment, now)
                    if moment.low_seconds < moment.high_seconds:
                        # By chance another job would come first the next time, and the same steps take another way.
                        stored[row.id][name] = chosen = moment.since + timedelta(seconds=moment.high_seconds)
                        PresentationJob.update(run_at=chosen).where(PresentationJob.id == row.id).execute()
                    setattr(row, name, chosen)
        return stored

    def expect(self, refusal: Refusal, hand: Hand, verb: Callable[[], Any]) -> None:
        """Call the verb, which has to raise what the model says, and to leave the instance as the model has it."""
        raised: Refusal = None
        try:
            verb()
        except (PresgenError, PresentationJob.DoesNotExist) as error:
            raised = type(error)
        assert raised is refusal
        assert hand.agrees_with_its_job()


def _predicted(row: Row) -> dict[str, Any]:
    facts = {field.name: getattr(row, field.name) for field in fields(row)}
    del facts["events"]
    return facts


def _facts(job: PresentationJob) -> dict[str, Any]:
    """A stored job in the words of the model."""
    return {
        "id": job.id,
        "priority": job.priority,
        "max_attempts": job.max_attempts,
        "key": job.idempotency_key,
        "run_at": job.run_at,
        "status": job.status,
        "worker": job.worker,
        "attempt": job.attempt,
        "lease": job.lease_expires_at,
        "asked_to_cancel": job.cancel_requested_at is not None,
        "progress": job.progress,
        "checkpoint": job.checkpoint,
        "slides": job.slides_count,
        "video": job.s3_video_path,
        "error": job.error_message,
        "has_started": job.started_at is not None,
        "has_ended": job.completed_at is not None,
        "is_deleted": job.deleted_at is not None,
    }


@pytest.fixture(autouse=True, scope="module")
def hypothesis_keeps_its_files_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """For the rest of the run: Hypothesis writes some of them after the last test."""
    hypothesis.configuration.set_hypothesis_home_dir(tmp_path_factory.mktemp("hypothesis"))


def machine_on(db: DatabaseManager) -> type[LifeOfJobs]:
    user = User.create(name="Ada")
    voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
    return type("LifeOfJobs", (LifeOfJobs,), {"db": db, "owner": user, "voice": voice})


def test_every_verb_does_what_the_model_says(db: DatabaseManager) -> None:
    with db.session():  # one connection serves all examples
        run_state_machine_as_test(machine_on(db), settings=SETTINGS)


def unfenced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's writes are let through by the job's id alone."""
    monkeypatch.setattr(PresentationJob, "fence", lambda job: {PresentationJob.id: job.id})


def claimed_before_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim looks at no job's run_at."""
    claim = PresentationJob.claim

    def hasty_claim(*arguments: Any, **options: Any) -> Any:
        due = {job.id: job.run_at for job in PresentationJob.select()}
        PresentationJob.update(run_at=datetime(2020, 1, 1, tzinfo=timezone.utc)).execute()
        claimed = claim(*arguments, **options)
        for number, run_at in due.items():
            PresentationJob.update(run_at=run_at).where(PresentationJob.id == number).execute()
        return claimed

    monkeypatch.setattr(PresentationJob, "claim", hasty_claim)


def rescued_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash costs no attempt, so a job that kills its workers comes back for ever."""
    reap = PresentationJob.reap

    def forgiving_reap() -> int:
        late = PresentationJob.status.in_(RUNNING) & (PresentationJob.lease_expires_at < PresentationJob.server_time())
        PresentationJob.update(max_attempts=PresentationJob.max_attempts + 1).where(late).execute()
        return int(reap())

    monkeypatch.setattr(PresentationJob, "reap", forgiving_reap)


@pytest.mark.parametrize("mutant", [unfenced, claimed_before_time, rescued_for_nothing])
def test_the_machine_finds_a_life_cycle_that_is_broken(
    mutant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    until_it_fails = settings(SETTINGS, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)
    with DatabaseManager("sqlite:///:memory:") as db, db.session():
        db.migrate()
        # Flaky when the failing steps do not fail again: their backoffs are jittered.
        with pytest.raises((AssertionError, FlakyFailure)):
            run_state_machine_as_test(machine_on(db), settings=until_it_fails)
