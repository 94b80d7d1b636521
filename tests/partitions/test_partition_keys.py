"""One unfinished job for an idempotency key, in whichever partition."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import psycopg2
import pytest
from fixtures.partitioned import enqueue, go_on_at
from fixtures.waiting import wait_until

from presgen import DatabaseManager, JobStatus, PresentationJob, User, VoiceClone
from presgen.errors import ConstraintViolation, DatabaseBusy, InvalidTransition
from presgen.ext.partitions import keys
from presgen.status import UNFINISHED

INDEX = "idx_presentation_jobs_idempotency_key"


def held(manager: DatabaseManager) -> list[tuple[Any, ...]]:
    sql = "SELECT owner_id, idempotency_key, job_id FROM presgen_idempotency_keys ORDER BY job_id"
    return manager.database.execute_sql(sql).fetchall()  # type: ignore[no-any-return]


def row_of(job: PresentationJob, key: str = "k") -> dict[str, Any]:
    voice = job.voice_clone_id
    return {"owner": job.owner_id, "voice_clone": voice, "s3_pptx_path": "/x.pptx", "idempotency_key": key}


def is_waiting(manager: DatabaseManager) -> bool:
    with closing(psycopg2.connect(manager.config.url)) as looking:
        cursor = looking.cursor()
        cursor.execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
        return bool(cursor.rowcount)


def test_over_all_partitions(partitioned: DatabaseManager) -> None:
    (job,) = enqueue(idempotency_key="k")
    go_on_at(partitioned, 200)
    assert enqueue(idempotency_key="k") == [job]
    with partitioned.transaction():
        assert enqueue(idempotency_key="k") == [job]
        (other,) = enqueue(idempotency_key="other")  # the transaction goes on
    assert [name for _, name, _ in held(partitioned)] == ["k", "other"]
    other.cancel()
    row = row_of(job)
    for add in (
        lambda: PresentationJob.create(**row),
        lambda: PresentationJob.enqueue_many([row]),
        lambda: PresentationJob.insert_many([row]).execute(),
    ):
        with pytest.raises(ConstraintViolation) as refused:
            add()
        assert refused.value.constraint == INDEX
    job.cancel()
    (later,) = enqueue(idempotency_key="k")
    assert later.id > 200
    with pytest.raises(ConstraintViolation) as refused:
        PresentationJob.get_by_id(job.id).retry()
    assert refused.value.constraint == INDEX
    assert held(partitioned) == [(job.owner_id, "k", later.id)]


def test_a_key_is_held_for_as_long_as_its_job_is_unfinished(partitioned: DatabaseManager) -> None:
    (job,) = enqueue(idempotency_key="k")
    (claimed,) = [one for one in PresentationJob.claim("w", 100) if one == job]
    assert len(held(partitioned)) == 1
    claimed.fail("no", retry=True)
    assert len(held(partitioned)) == 1
    job = PresentationJob.get_by_id(job.id)
    job.idempotency_key = "other"
    job.save()
    assert [key for _, key, _ in held(partitioned)] == ["other"]
    eve = User.create(name="Eve")
    voice = VoiceClone.create(name="v", s3_path="/e.wav", owner=eve)
    PresentationJob.update(owner=eve, voice_clone=voice).where(PresentationJob.id == job.id).execute()
    assert held(partitioned) == [(eve.id, "other", job.id)]
    eve.delete_instance()
    assert held(partitioned) == []
    (job,) = enqueue(idempotency_key="k")
    PresentationJob.update(id=150).where(PresentationJob.id == job.id).execute()
    assert held(partitioned) == [(job.owner_id, "k", 150)]
    partitioned.database.execute_sql("TRUNCATE presentation_jobs, job_events")
    assert held(partitioned) == []


def test_what_was_unfinished_before_holds_its_key(filled: DatabaseManager) -> None:
    (job,) = enqueue(idempotency_key="k")
    filled.install("partitions", size=100)
    go_on_at(filled, 200)
    assert enqueue(idempotency_key="k") == [job]


def test_the_same_key_at_the_same_time_in_two_partitions(partitioned: DatabaseManager) -> None:
    """Of two inserts whose ids are in two partitions one is refused, whichever comes first."""
    job = PresentationJob.get()
    for number in range(20):
        barrier = threading.Barrier(2)

        def add(job_id: int, key: str = f"k{number}", barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            with suppress(ConstraintViolation):
                PresentationJob.insert(id=job_id, **row_of(job, key)).execute()
                return True
            return False

        with ThreadPoolExecutor(2) as pool:
            added = list(pool.map(add, (50 + number, 150 + number)))
        assert sorted(added) == [False, True]


def test_an_uncommitted_twin_is_waited_for(partitioned: DatabaseManager) -> None:
    """Enqueued, and put back by a retry, in a transaction that commits later: enqueue() gives that job."""
    (job,) = enqueue(idempotency_key="k")
    job.cancel()
    go_on_at(partitioned, 200)
    with ThreadPoolExecutor(1) as pool:
        with partitioned.transaction():
            PresentationJob.get_by_id(job.id).retry()
            found = pool.submit(enqueue, idempotency_key="k")
            wait_until(lambda: is_waiting(partitioned))
        assert found.result(timeout=30) == [job]


def test_under_repeatable_read_a_twin_that_cannot_be_seen_is_an_error(partitioned: DatabaseManager) -> None:
    """And not a search for it without an end; the transaction may be tried again."""
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(DatabaseBusy), partitioned.transaction():
            partitioned.database.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            PresentationJob.select().count()
            (job,) = pool.submit(enqueue, idempotency_key="k").result(timeout=30)
            enqueue(idempotency_key="k")
        assert enqueue(idempotency_key="k") == [job]


def test_thousands_of_keys_in_one_transaction(partitioned: DatabaseManager) -> None:
    job = PresentationJob.get()
    count = 20_000
    assert PresentationJob.enqueue_many(row_of(job, f"k{number}") for number in range(count)) == count
    assert len(held(partitioned)) == count
    PresentationJob.update(status=JobStatus.CANCELLED).where(PresentationJob.idempotency_key.is_null(False)).execute()
    assert held(partitioned) == []


def test_what_guards_the_keys_is_mended(partitioned: DatabaseManager) -> None:
    """Without a trigger the feature is not whole; installing it writes down who holds which key."""
    database = partitioned.database
    for damage in (
        "DROP TRIGGER presgen_hold_key_insert ON presentation_jobs",
        "ALTER TABLE presentation_jobs DISABLE TRIGGER presgen_hold_key_update",
        "DROP INDEX idx_presentation_jobs_idempotency_key",
        "DROP TABLE presgen_idempotency_keys",
    ):
        database.execute_sql(damage)
        assert partitioned.features() == []
        partitioned.install("partitions")
        assert partitioned.features() == ["partitions"]
    database.execute_sql("DROP TRIGGER presgen_hold_key_insert ON presentation_jobs")
    (job,) = enqueue(idempotency_key="k")
    assert held(partitioned) == []
    partitioned.install("partitions")
    assert held(partitioned) == [(job.owner_id, "k", job.id)]


def test_an_older_versions_function_is_replaced(partitioned: DatabaseManager) -> None:
    database = partitioned.database
    sql = "SELECT replace(pg_get_functiondef('presgen_hold_key()'::regprocedure), 'is_held', 'is_older')"
    (older,) = database.execute_sql(sql).fetchone()
    partitioned.install("partitions")  # without a lock on anything
    database.execute_verbatim(older)
    assert not keys.is_function_current(database)
    partitioned.install("partitions")
    assert keys.is_function_current(database)


def test_nobody_writes_keys_but_the_function(partitioned: DatabaseManager) -> None:
    sql = "SELECT has_function_privilege('public', 'presgen_hold_key()', 'EXECUTE')"
    assert partitioned.database.execute_sql(sql).fetchone() == (False,)


def test_a_key_that_nobody_holds_any_more_goes_to_who_asks_for_it(partitioned: DatabaseManager) -> None:
    """Whatever the triggers have not seen: what was written without them, and what an older snapshot did not show."""
    database = partitioned.database
    (job,) = enqueue(idempotency_key="k")
    database.execute_sql("ALTER TABLE presentation_jobs DISABLE TRIGGER USER")
    PresentationJob.update(status=JobStatus.CANCELLED).where(PresentationJob.id == job.id).execute()
    database.execute_sql("ALTER TABLE presentation_jobs ENABLE TRIGGER USER")
    assert held(partitioned) == [(job.owner_id, "k", job.id)]
    (other,) = enqueue(idempotency_key="k")
    assert held(partitioned) == [(job.owner_id, "k", other.id)]
    database.execute_sql("TRUNCATE presentation_jobs_first, job_events")
    (third,) = enqueue(idempotency_key="k")
    assert held(partitioned) == [(job.owner_id, "k", third.id)]


def unfinished(key: str) -> int:
    return int(
        PresentationJob.select()
        .where(PresentationJob.idempotency_key == key, PresentationJob.status.in_(UNFINISHED))
        .count()
    )


def most_at_once(manager: DatabaseManager, seconds: float) -> int:
    """Enqueue, cancel and retry with one key from many sides; the most unfinished jobs with it that were ever seen."""
    ends, first = time.monotonic() + seconds, PresentationJob.get()
    levels = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

    def work(seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < ends:
            with suppress(ConstraintViolation, DatabaseBusy, InvalidTransition), manager.transaction():
                manager.database.execute_sql(f"SET TRANSACTION ISOLATION LEVEL {chance.choice(levels)}")
                jobs = list(PresentationJob.select().where(PresentationJob.idempotency_key == "k"))
                if not jobs or chance.random() < 0.4:
                    row = row_of(first)
                    if chance.random() < 0.5:
                        row["id"] = chance.randrange(31, 100_000)
                    PresentationJob.insert(**row).execute()
                elif chance.random() < 0.5:
                    chance.choice(jobs).retry()
                else:
                    chance.choice(jobs).cancel()

    with ThreadPoolExecutor(6) as pool:
        working = [pool.submit(work, seed) for seed in range(6)]
        most = 0
        while any(not one.done() for one in working):
            most = max(most, unfinished("k"))
        for one in working:
            one.result()
    return max(most, unfinished("k"))


def test_never_two_at_once_whatever_the_isolation(partitioned: DatabaseManager) -> None:
    assert most_at_once(partitioned, 2) == 1
    PresentationJob.update(status=JobStatus.CANCELLED).where(PresentationJob.status.in_(UNFINISHED)).execute()
    assert held(partitioned) == []


def test_two_at_once_would_be_noticed(partitioned: DatabaseManager) -> None:
    """Where the function takes a key over without a look at its holder."""
    sql = "SELECT replace(pg_get_functiondef('presgen_hold_key()'::regprocedure), 'IF is_held', 'IF false AND is_held')"
    (changed,) = partitioned.database.execute_sql(sql).fetchone()
    partitioned.database.execute_verbatim(changed)
    assert most_at_once(partitioned, 2) > 1
