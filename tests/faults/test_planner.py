"""The hot statements of the life cycle under hostile planners, and in front of a table full of finished jobs."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from presgen import DatabaseManager, PresentationJob, User, VoiceClone

FINISHED = 1_000_000 if os.environ.get("PRESGEN_FAULTS_FULL") else 30_000
# Of fewer jobs than some hundred the planner may well read all and sort them.
PENDING, RUNNING = 3000, 100

QUEUED = 400

JOINS = ("enable_hashjoin", "enable_mergejoin", "enable_nestloop")
SCANS = ("enable_seqscan", "enable_indexscan", "enable_bitmapscan")
OTHERS = ("enable_sort", "enable_material", "enable_hashagg", "enable_memoize")
# Which joins and which scans are left is what decides between the plans; the others are off or on with each of them.
# A planner that has no join or scan left uses one all the same.
PLANNERS = [
    (*joins, *scans, *others)
    for joins in itertools.chain.from_iterable(itertools.combinations(JOINS, count) for count in range(4))
    for scans in ((), SCANS[:1], SCANS[1:], SCANS)
    for others in ((), OTHERS)
]

# With these off, PostgreSQL runs the subquery of an IN again for each row of the outer table.
WORST = ("enable_hashjoin", "enable_mergejoin", "enable_indexscan", "enable_bitmapscan", *OTHERS)

# The claim as many write it.
_TEXTBOOK_CLAIM = """
UPDATE presentation_jobs SET status = 'processing_slides'
WHERE id IN (SELECT id FROM presentation_jobs WHERE status = 'pending' LIMIT 3 FOR UPDATE SKIP LOCKED)
"""
_FINISHED_POSTGRESQL = """
INSERT INTO presentation_jobs (owner_id, voice_clone_id, s3_pptx_path, s3_video_path, status, worker, attempt,
                               started_at, completed_at)
SELECT %s, %s, '/x.pptx', '/x.mp4', 'completed', 'w0', 1, now(), now() FROM generate_series(1, %s)
"""
_FINISHED_SQLITE = """
WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < ?3)
INSERT INTO presentation_jobs (owner_id, voice_clone_id, s3_pptx_path, s3_video_path, status, worker, attempt,
                               started_at, completed_at)
SELECT ?1, ?2, '/x.pptx', '/x.mp4', 'completed', 'w0', 1, '2026-01-01 00:00:00.000000+00:00',
       '2026-01-01 00:00:00.000000+00:00' FROM number
