"""run_in_transaction(): what was committed is not repeated, and what was not is, whatever becomes of the reply."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer
from fixtures.server_processes import backend_pid, terminate

from presgen import CommitUnknown, DatabaseManager, DatabaseUnavailable, User, VoiceClone
from presgen.errors import ConstraintViolation, DatabaseBusy, TransactionAborted

TRANSACTIONS, THREADS = 600, 6


def test_two_row_transactions_are_applied_exactly_once(proxy: CuttingProxy, proxied: DatabaseManager) -> None:
    """With a fifth of the replies to COMMIT cut, and deadlocks among the rest."""
    pair = [User.create(name="left"), User.create(name="right")]
    proxied.database.execute_sql("ALTER SYSTEM SET deadlock_timeout = '20ms'")
    proxied.database.execute_sql("SELECT pg_reload_conf()")
    chance, deadlocks = random.Random(1), Counter[str]()

    def apply(number: int) -> None:
        if chance.random() < 0.2:
            proxy.order("COMMIT")

        def work() -> None:
            VoiceClone.create(name=f"{number}", s3_path=f"/{number}.wav", owner=pair[0])
            for user in pair if number % 2 else reversed(pair):
                try:
                    User.update(name=f"{number}").where(User.id == user.id).execute()
                except DatabaseBusy:
                    deadlocks["seen"] += 1
                    raise

        proxied.run_in_transaction(work, retries=50)
        proxied.database.close()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(apply, range(TRANSACTIONS)))
    assert Counter(clone.name for clone in VoiceClone.select()) == {f"{n}": 1 for n in range(TRANSACTIONS)}
    assert proxy.cuts["COMMIT"] > TRANSACTIONS / 10
    assert deadlocks["seen"] > 0
    assert proxied.pool_stats()["in_use"] <= 1  # this thread's


def test_no_repeat_of_a_lost_commit_begins_after_the_deadline(server: CrashServer, proxied: DatabaseManager) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        User.create(name="never")
        terminate(server.url, backend_pid(proxied))

    with pytest.raises(DatabaseUnavailable):
        proxied.run_in_transaction(work, retries=1000, within=2)
    assert 1 < len(runs) < 20
    assert User.select().count() == 0


def test_a_callback_that_fails_after_the_commit_repeats_nothing(proxied: DatabaseManager) -> None:
    def work() -> None:
        User.create(name="once")
        proxied.database.after_commit(fail)

    def fail() -> None:
        raise DatabaseBusy("of the callback")

    with pytest.raises(DatabaseBusy, match="of the callback"):
        proxied.run_in_transaction(work)
    assert User.select().where(User.name == "once").count() == 1


def test_what_is_to_be_called_after_a_commit_is_called_also_when_its_reply_is_lost(
    proxy: CuttingProxy, proxied: DatabaseManager
) -> None:
    called: list[str] = []

    def work() -> str:
        User.create(name="once")
        proxied.database.after_commit(lambda: called.append("called"))
        proxy.order("COMMIT")
        return "done"

    assert proxied.run_in_transaction(work) == "done"
    assert called == ["called"]
    assert User.select().where(User.name == "once").count() == 1


def test_an_unknown_commit_of_the_work_itself_is_not_ours(proxied: DatabaseManager) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise CommitUnknown("of another database")

    with pytest.raises(CommitUnknown, match="of another database"):
        proxied.run_in_transaction(work)
    assert runs == [1]


def test_nobody_to_ask_is_an_unknown_commit(proxy: CuttingProxy, proxied: DatabaseManager) -> None:
    with ExitStack() as outage:

        def work() -> None:
            User.create(name="somewhere")
            proxy.order("COMMIT")
            outage.enter_context(proxy.unreachable())

        with pytest.raises(CommitUnknown, match="ask pg_xact_status"):
            proxied.run_in_transaction(work, within=0.3)
    assert User.select().where(User.name == "somewhere").count() == 1


def test_no_repeat_begins_after_the_deadline(proxied: DatabaseManager) -> None:
    runs: list[int] = []

    def work() -> None:
        runs.append(1)
        raise DatabaseUnavailable("away")

    with pytest.raises(DatabaseUnavailable):
        proxied.run_in_transaction(work, retries=1000, within=2)
    assert 1 < len(runs) < 20


def test_a_swallowed_error_is_told_as_such(proxied: DatabaseManager) -> None:
    def work() -> None:
        with suppress(ConstraintViolation):
            proxied.database.execute_sql("INSERT INTO users (name) VALUES ('')")

    with pytest.raises(TransactionAborted):
        proxied.run_in_transaction(work)
