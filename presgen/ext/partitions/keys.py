"""One unfinished job for an owner's idempotency key, also when two of them would be in two partitions.

Within a partition its unique index sees to that. PostgreSQL has none over several partitions unless it has the id, so
that a trigger looks into the others, one at a time for the same key.
"""

from __future__ import annotations

from typing import Any, Final

from ...status import UNFINISHED

_UNFINISHED: Final = ", ".join(f"'{status.value}'" for status in UNFINISHED)
_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION presgen_one_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.owner_id || ' ' || NEW.idempotency_key, 0));
    IF EXISTS (
        SELECT 1 FROM presentation_jobs
        WHERE owner_id = NEW.owner_id AND idempotency_key = NEW.idempotency_key AND status IN ({unfinished})
            AND id <> NEW.id AND tableoid <> TG_RELID)
    THEN
        RAISE EXCEPTION USING
            ERRCODE = 'unique_violation',
            CONSTRAINT = 'idx_presentation_jobs_idempotency_key',
            TABLE = 'presentation_jobs',
            MESSAGE = 'duplicate key value violates unique constraint "idx_presentation_jobs_idempotency_key"';
    END IF;
    RETURN NEW;
END $$
"""
_TRIGGER: Final = """
CREATE TRIGGER presgen_one_key BEFORE INSERT OR UPDATE OF status, idempotency_key ON presentation_jobs FOR EACH ROW
WHEN (NEW.idempotency_key IS NOT NULL AND NEW.status IN ({unfinished}))
EXECUTE FUNCTION presgen_one_key()
"""
_INDEX: Final = """
CREATE UNIQUE INDEX {name} ON {partition} (owner_id, idempotency_key)
WHERE idempotency_key IS NOT NULL AND status IN ({unfinished})
"""


def guard(database: Any) -> None:
    """Create the trigger."""
    database.execute_sql(_FUNCTION.format(unfinished=_UNFINISHED))
    database.execute_sql(_TRIGGER.format(unfinished=_UNFINISHED))


def create_index(database: Any, partition: str) -> None:
    """The unique index of one partition."""
    database.execute_sql(_INDEX.format(name=f"{partition}_key", partition=partition, unfinished=_UNFINISHED))
