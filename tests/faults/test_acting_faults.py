"""Faults inside acting_as(): the same errors as outside of it, no slot lost, and nobody carried by what is left."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer
from fixtures.acting import left_behind
from fixtures.databases import Open
from fixtures.server_processes import backend_pid, stopped, terminate
from fixtures.waiting import within

from presgen import CommitUnknown, DatabaseManager, DatabaseUnavailable, PoolTimeout, User

USER, ACTOR = 7, "support"


@pytest.fixture(params=["statement", "transaction"])
def read(request: pytest.FixtureRequest) -> Callable[[DatabaseManager], object]:
    """Reads in a statement of its own, or in a transaction."""

    def in_a_transaction(manager: DatabaseManager) -> int:
        with manager.transaction():
            return User.select().count()

    return in_a_transaction if request.param == "transaction" else lambda _: User.select().count()


def settled(manager: DatabaseManager) -> None:
    """It works again, for the user and for nobody, and nothing is in use or carried."""
    with manager.acting_as(USER, actor=ACTOR):
        User.create(name="after")
    User.create(name="after")
    manager.database.close()
    assert manager.pool_stats()["in_use"] == 0
    assert left_behind(manager) == []


def test_the_settings_cost_no_round_trip(proxy: CuttingProxy, proxied: DatabaseManager) -> None:
    def round_trips(work: Callable[[], object]) -> int:
        before = proxy.round_trips
        work()
        return proxy.round_trips - before

    def transaction() -> None:
        with proxied.transaction(), proxied.transaction():
            User.create(name="x")

    def join() -> None:
        with proxied.transaction():
            User.create(name="x")
            with proxied.acting_as(actor="inner"):
                User.create(name="x")

    for work, expected in (
        (lambda: User.create(name="x"), 1),
        (lambda: User.select().count(), 1),
        (transaction, 5),
        (join, 4),
    ):
        assert round_trips(work) == expected
        with proxied.acting_as(USER, actor=ACTOR):
            assert round_trips(work) == expected


def test_a_connection_that_is_lost_in_hand_is_replaced(
    server: CrashServer, opened: Open, read: Callable[[DatabaseManager], object]
) -> None:
    manager = opened()
    with manager.session(), manager.acting_as(USER, actor=ACTOR):
        terminate(server.url, backend_pid(manager))
        with pytest.raises(DatabaseUnavailable, match="nothing uncommitted was kept"):
            read(manager)
        assert read(manager) == 0
    settled(manager)


@pytest.mark.parametrize("written", [0, 1])
def test_a_connection_that_is_lost_in_a_transaction_tells_the_cause_and_ends_the_block(
    server: CrashServer, opened: Open, written: int
) -> None:
    """Between BEGIN and the first statement, and after it."""
    manager = opened()
    outer, inner = manager.acting_as(USER), manager.acting_as(actor="inner")
    with pytest.raises(DatabaseUnavailable) as caught, outer, manager.transaction(), inner:
        for _ in range(written):
            User.create(name="x")
        terminate(server.url, int(manager.database.connection().info.backend_pid))
        User.create(name="x")
    assert type(caught.value) is DatabaseUnavailable
    assert User.select().count() == 0
    settled(manager)


def test_a_connection_that_is_lost_before_commit_is_unknown_and_ends_the_block(
    server: CrashServer, opened: Open
) -> None:
    manager = opened()
    with pytest.raises(CommitUnknown), manager.acting_as(USER), manager.transaction():
        User.create(name="x")
        terminate(server.url, backend_pid(manager))
    settled(manager)


def test_the_lost_reply_to_a_write_is_unknown_and_to_be_read_again(
    proxy: CuttingProxy, proxied: DatabaseManager
) -> None:
    proxy.order("enqueue")
    with pytest.raises(CommitUnknown, match="read the rows again"), proxied.acting_as(USER, actor=ACTOR):
        User.create(name="x")
    assert (proxy.cuts["enqueue"], User.select().count()) == (1, 1)
    settled(proxied)


def test_the_lost_reply_to_the_commit_of_a_transaction_is_verified(
    proxy: CuttingProxy, proxied: DatabaseManager
) -> None:
    proxy.order("COMMIT")
    with proxied.acting_as(USER, actor=ACTOR):
        proxied.run_in_transaction(lambda: User.create(name="x"))
    assert (proxy.cuts["COMMIT"], User.select().count()) == (1, 1)
    settled(proxied)


def test_the_lost_reply_to_a_read_is_an_outage_alone(opened: Open) -> None:
    manager = opened()
    silent = stopped(backend_pid(manager))  # of the only connection there is
    with manager.session(), manager.acting_as(USER), silent, within(0.5), pytest.raises(DatabaseUnavailable) as caught:
        User.select().count()
    assert caught.value.retryable
    settled(manager)


def test_a_server_that_stops_before_the_settings_delays_the_block_by_its_deadline(opened: Open) -> None:
    manager = opened(connect_timeout=1)
    with ExitStack() as stack, within(1), pytest.raises(DatabaseUnavailable):
        stack.enter_context(manager.session())
        pid = backend_pid(manager)
        stack.enter_context(manager.acting_as(USER))
        stack.enter_context(stopped(pid))
        with manager.transaction():
            raise AssertionError("BEGIN should have failed")
    settled(manager)


def test_a_block_needs_no_connection_and_a_full_pool_is_told_as_one(opened: Open) -> None:
    manager = opened(pool_size=1, max_overflow=0, pool_timeout=0.2)

    def act() -> None:
        with manager.acting_as(USER), pytest.raises(PoolTimeout):
            User.select().count()

    with manager.session(), ThreadPoolExecutor(1) as threads:
        threads.submit(act).result()
    settled(manager)
