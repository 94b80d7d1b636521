"""Owners share the workers: fair claims, and a cap of running jobs that holds under concurrency."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from fixtures.programs import run_in_step

from presgen import DatabaseManager, JobStatus, PresentationJob, User, ValidationError, VoiceClone, Worker
from presgen.compiled import Statement
from presgen.models.chosen import update_chosen

Fill = Callable[..., User]


@pytest.fixture
def fill(db: DatabaseManager) -> Fill:
    """Makes an owner with so many pending jobs."""

    def fill(name: str, jobs: int, **columns: object) -> User:
        owner = User.create(name=name)
        voice = VoiceClone.create(name=name, s3_path=f"/{name}.wav", owner=owner)
        row = {"owner": owner, "voice_clone": voice, "s3_pptx_path": "/x.pptx", **columns}
        PresentationJob.enqueue_many([row] * jobs)
        return owner

    return fill


def owners(jobs: list[PresentationJob]) -> Counter[int]:
    return Counter(job.owner_id for job in jobs)


def test_a_fair_claim_takes_from_each_owner_in_turn(fill: Fill) -> None:
    crowd, small, smaller = fill("crowd", 20, priority=9), fill("small", 3), fill("smaller", 1)
    assert owners(PresentationJob.claim("w1", limit=5)) == {crowd.id: 5}
    assert owners(PresentationJob.claim("w2", limit=4, fair=True)) == {small.id: 3, smaller.id: 1}
    assert owners(PresentationJob.claim("w3", limit=4, fair=True)) == {crowd.id: 4}


def test_a_fair_claim_goes_by_urgency_among_owners_with_equal_shares(fill: Fill) -> None:
    fill("late", 2)
    urgent = fill("urgent", 2, priority=1)
    (first,) = PresentationJob.claim("w1", fair=True)
    assert first.owner_id == urgent.id


def test_a_cap_counts_what_is_running(fill: Fill) -> None:
    one, other = fill("one", 10, priority=5), fill("other", 10)
    assert owners(PresentationJob.claim("w1", limit=3, max_per_owner=2)) == {one.id: 2, other.id: 1}
    assert owners(PresentationJob.claim("w1", limit=9, max_per_owner=2)) == {other.id: 1}
    assert PresentationJob.claim("w1", max_per_owner=2) == []
    job = PresentationJob.get(PresentationJob.owner == one, PresentationJob.status == JobStatus.PROCESSING_SLIDES)
    job.complete(s3_video_path="/v.mp4")
    assert owners(PresentationJob.claim("w1", limit=9, max_per_owner=2)) == {one.id: 1}


@pytest.mark.parametrize("options", [{"fair": True}, {"max_per_owner": 3}, {"fair": True, "max_per_owner": 3}])
def test_a_shared_claim_obeys_the_rules_of_every_claim(fill: Fill, options: dict[str, Any]) -> None:
    fill("one", 4)
    jobs = list(PresentationJob.select().order_by(PresentationJob.id))
    jobs[0].cancel()
    PresentationJob.update(deleted_at=jobs[1].created_at).where(PresentationJob.id == jobs[1].id).execute()
    PresentationJob.update(run_at=jobs[2].run_at.replace(year=2999)).where(PresentationJob.id == jobs[2].id).execute()
    assert PresentationJob.claim("w1", limit=9, **options) == [jobs[3]]


@pytest.mark.parametrize("options", [{"max_per_owner": 0}, {"max_per_owner": True}, {"limit": "1"}, {"limit": 0}])
def test_nonsense_is_refused(db: DatabaseManager, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        PresentationJob.claim("w1", **options)
    assert caught.value.field in options


@pytest.mark.parametrize("fair", [False, True])
def test_a_cap_holds_while_another_claim_is_not_committed(db: DatabaseManager, fill: Fill, fair: bool) -> None:
    owner = fill("one", 9)
    voice = VoiceClone.get()
    taken: list[PresentationJob] = []
    done = threading.Event()

    def claim() -> None:
        # Ranked before all others, it would be taken by a claim that does not wait for what the first has counted.
        PresentationJob.enqueue(owner=owner, voice_clone=voice, s3_pptx_path="/urgent.pptx", priority=9)
        taken.extend(PresentationJob.claim("second", limit=9, max_per_owner=4, fair=fair))
        done.set()

    thread = threading.Thread(target=claim)
    with db.transaction():
        first = PresentationJob.claim("first", limit=9, max_per_owner=4, fair=fair)
        thread.start()
        done.wait(0.5)  # a claim that does not wait is through by then
    thread.join(30)
    assert (len(first), len(taken)) == (4, 0)


@pytest.mark.parametrize("options", [{"fair": True}, {"max_per_owner": 9}])
def test_a_job_that_changes_while_it_is_ranked_is_looked_at_again(
    postgresql: str, db: DatabaseManager, fill: Fill, options: dict[str, Any]
) -> None:
    """The claim ranks, waits for nothing, and finds the rows of a transaction that has just been committed."""
    owner = fill("one", 1)
    job = PresentationJob.get(PresentationJob.owner == owner)
    sql, parameters = claim_sql(options)
    change = "UPDATE presentation_jobs SET run_at = now() + interval '1 hour', deleted_at = now() WHERE id = %s"
    slow = sql.replace('FROM "ranked"', 'FROM "ranked", pg_sleep(0.6) AS pause', 1)
    assert slow != sql
    timer = threading.Timer(0.2, lambda: change_elsewhere(db, change, job.id))
    timer.start()
    assert db.database.execute_sql(slow, parameters).fetchall() == []
    timer.join()


def claim_sql(options: dict[str, Any]) -> tuple[str, list[object]]:
    chosen, ctes = PresentationJob._due_by_owner("fair" in options, "max_per_owner" in options)
    claim = Statement(PresentationJob, update_chosen(PresentationJob, chosen, PresentationJob._taken(), ctes=ctes))
    return claim.sql, claim.parameters({"worker": "w1", "lease_seconds": 60.0, "limit": 1, **options})


def change_elsewhere(db: DatabaseManager, statement: str, job_id: int) -> None:
    with db.session() as database:
        database.execute_sql(statement, (job_id,))


CLAIMER = """
import sys
from presgen import DatabaseManager, PresentationJob
with DatabaseManager.from_env() as db:
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(len(PresentationJob.claim(sys.argv[1], limit=2, max_per_owner=5)) for _ in range(10)))
"""


def test_a_cap_holds_between_processes(url: str) -> None:
    with DatabaseManager(url):
        owner = User.create(name="one")
        voice = VoiceClone.create(name="one", s3_path="/one.wav", owner=owner)
        PresentationJob.enqueue_many([{"owner": owner, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}] * 50)
        claimed = [int(told) for told in run_in_step(CLAIMER, url=url, count=4)]
        assert sum(claimed) == 5
        assert PresentationJob.select().where(PresentationJob.status != JobStatus.PENDING).count() == 5


def test_a_worker_hands_its_options_to_the_claim(db: DatabaseManager, fill: Fill) -> None:
    fill("one", 4, priority=1), fill("two", 2)
    seen: list[str] = []

    def handler(job: PresentationJob) -> None:
        seen.append(job.owner.name)
        if len(seen) < 3:
            Worker(db, handler, fair=True, max_per_owner=2).run_once()

    Worker(db, handler, fair=True, max_per_owner=2).run_once()
    assert seen == ["one", "two", "one"]


def test_a_cap_that_is_refused_leaves_no_lock_behind(postgresql: str, db: DatabaseManager, fill: Fill) -> None:
    fill("one", 1)
    with pytest.raises(ZeroDivisionError), db.transaction():
        assert PresentationJob.claim("w1", max_per_owner=1)
        raise ZeroDivisionError
    assert PresentationJob.claim("w1", max_per_owner=1)
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database "
    assert db.database.execute_sql(held + "WHERE datname = current_database())").fetchone() == (0,)
