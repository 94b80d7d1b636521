"""Databases of a test's own with the audit log, and a role that may do no more than the application has to."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg2
import pytest
from fixtures.databases import database_with
from fixtures.servers import Server

from presgen import DatabaseManager

APP_RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
APP_TABLES = "users, voice_clones, presentation_jobs, job_events"


db = database_with("audit")


@pytest.fixture
def app_url(db: DatabaseManager, postgresql: str, url: str, servers: dict[str, Server]) -> Iterator[str]:
    """The URL for a role that may read and write rows, and nothing else."""
    name = url.rpartition("/")[2].partition("?")[0]
    role = f"app_{name}"
    servers[postgresql].execute(f"CREATE ROLE {role} LOGIN PASSWORD 'app'")
    db.database.execute_sql(f"GRANT {APP_RIGHTS} ON {APP_TABLES} TO {role}")
    yield re.sub("//[^/]*@", f"//{role}:app@", url, count=1)
    with psycopg2.connect(url) as connection:
        connection.cursor().execute(f"DROP OWNED BY {role}")
    connection.close()
    servers[postgresql].execute(f"DROP ROLE {role}")