"""


def enqueue_many(user: User, voice: VoiceClone, count: int) -> None:
    row = {"owner": user, "voice_clone": voice, "s3_pptx_path": "/x.pptx"}
    PresentationJob.enqueue_many([row] * count)


def set_off(database: Any, settings: tuple[str, ...]) -> None:
    """Take ways to plan away from this connection, which keeps no plan from before; one statement."""
    database.may_prepare = False
    chosen = ", ".join(f"set_config('{setting}', 'off', false)" for setting in settings)
    database.execute_sql(f"SELECT {chosen or 'NULL'}")


@pytest.mark.parametrize("analyzed", [False, True], ids=["without-statistics", "with-statistics"])
def test_no_planner_makes_a_claim_exceed_its_limit(
    postgresql: str, db: DatabaseManager, user: User, voice: VoiceClone, analyzed: bool
) -> None:
    with db.session() as database:
        enqueue_many(user, voice, QUEUED)
        if analyzed:
            database.execute_sql("ANALYZE presentation_jobs")
        seen: set[int] = set()
        for number, planner in enumerate(PLANNERS):
            database.execute_sql("RESET ALL")
            set_off(database, planner)
            limit = (1, 3, 10)[number % 3]
            claimed = {job.id for job in PresentationJob.claim("w1", limit)}
            running = PresentationJob.select().where(PresentationJob.worker == "w1").count()
            assert (len(claimed), running) == (limit, len(seen) + limit), planner
            assert not claimed & seen
            seen |= claimed
        database.execute_sql("RESET ALL")


def test_a_limit_in_a_plain_subquery_is_no_limit(
    postgresql: str, db: DatabaseManager, user: User, voice: VoiceClone
) -> None:
    """Under such a planner the textbook claim takes more than it was told to: the test above can fail."""
    with db.session() as database:
        enqueue_many(user, voice, QUEUED)
        set_off(database, WORST)
        taken = database.execute_sql(_TEXTBOOK_CLAIM).rowcount
        database.execute_sql("RESET ALL")
    assert taken > 3


def test_claims_at_the_same_time_keep_their_limits_under_a_hostile_planner(
    postgresql: str, db: DatabaseManager, user: User, voice: VoiceClone
) -> None:
    enqueue_many(user, voice, QUEUED)
    claims: list[list[int]] = []
    ready = threading.Barrier(4)

    def claim_all(worker: str) -> None:
        with db.session() as database:
            set_off(database, WORST)
            ready.wait(20)
            while jobs := PresentationJob.claim(worker, 3):
                claims.append([job.id for job in jobs])
            database.execute_sql("RESET ALL")

    threads = [threading.Thread(target=claim_all, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(len(claim) for claim in claims) == 3
    assert sorted(itertools.chain(*claims)) == sorted(job.id for job in PresentationJob.select(PresentationJob.id))


class Plans:
    """The plans of the statements that a call sends."""

    def __init__(self, db: DatabaseManager) -> None:
        self.database = db.database
        self.is_sqlite = db.config.backend == "sqlite"
        self.seen: list[tuple[str, Any]] = []
        self.database.query_hooks.append(lambda event: self.seen.append((event.sql, event.params)))

    def of(self, call: Callable[[], Any]) -> list[str]:
        explain = "EXPLAIN QUERY PLAN " if self.is_sqlite else "EXPLAIN "
        with self.database.atomic() as transaction:  # the statements are explained as they met the table
            self.seen.clear()
            call()
            statements = list(self.seen)
            transaction.rollback()
        explained = [self.database.execute_sql(explain + sql, values) for sql, values in statements if _reads(sql)]
        return ["\n".join(str(row[-1]) for row in cursor.fetchall()) for cursor in explained]


def _reads(sql: str) -> bool:
    return sql.lstrip("( ").startswith(("SELECT", "WITH", "UPDATE"))


def assert_reads_by(plan: str, index: str) -> None:
    """The plan gets at the jobs by the index, and by reading the whole table nowhere."""
    lines = [line.strip() for line in plan.splitlines()]
    assert index in plan, plan
    whole = ("Seq Scan on presentation_jobs", "SCAN presentation_jobs", "SCAN t1")
    assert not [line for line in lines if any(sign in line for sign in whole) and "INDEX" not in line.upper()], plan


@pytest.fixture
def crowded(db: DatabaseManager, user: User, voice: VoiceClone) -> Iterator[Plans]:
    """A few jobs that wait or run, and very many that are over."""
    is_sqlite = db.config.backend == "sqlite"
    with db.session() as database:
        database.execute_sql(_FINISHED_SQLITE if is_sqlite else _FINISHED_POSTGRESQL, (user.id, voice.id, FINISHED))
        enqueue_many(user, voice, PENDING + RUNNING)
        PresentationJob.claim("w1", RUNNING)
        database.execute_sql("ANALYZE" if is_sqlite else "VACUUM ANALYZE presentation_jobs")
        yield Plans(db)
    db.database.query_hooks.pop()


def test_the_hot_statements_use_their_indexes_in_a_crowd_of_finished_jobs(crowded: Plans) -> None:
    (claim,) = crowded.of(lambda: PresentationJob.claim("w2", 10))
    assert_reads_by(claim, "idx_presentation_jobs_claimable")
    if not crowded.is_sqlite:  # which tells nothing of what RETURNING reads
        assert_reads_by(claim, "idx_presentation_jobs_running")
    job = PresentationJob.get(PresentationJob.worker == "w1")
    by_id = "USING INTEGER PRIMARY KEY" if crowded.is_sqlite else f"Index Cond: (id = {job.id})"
    for verb in (
        lambda: job.heartbeat(progress=0.5),
        lambda: job.keep_alive(),
        lambda: job.complete("/v.mp4"),
    ):
        (plan,) = crowded.of(verb)
        assert_reads_by(plan, by_id)


def test_a_rescue_finds_expired_leases_among_the_running_jobs(crowded: Plans) -> None:
    (late,) = PresentationJob.select().where(PresentationJob.worker == "w1").limit(1)
    late.lease_expires_at = late.created_at
    late.save()
    look, rescue = crowded.of(PresentationJob.reap)
    assert_reads_by(look, "idx_presentation_jobs_running")
    assert_reads_by(rescue, "idx_presentation_jobs_running")


def test_the_plans_are_guarded(crowded: Plans) -> None:
    """Without its index, the claim's plan is refused."""
    database = crowded.database
    with database.atomic() as transaction:
        database.execute_sql("DROP INDEX idx_presentation_jobs_claimable")
        (claim,) = crowded.of(lambda: PresentationJob.claim("w2", 10))
        transaction.rollback()
    with pytest.raises(AssertionError):
        assert_reads_by(claim, "idx_presentation_jobs_claimable")
