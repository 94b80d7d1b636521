"""A manager that knows a primary and two replicas."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fixtures.replicas import Cluster
from fixtures.waiting import wait_until

from presgen import DatabaseManager


@pytest.fixture
def db(cluster: Cluster) -> Iterator[DatabaseManager]:
    """A manager on the cluster, without rows, its replicas in use and level with the primary."""
    with DatabaseManager(cluster.config(pool_timeout=5)) as manager:
        manager.database.execute_sql("TRUNCATE users, voice_clones, presentation_jobs, job_events RESTART IDENTITY")
        with manager.writing() as written:
            pass
        wait_until(lambda: all(found["usable"] for found in manager.database.replicas.look().values()))
        for standby in cluster.standbys:
            with DatabaseManager(standby.url) as replica:
                sql = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
                wait_until(lambda: replica.database.execute_sql(sql, (written.token,)).fetchone() == (True,))
        yield manager
