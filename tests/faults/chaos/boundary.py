"""The boundary of a lease: at the very moment at which it expires, it still holds."""

from __future__ import annotations

import re
import threading
from typing import Any, Final

from presgen import PresentationJob
from presgen.context import session

from .history import BEGUN, TOLD, Entry, History

BOUNDARY: Final = "boundary"
"""How the tokens of jobs begin whose lease is brought to end exactly when expired leases are taken back."""

# One message to the server has one statement_timestamp(), however many statements are in it.
_EXPIRE_NOW: Final = """
SELECT set_config('chaos.boundary', '', false);
WITH held AS (
    UPDATE presentation_jobs SET lease_expires_at = statement_timestamp()
    WHERE id = %s AND attempt = %s AND worker = %s AND lease_expires_at > statement_timestamp()
    RETURNING lease_expires_at
)
SELECT set_config('chaos.boundary', lease_expires_at::text, false) FROM held;
"""
_MOMENT: Final = "SELECT nullif(current_setting('chaos.boundary', true), '')::timestamptz"
_one_at_a_time = threading.Lock()
_LOOKS_FOR_EXPIRED: Final = re.compile(r'"lease_expires_at" <')


def probe_the_boundary(job: Any, history: History) -> None:
    """Let the job's lease end at the moment of a rescue, and record that up to this moment it was held."""
    held = {"verb": "boundary", "job": job.id, "attempt": job.attempt, "worker": job.worker}
    history.write(Entry(phase=BEGUN, **held))
    database = PresentationJob._meta.database

    def expiring(sql: str, params: Any = None) -> Any:
        if _LOOKS_FOR_EXPIRED.search(sql):
            if "UPDATE" not in sql:  # the look that comes before, as if it had found another job's
                return execute_sql("SELECT 1")
            sql, params = _EXPIRE_NOW + sql, [job.id, job.attempt, job.worker, *(params or ())]
        return execute_sql(sql, params)

    with session(database):
        with _one_at_a_time:
            execute_sql, database.execute_sql = database.execute_sql, expiring
            try:
                PresentationJob.reap()
            finally:
                database.execute_sql = execute_sql
        ((moment,),) = database.execute_sql(_MOMENT).fetchall()
    if moment is not None:
        history.write(Entry(phase=TOLD, lease=moment, **held))
