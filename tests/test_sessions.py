"""Which connection a piece of code has in hand, and that it goes back: sessions, statements, threads, coroutines."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import peewee as pw
import pytest

from presgen import DatabaseConfig, DatabaseManager, User
from presgen.acting import NOBODY, acting_on
from presgen.context import contained, session_of
from presgen.errors import NoActiveTransaction, ReadOnlyBlock
from presgen.ext.executor import SessionExecutor


@pytest.fixture
def pool(url: str, postgresql: str) -> Iterator[DatabaseManager]:
    """A manager with a pool of its own, of which nothing is in use at the end."""
    with DatabaseManager(DatabaseConfig(url, pool_size=2, max_overflow=2, pool_timeout=5)) as manager:
        yield manager
        assert in_use(manager) == 0


def in_use(manager: DatabaseManager) -> int:
    return int(manager.pool_stats()["in_use"])


def names() -> list[str]:
    return [user.name for user in User.select().order_by(User.id)]


# Outside sessions


def test_a_statement_gives_its_connection_back_and_keeps_its_rows(pool: DatabaseManager) -> None:
    User.insert_many([{"name": "Ada"}, {"name": "Eve"}]).execute()
    users = User.select().order_by(User.id)
    assert (len(users), in_use(pool)) == (2, 0)
    cursor = pool.database.execute_sql("SELECT name FROM users ORDER BY id")
    pool.database.close_all()
    assert [column.name for column in cursor.description] == ["name"]
    assert (cursor.rowcount, cursor.fetchone(), cursor.fetchmany(5), cursor.fetchall()) == (2, ("Ada",), [("Eve",)], [])
    assert User.update(name="Ann").where(User.name == "Ada").execute() == 1
    assert (names(), in_use(pool)) == (["Ann", "Eve"], 0)


def test_a_statement_that_fails_gives_its_connection_back(
    pool: DatabaseManager, caplog: pytest.LogCaptureFixture
) -> None:
    for statement in ("INSERT INTO users (name) VALUES ('')", "SELECT 1/0", "COPY users TO STDOUT", "SELECT 1/0"):
        with pytest.raises(pw.DatabaseError):
            pool.database.execute_sql(statement)
        stats = pool.pool_stats()
        assert (stats["in_use"], stats["idle"], stats["created"]) == (0, 1, 1)
    assert caplog.messages == []  # as there are when a connection is lost, and taken back later


def test_a_transaction_gives_its_connection_back_after_its_callbacks(pool: DatabaseManager) -> None:
    database, seen = pool.database, []
    with database.atomic():
        User.create(name="Ada")
        database.after_commit(lambda: seen.append(("first", in_use(pool), len(names()))))
        database.after_commit(lambda: seen.append(("second", in_use(pool), User.create(name="Eve").name)))
        with pytest.raises(ZeroDivisionError), database.atomic():
            User.create(name="undone")
            raise ZeroDivisionError
        assert in_use(pool) == 1
    assert seen == [("first", 1, 1), ("second", 0, "Eve")]
    assert (names(), in_use(pool)) == (["Ada", "Eve"], 0)


def test_a_transaction_that_fails_gives_its_connection_back(pool: DatabaseManager) -> None:
    called: list[int] = []
    with pytest.raises(ZeroDivisionError), pool.database.atomic():
        User.create(name="undone")
        pool.database.after_commit(lambda: called.append(1))
        raise ZeroDivisionError
    assert (names(), called, in_use(pool)) == ([], [], 0)


def test_peewees_other_ways_to_a_transaction_give_it_back_as_well(pool: DatabaseManager) -> None:
    database = pool.database
    database.session_start()
    User.create(name="one")
    assert database.session_commit() is True
    assert in_use(pool) == 0
    database.session_start()
    User.create(name="undone")
    assert database.session_rollback() is True
    assert (database.session_rollback(), in_use(pool)) == (False, 0)
    database.begin()
    User.create(name="two")
    database.commit()
    assert in_use(pool) == 0
    with database.manual_commit():
        database.begin()
        User.create(name="three")
        database.commit()
    assert (names(), in_use(pool)) == (["one", "two", "three"], 0)


def test_a_begin_that_is_left_open_is_undone(pool: DatabaseManager) -> None:
    database = pool.database
    with database.manual_commit():
        database.begin()
        User.create(name="left open")
    assert in_use(pool) == 0
    with pool.session():
        database.begin()
        User.create(name="left open")
    assert in_use(pool) == 0
    with contained(database):
        database.begin()
        User.create(name="left open")
    assert names() == []


@pytest.mark.leaks_connections
def test_a_begin_left_open_in_a_thread_or_context_that_ends_loses_no_slot(pool: DatabaseManager) -> None:
    def leave_open() -> None:
        pool.database.begin()
        User.create(name="left open")

    for _ in range(5):
        thread = threading.Thread(target=leave_open)
        thread.start()
        thread.join()
        contextvars.copy_context().run(leave_open)
    assert names() == []


def test_an_open_connection_is_kept_until_it_is_closed(pool: DatabaseManager) -> None:
    pool.database.connect()
    assert names() == []
    with pool.session(), pool.transaction():
        assert in_use(pool) == 1
    assert in_use(pool) == 1
    pool.database.close()


# Sessions


def test_a_session_as_a_generator_connects_when_it_is_used(pool: DatabaseManager) -> None:
    session = pool.get_session()
    database = next(session)
    assert in_use(pool) == 0
    with database.atomic():
        User.create(name="Ada")
    assert in_use(pool) == 1
    assert [len(names()) for _ in pool.get_session()] == [1]  # inside the other one
    assert in_use(pool) == 1
    assert next(session, None) is None


def test_a_session_may_end_in_another_thread(pool: DatabaseManager) -> None:
    for begin in (pool.get_session, lambda: entered(pool)):
        session = begin()
        with ThreadPoolExecutor(1) as threads:
            next(session)
            User.create(name="Ada")
            assert in_use(pool) == 1
            threads.submit(session.close).result()  # type: ignore[attr-defined]
        assert in_use(pool) == 0
        with pool.session():  # this context has none any more
            assert in_use(pool) == 1


def entered(manager: DatabaseManager) -> Iterator[None]:
    with manager.session():
        yield


def test_a_session_that_ends_undoes_the_transaction_that_is_open(pool: DatabaseManager) -> None:
    session = pool.get_session()
    next(session).atomic().__enter__()
    User.create(name="undone")
    session.close()  # type: ignore[attr-defined]
    assert (names(), in_use(pool)) == ([], 0)


def test_sessions_may_end_in_any_order(pool: DatabaseManager, url: str) -> None:
    with DatabaseManager(url) as other:  # the models are its own now
        sessions = [manager.get_session() for manager in (pool, other, pool)]
        for session in sessions:
            next(session).execute_sql("SELECT 1")
        for session in sessions:
            session.close()  # type: ignore[attr-defined]
        assert (in_use(pool), in_use(other)) == (0, 0)
        other.database.execute_sql("SELECT 1")
        assert (in_use(pool), in_use(other)) == (0, 0)


def test_closing_inside_a_session_loses_nothing(pool: DatabaseManager) -> None:
    with pool.session() as database:
        database.close()
        User.create(name="Ada")
        assert in_use(pool) == 1
        with database.connection_context():
            assert names() == ["Ada"]
        assert in_use(pool) == 1


def test_what_somebody_elses_code_leaves_open_is_given_back(pool: DatabaseManager) -> None:
    left: list[Iterator[object]] = []
    for leave_open in (pool.database.connect, lambda: next(pool.get_session()).begin(), pool.database.begin):
        with contained(pool.database):
            left.append(pool.get_session())
            next(left[-1])
            leave_open()
            User.create(name="maybe")
        assert in_use(pool) == 0
    assert names() == ["maybe"]  # of the connection without a transaction


def test_a_block_that_somebody_elses_code_leaves_open_ends_with_it(pool: DatabaseManager) -> None:
    left = (pool.reading(), pool.acting_as(7))
    with contained(pool.database):
        for block in left:
            block.__enter__()
        with pytest.raises(ReadOnlyBlock):
            User.create(name="Eve")
    User.create(name="Ada")
    assert acting_on(pool.database) is NOBODY


def test_a_block_is_about_the_time_at_which_it_begins(pool: DatabaseManager) -> None:
    reading, acting = pool.reading(), pool.acting_as(actor="copier")
    with pool.acting_as(7), acting:
        assert acting_on(pool.database).user_id == 7
    with reading, pytest.raises(ReadOnlyBlock):
        User.create(name="Eve")


def test_what_somebody_elses_code_ends_takes_no_session_around_it_along(pool: DatabaseManager) -> None:
    with pool.session(), DatabaseManager(pool.config) as other, other.session():
        with contained(pool.database):
            session_of(other.database).end()  # type: ignore[union-attr]
        assert in_use(pool) == 1


def test_a_database_as_a_block_that_cannot_begin_leaves_nothing(pool: DatabaseManager) -> None:
    database = pool.database
    with pytest.raises(ZeroDivisionError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "begin", lambda *_: 1 // 0)
        database.__enter__()
    assert in_use(pool) == 0


def test_a_transaction_that_ends_elsewhere_says_so(pool: DatabaseManager) -> None:
    transaction = pool.transaction()
    contextvars.copy_context().run(transaction.__enter__)
    User.create(name="not part of it")
    with pytest.raises(NoActiveTransaction, match="end it where it began"):
        transaction.__exit__(None, None, None)
    assert (names(), in_use(pool)) == (["not part of it"], 0)


# Coroutines and threads


@pytest.mark.usefixtures("postgresql")
def test_coroutines_keep_their_transactions_apart(url: str) -> None:
    """On one thread, which is all that peewee looks at."""

    async def submit(number: int, block: Callable[[], object]) -> None:
        with block():  # type: ignore[attr-defined]
            User.create(name=f"{number}")
            await asyncio.sleep(0.01)
            User.create(name=f"{number}")
            if number % 2:
                raise ZeroDivisionError

    async def main(block: Callable[[], object]) -> None:
        found = await asyncio.gather(*(submit(number, block) for number in range(8)), return_exceptions=True)
        assert [type(error) for error in found] == [type(None), ZeroDivisionError] * 4

    with DatabaseManager(url) as manager:
        for block in (manager.transaction, manager.database.atomic):
            asyncio.run(main(block))
            assert sorted(names()) == ["0", "0", "2", "2", "4", "4", "6", "6"]
            assert in_use(manager) == 0
            User.delete().execute()


def test_threads_that_a_coroutine_calls_share_its_session(pool: DatabaseManager) -> None:
    def add(name: str) -> int:
        User.create(name=name)
        return threading.get_ident()

    async def main() -> set[int]:
        with pool.transaction() as transaction:
            threads = {threading.get_ident(), await asyncio.to_thread(add, "undone")}
            transaction.rollback()
            threads.add(await asyncio.to_thread(add, "kept"))
            assert in_use(pool) == 1
            return threads

    assert len(asyncio.run(main())) > 1
    assert names() == ["kept"]


def test_the_tasks_of_an_executor_leave_nothing_behind(pool: DatabaseManager) -> None:
    def task(number: int) -> int:
        if number % 3 == 0:
            pool.database.connect()
        elif number % 3 == 1:
            pool.database.begin()
        User.create(name="maybe")
        return in_use(pool)

    with SessionExecutor(pool, 4) as threads:
        counts = list(threads.map(task, range(60)))
        assert threads.submit(lambda: next(pool.get_session()).is_closed()).result() is True
        assert in_use(pool) == 0
    assert max(counts) <= 4
    assert len(names()) == 40


@pytest.mark.usefixtures("postgresql")
def test_threads_that_share_a_session_never_get_into_one_anothers_or_anybody_elses_transaction(url: str) -> None:
    """The session of a coroutine has no connection between statements, so its threads have one each."""

    async def request(number: int) -> None:
        session = manager.get_session()
        next(session)
        inserts = [asyncio.to_thread(User.create, name=f"{number}") for _ in range(3)]
        await asyncio.gather(*inserts)
        session.close()  # type: ignore[attr-defined]

    def undo() -> None:
        for _ in range(60):
            with pytest.raises(ZeroDivisionError), manager.transaction():
                User.create(name="undone")
                raise ZeroDivisionError

    async def main() -> None:
        undoing = asyncio.to_thread(undo)
        await asyncio.gather(undoing, *(request(number) for number in range(100)))

    with DatabaseManager(DatabaseConfig(url, pool_size=4, max_overflow=4, pool_timeout=60)) as manager:
        asyncio.run(main())
        assert Counter(names()) == Counter({f"{number}": 3 for number in range(100)})
        assert (in_use(manager), manager.pool_stats()["created"] <= 20) == (0, True)


def test_a_session_that_ends_while_a_thread_works_waits_for_nothing_and_loses_no_slot(pool: DatabaseManager) -> None:
    began, go_on = threading.Event(), threading.Event()

    def work() -> None:
        User.create(name="in time")
        began.set()
        pool.database.execute_sql("SELECT pg_sleep(0.5)")
        go_on.wait(20)
        User.create(name="too late")

    async def main() -> float:
        with pool.transaction():
            working = asyncio.ensure_future(asyncio.to_thread(work))
            await asyncio.to_thread(began.wait, 20)
            working.cancel()
            ending = time.monotonic()
            session_of(pool.database).end()  # type: ignore[union-attr]
            ended_after = time.monotonic() - ending
            go_on.set()
            return ended_after

    with pytest.raises(NoActiveTransaction):
        asyncio.run(main())
    assert names() == []  # and what came too late was refused


def test_a_task_that_outlives_its_transaction_stores_nothing(pool: DatabaseManager) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def outlive() -> None:
        with pool.database.atomic():
            User.create(name="a")
            await asyncio.sleep(0.05)
            User.create(name="b")

    async def request() -> None:
        for _ in pool.get_session():
            tasks.append(asyncio.create_task(outlive()))
            await asyncio.sleep(0.01)

    async def main() -> None:
        await request()
        with pytest.raises(NoActiveTransaction):
            await tasks[0]

    asyncio.run(main())
    assert names() == []


def test_coroutines_have_no_part_in_what_their_thread_has_open(db: DatabaseManager) -> None:
    """The thread of the event loop had a connection before the first request."""
    db.database.connect(reuse_if_open=True)

    async def request(number: int) -> None:
        with next(db.get_session()).atomic() if db.config.backend != "sqlite" else db.transaction():
            User.create(name=f"{number}")
            if db.config.backend != "sqlite":  # which has one writer at a time
                await asyncio.sleep(0.01)
            if number % 2:
                raise ZeroDivisionError

    async def main() -> None:
        await asyncio.gather(*(request(number) for number in range(6)), return_exceptions=True)

    asyncio.run(main())
    assert sorted(names()) == ["0", "2", "4"]
    db.database.close()


def test_a_database_as_a_block_is_a_session_and_a_transaction(pool: DatabaseManager) -> None:
    async def request(number: int) -> None:
        with pool.database:
            User.create(name=f"{number}")
            await asyncio.sleep(0.01)
            with pool.database:
                User.create(name=f"{number}")
            if number % 2:
                raise ZeroDivisionError

    async def main() -> None:
        await asyncio.gather(*(request(number) for number in range(4)), return_exceptions=True)

    asyncio.run(main())
    assert sorted(names()) == ["0", "0", "2", "2"]


@pytest.mark.parametrize("of", [lambda database: database.connection(), lambda database: database.cursor().connection])
def test_a_drivers_connection_stays_in_hand_for_the_session(pool: DatabaseManager, of: Callable[..., object]) -> None:
    async def main() -> None:
        for session in pool.get_session():
            connection = of(session)
            assert names() == []
            assert session.connection() is connection
            assert in_use(pool) == 1

    asyncio.run(main())


def test_a_session_decorates_functions_and_may_be_entered_again(pool: DatabaseManager) -> None:
    @pool.session()
    def names_in_a_session() -> list[str]:
        assert in_use(pool) == 1
        return names()

    User.create(name="Ada")
    assert names_in_a_session() == names_in_a_session() == ["Ada"]
    again = pool.session()
    with again, pool.database.atomic():
        with again:
            User.create(name="Grace")
        User.create(name="Eve")
        assert in_use(pool) == 1
    assert names() == ["Ada", "Grace", "Eve"]
