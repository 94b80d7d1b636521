"""acting_as(): every transaction of the block carries the user and the actor, and nothing outside of it does."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from fixtures.acting import NOTHING
from fixtures.waiting import wait_until

from presgen import DatabaseManager, PresentationJob, User, ValidationError, VoiceClone, Worker
from presgen.errors import AlreadyActing, ConstraintViolation
from presgen.ext.executor import SessionExecutor


@pytest.fixture
def manager(noting: DatabaseManager) -> DatabaseManager:
    return noting


def test_every_write_of_the_block_carries_user_and_actor(manager: DatabaseManager, carried: Any) -> None:
    ada = User.create(name="Ada")
    assert carried() == [NOTHING]
    with manager.acting_as(ada, actor="support"):
        ada.name = "Ada L."
        ada.save()
        User.update(name="Countess").where(User.id == ada.id).execute()
        manager.database.execute_sql("UPDATE users SET name = 'Raw'")
        with manager.transaction():
            ada.delete_instance()
    assert set(carried()) == {(ada.id, "support")}  # SQLite sets updated_at by a write of its own
    User.create(name="Eve")
    assert carried() == [NOTHING]


def test_the_actor_is_the_user_where_none_is_named(manager: DatabaseManager, carried: Any) -> None:
    ada = User.create(name="Ada")
    with manager.acting_as(ada.id):
        User.create(name="Bob")
    with manager.acting_as(actor="nightly"):
        User.create(name="Eve")
    assert carried() == [NOTHING, (ada.id, f"user {ada.id}"), (None, "nightly")]


def test_sessions_inside_and_around_change_nothing(manager: DatabaseManager, carried: Any) -> None:
    with manager.session(), manager.acting_as(7):
        User.create(name="Ada")
        with manager.session(), manager.transaction(), manager.transaction():
            User.create(name="Bob")
        for database in manager.get_session():
            database.execute_sql("UPDATE users SET name = 'Eve'")
    assert set(carried()) == {(7, "user 7")}


def test_an_open_transaction_carries_them_as_long_as_the_block_lasts(manager: DatabaseManager, carried: Any) -> None:
    with manager.transaction():
        User.create(name="Ada")
        with manager.acting_as(7, actor="one"):
            User.create(name="Bob")
            with manager.acting_as(actor="two"):
                User.create(name="Cyd")
            User.create(name="Dan")
        User.create(name="Eve")
    assert carried() == [NOTHING, (7, "one"), (7, "two"), (7, "one"), NOTHING]


def test_a_savepoint_that_is_undone_takes_nothing_along(manager: DatabaseManager, carried: Any) -> None:
    with manager.transaction(), manager.acting_as(7):
        with suppress(ConstraintViolation), manager.transaction(), manager.acting_as(actor="doomed"):
            manager.database.execute_sql("UPDATE users SET name = ''")
            manager.database.execute_sql("INSERT INTO users (name) VALUES ('')")
        User.create(name="Ada")
    assert carried() == [(7, "user 7")]


def test_another_user_inside_is_refused(manager: DatabaseManager) -> None:
    with manager.acting_as(7), pytest.raises(AlreadyActing, match="acts as user 7.*as user 8"), manager.acting_as(8):
        pass
    with manager.acting_as(8), manager.acting_as(8):
        pass


def test_an_error_in_the_block_comes_through_and_ends_it(manager: DatabaseManager, carried: Any) -> None:
    for _ in range(2):
        with pytest.raises(ConstraintViolation), manager.acting_as(7), manager.transaction():
            manager.database.execute_sql("INSERT INTO users (name) VALUES ('')")
    with pytest.raises(ConstraintViolation), manager.transaction(), manager.acting_as(7):
        manager.database.execute_sql("INSERT INTO users (name) VALUES ('')")
    User.create(name="Ada")
    assert carried() == [NOTHING]


def test_neither_the_pools_connections_nor_the_table_keep_anything(manager: DatabaseManager, backend: str) -> None:
    with manager.acting_as(7, actor="x"):
        User.create(name="Ada")
    with manager.session() as database:
        if backend == "sqlite":
            rows = database.execute_sql("SELECT * FROM presgen_acting").fetchall()
        else:
            rows = database.execute_sql(
                "SELECT 1 WHERE current_setting('presgen.user_id', true) || current_setting('presgen.actor', true) > ''"
            ).fetchall()
    assert rows == []


def test_another_thread_acts_for_nobody_and_its_own_context_for_whom_it_says(
    manager: DatabaseManager, carried: Any
) -> None:
    def write(name: str) -> None:
        User.create(name=name)
        manager.database.close()

    def run(target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        thread.start()
        thread.join()

    with manager.acting_as(7):
        run(write, "alone")
        run(contextvars.copy_context().run, write, "along")
    assert carried() == [NOTHING, (7, "user 7")]


def test_jobs_go_through_their_life(manager: DatabaseManager) -> None:
    ada = User.create(name="Ada")
    voice = VoiceClone.create(name="Ada", s3_path="/ada.wav", owner=ada)
    row = {"owner": ada, "voice_clone": voice, "s3_pptx_path": "/a.pptx"}
    with manager.acting_as(ada):
        assert PresentationJob.enqueue_many([row, row]) == 2
        job, _ = PresentationJob.claim("w", limit=2)
        job.heartbeat(progress=0.5)
        job.complete(s3_video_path="/a.mp4")
    assert [job.status for job in PresentationJob.select().order_by(PresentationJob.id)] == [
        "completed",
        "processing_slides",
    ]


def test_a_worker_acts_for_whom_its_caller_does(manager: DatabaseManager, carried: Any) -> None:
    ada = User.create(name="Ada")
    voice = VoiceClone.create(name="Ada", s3_path="/ada.wav", owner=ada)
    for _ in range(2):
        PresentationJob.enqueue(owner=ada, voice_clone=voice, s3_pptx_path="/a.pptx")
    carried()

    def handle(job: PresentationJob) -> None:
        User.create(name="made by a handler")
        job.complete(s3_video_path="/a.mp4")
        worker.stop()

    with manager.acting_as(actor="nightly"):
        worker = Worker(manager, handle, concurrency=1)
        worker.run()
        assert carried() == [(None, "nightly")]
        worker.run_once()
    assert carried() == [(None, "nightly")]


def test_heartbeats_carry_them_too(manager: DatabaseManager, postgresql: str) -> None:
    manager.database.execute_sql(
        "CREATE TRIGGER note AFTER UPDATE ON presentation_jobs FOR EACH ROW EXECUTE FUNCTION note_acting()"
    )
    ada = User.create(name="Ada")
    voice = VoiceClone.create(name="Ada", s3_path="/ada.wav", owner=ada)
    PresentationJob.enqueue(owner=ada, voice_clone=voice, s3_pptx_path="/a.pptx")
    (job,) = PresentationJob.claim("w")
    manager.database.execute_sql("DELETE FROM seen")

    def beats() -> list[Any]:
        return manager.database.execute_sql("SELECT DISTINCT user_id, actor FROM seen").fetchall()

    with manager.acting_as(ada, actor="loop"), job.lease(every=0.02):
        wait_until(beats)
    assert beats() == [(ada.id, "loop")]


def test_a_task_of_the_executor_acts_for_whom_its_caller_does(manager: DatabaseManager, carried: Any) -> None:
    with SessionExecutor(manager, 1) as threads:
        with manager.acting_as(7):
            threads.submit(User.create, name="Ada").result()
        threads.submit(User.create, name="Bob").result()
    assert carried() == [(7, "user 7"), NOTHING]


@pytest.mark.parametrize("shared", [True, False])
def test_threads_that_share_a_session_take_no_part_in_one_anothers_statements(
    manager: DatabaseManager, carried: Any, shared: bool
) -> None:
    def write(number: int) -> str:
        try:
            if number % 2:
                manager.database.execute_sql("INSERT INTO users (name) VALUES ('')")
            return str(User.create(name=f"of {number}").name)
        finally:
            if not shared:
                manager.database.close()

    async def write_all() -> list[Any]:
        tasks = (asyncio.to_thread(write, number) for number in range(60))
        return await asyncio.gather(*tasks, return_exceptions=True)

    manager.database.close()  # which would be the session of this thread alone
    with manager.session() if shared else nullcontext(), manager.acting_as(7):
        outcomes = asyncio.run(write_all())
    told = {name for name in outcomes if isinstance(name, str)}
    assert {type(outcome) for outcome in outcomes} == {str, ConstraintViolation}
    assert len(told) == 30
    assert {user.name for user in User.select()} == told
    assert Counter(carried()) == {(7, "user 7"): 30}


def test_blocks_may_end_in_any_order(manager: DatabaseManager, carried: Any) -> None:
    alice, bob = manager.acting_as(actor="alice"), manager.acting_as(actor="bob")
    alice.__enter__()
    bob.__enter__()
    alice.__exit__(None, None, None)
    User.create(name="by bob")
    bob.__exit__(None, None, None)
    User.create(name="by nobody")
    assert carried() == [(None, "bob"), NOTHING]


def test_a_task_that_outlives_the_block_acts_for_nobody(manager: DatabaseManager, carried: Any) -> None:
    with manager.acting_as(7):
        context = contextvars.copy_context()
    context.run(User.create, name="Ada")
    assert carried() == [NOTHING]


def test_coroutines_act_each_for_its_own(manager: DatabaseManager, carried: Any) -> None:
    def write_in_a_thread(name: str) -> None:
        User.create(name=name)
        manager.database.close()

    async def write(user_id: int) -> None:
        with manager.acting_as(user_id):
            await asyncio.sleep(0)
            User.create(name=f"of {user_id}")
            await asyncio.to_thread(write_in_a_thread, f"by a thread of {user_id}")

    async def write_all() -> None:
        await asyncio.gather(*map(write, range(1, 9)))
        User.create(name="of nobody")

    asyncio.run(write_all())
    assert Counter(carried()) == {**{(number, f"user {number}"): 2 for number in range(1, 9)}, NOTHING: 1}


def test_run_in_transaction_carries_them(manager: DatabaseManager, carried: Any) -> None:
    with manager.acting_as(7):
        manager.run_in_transaction(lambda: User.create(name="Ada"))
    assert carried() == [(7, "user 7")]


@pytest.mark.parametrize(
    "given",
    [{}, {"actor": ""}, {"actor": "x" * 256}, {"user": "ada"}, {"user": User(name="?")}, {"user": 0}, {"user": -1}],
)
def test_whom_nobody_can_be_is_refused(db: DatabaseManager, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        db.acting_as(**given)


def test_replacing_a_row_carries_them(manager: DatabaseManager, carried: Any) -> None:
    with manager.acting_as(7):
        User.insert(name="Ada", email="ada@example.com").on_conflict(
            conflict_target=[User.email], conflict_where=User.email.is_null(False), update={User.name: "Ada"}
        ).execute()
        if manager.config.backend == "sqlite":
            manager.database.execute_sql("REPLACE INTO users (id, name) VALUES (9, 'Bob')")
    assert set(carried()) == {(7, "user 7")}


def test_a_sqlite_file_without_the_table_is_left_alone(tmp_path: Path, sqlite_template: Path) -> None:
    path = tmp_path / "plain.db"
    path.write_bytes(sqlite_template.read_bytes())
    with DatabaseManager(f"sqlite:///{path}") as manager, manager.acting_as(7):
        User.create(name="Ada")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM users").fetchall() == [("Ada",)]
    connection.close()
