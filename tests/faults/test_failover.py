"""Several hosts in the URL: after a promotion the pool finds the new primary by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import quote

import pytest
from fixtures.fault_table import NAME, Fault
from fixtures.replicas import cluster_of
from fixtures.waiting import wait_until

from presgen import DatabaseConfig, DatabaseManager, DatabaseUnavailable, User
from presgen.embedded import EmbeddedServer


@pytest.fixture
def pair() -> Iterator[tuple[EmbeddedServer, EmbeddedServer]]:
    """A primary with presgen's schema, and a standby that follows it."""
    with ExitStack() as stack:
        cluster = cluster_of(stack, version=18, standbys=1)
        yield cluster.primary, cluster.standbys[0]


def url_of(*servers: EmbeddedServer) -> str:
    hosts = ",".join(quote(str(server.socket_folder), safe="") for server in servers)
    ports = ",".join("5432" for _ in servers)
    return f"postgresql:///presgen?host={hosts}&port={ports}&user=postgres&target_session_attrs=read-write"


@pytest.mark.fault("primary lost, standby promoted")
def test_the_pool_finds_the_new_primary_after_a_promotion(
    pair: tuple[EmbeddedServer, EmbeddedServer], fault: Fault
) -> None:
    primary, standby = pair
    with DatabaseManager(DatabaseConfig(url_of(standby, primary), connect_timeout=3)) as manager:
        with manager.session():
            User.create(name="before")
        wait_for_replay(primary, standby)
        primary._run("pg_ctl", "-D", primary.data, "-m", "immediate", "-w", "stop")
        with fault.tells(DatabaseUnavailable, retryable=True):  # for as long as there is no primary
            User.create(name=NAME)
        standby._run("pg_ctl", "-D", standby.data, "-w", "promote")
        fault.works_again(manager, lambda: User.create(name="after"))
        assert manager.health().role == "primary"
        assert [user.name for user in User.select().order_by(User.id)] == ["before", "after"]
        fault.loses_no_slot(manager)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_server_that_only_reads_from_now_on_is_left(
    pair: tuple[EmbeddedServer, EmbeddedServer], in_transaction: bool
) -> None:
    """Its connections live on, so nothing but the refusal tells that another one is the primary."""
    primary, standby = pair
    with DatabaseManager(url_of(primary, standby)) as manager, manager.session() as database:
        User.create(name="before")
        wait_for_replay(primary, standby)
        standby._run("pg_ctl", "-D", standby.data, "-w", "promote")
        database.execute_sql("ALTER SYSTEM SET default_transaction_read_only = on")
        database.execute_sql("SELECT pg_reload_conf()")
        wait_until(lambda: database.execute_sql("SHOW transaction_read_only").fetchone() == ("on",))
        database.close()
        block = manager.transaction() if in_transaction else manager.session()
        with pytest.raises(DatabaseUnavailable, match="use the primary"), block:
            User.create(name="refused")
        with manager.session():
            User.create(name="after")
        with DatabaseManager(standby.url):
            assert [user.name for user in User.select().order_by(User.id)] == ["before", "after"]


def wait_for_replay(primary: EmbeddedServer, standby: EmbeddedServer) -> None:
    with DatabaseManager(primary.url) as manager:
        (written,) = manager.database.execute_sql("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    with DatabaseManager(standby.url) as manager:
        behind = "SELECT pg_last_wal_replay_lsn() < %s::pg_lsn"
        wait_until(lambda: not manager.database.execute_sql(behind, (written,)).fetchone()[0])
