"""Faults while statements run on behalf of a user: told as any other, and nothing of the user stays behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from chaos.proxy import CuttingProxy
from chaos.server import CrashServer
from fixtures.databases import Open
from fixtures.fault_table import NAME, Fault
from fixtures.server_processes import stopped, terminate
from fixtures.servers import BOTH_VERSIONS

from presgen import CommitUnknown, DatabaseManager, DatabaseUnavailable, User

CARRIED = "SELECT current_setting('presgen.user_id', true), current_setting('presgen.actor', true)"


def first_do(work: Callable[[int], Any], manager: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something to the server's process once, between BEGIN and the settings of acting_as()."""
    database, tell = manager.database, manager.database._tell_acting

    def first(acting: Any) -> None:
        monkeypatch.undo()
        work(database.connection().info.backend_pid)
        tell(acting)

    monkeypatch.setattr(database, "_tell_acting", first)


def carries_nothing(manager: DatabaseManager, fault: Fault) -> None:
    fault.works_again(manager)
    with manager.session() as database:
        assert set(database.execute_sql(CARRIED).fetchone()) <= {None, ""}
    fault.loses_no_slot(manager)


@BOTH_VERSIONS
@pytest.mark.fault("killed as a user is told")
@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_connection_that_ends_as_a_user_is_told(
    server: CrashServer, opened: Open, fault: Fault, monkeypatch: pytest.MonkeyPatch, in_transaction: bool
) -> None:
    manager = opened()
    first_do(lambda pid: terminate(server.url, pid), manager, monkeypatch)
    with fault.tells(DatabaseUnavailable, retryable=True), manager.acting_as(7):
        if in_transaction:
            with manager.transaction():
                raise AssertionError("the transaction should not have begun")
        User.create(name=NAME)
    carries_nothing(manager, fault)
    assert User.select().count() == 0


@BOTH_VERSIONS
@pytest.mark.fault("SIGSTOP as a user is told")
def test_a_server_that_stops_as_a_user_is_told(
    opened: Open, fault: Fault, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    manager = opened()

    def stop(pid: int) -> None:
        block = stopped(pid)
        block.__enter__()
        request.addfinalizer(lambda: block.__exit__(None, None, None))

    first_do(stop, manager, monkeypatch)
    with fault.tells(DatabaseUnavailable, retryable=True, within=2), manager.acting_as(7):
        User.create(name=NAME)
    carries_nothing(manager, fault)


@BOTH_VERSIONS
@pytest.mark.fault("COMMIT of one acting statement lost")
def test_a_lost_commit_is_unknown_for_writes_alone(
    server: CrashServer, proxy: CuttingProxy, opened: Open, fault: Fault
) -> None:
    manager = opened(proxy.url_of(server.database))
    with manager.acting_as(7):
        proxy.order("COMMIT")
        with fault.tells(CommitUnknown, retryable=False):
            User.create(name=NAME)
        assert User.select().count() == 1
        proxy.order("COMMIT")
        with fault.tells(DatabaseUnavailable, retryable=True):
            User.select().count()
    assert proxy.cuts["COMMIT"] == 2
    carries_nothing(manager, fault)
    manager.close()


@BOTH_VERSIONS
@pytest.mark.fault("COMMIT of one acting statement lost")
def test_a_transaction_is_repeated_for_the_same_user(
    server: CrashServer, opened: Open, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = opened()
    first_do(lambda pid: terminate(server.url, pid), manager, monkeypatch)
    with manager.acting_as(7, actor="again"):
        carried = manager.run_in_transaction(lambda: manager.database.execute_sql(CARRIED).fetchone())
    assert carried == ("7", "again")
    fault.add("run_in_transaction repeats it")
    carries_nothing(manager, fault)
