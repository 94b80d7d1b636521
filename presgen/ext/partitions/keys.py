"""One unfinished job for an idempotency key, over all partitions: the keys that are held, in a table of their own.

PostgreSQL knows no unique index over partitions that has not the column by which they are divided. Triggers write down
who holds which key, and the unique index of that table has the name of the index that it stands for.
"""

from __future__ import annotations

from typing import Any, Final

from ...status import UNFINISHED
from .belongings import give_to_owner_of
from .changing import seeing_all
from .ranges import JOBS, partitions_of

KEYS: Final = "presgen_idempotency_keys"
INDEX: Final = "idx_presentation_jobs_idempotency_key"
TRIGGER: Final = "presgen_hold_key"

_STATES: Final = ", ".join(f"'{status.value}'" for status in UNFINISHED)
_HOLDS: Final = "({row}.idempotency_key IS NOT NULL AND {row}.status IN (" + _STATES + "))"
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS {KEYS} (
    owner_id bigint NOT NULL, idempotency_key varchar(255) NOT NULL, job_id bigint NOT NULL)
"""
_INDEX: Final = f"CREATE UNIQUE INDEX IF NOT EXISTS {INDEX} ON {KEYS} (owner_id, idempotency_key)"
# Whoever may write a job may not write here, but for the function, which has its owner's rights. It leaves it to
# ON CONFLICT to wait for somebody whose transaction is not over, and to refuse what that one's snapshot cannot see.
_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION presgen_hold_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM {keys};
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM {keys}
        WHERE owner_id = OLD.owner_id AND idempotency_key = OLD.idempotency_key AND job_id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        IF {holds_now} THEN
            INSERT INTO {keys} VALUES (NEW.owner_id, NEW.idempotency_key, NEW.id) ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'unique_violation', TABLE = '{jobs}', CONSTRAINT = '{index}',
                    MESSAGE = 'another unfinished job of the owner has the idempotency key';
            END IF;
        END IF;
    END IF;
    RETURN NULL;
END $$
"""
_HELD, _HOLDS_NOW = _HOLDS.format(row="OLD"), _HOLDS.format(row="NEW")
_EVENTS: Final = {
    "insert": f"AFTER INSERT ON {JOBS} FOR EACH ROW WHEN {_HOLDS_NOW}",
    "update": f"AFTER UPDATE ON {JOBS} FOR EACH ROW WHEN ("
    f"{_HELD} IS DISTINCT FROM {_HOLDS_NOW} OR OLD.idempotency_key IS DISTINCT FROM NEW.idempotency_key "
    "OR OLD.owner_id <> NEW.owner_id OR OLD.id <> NEW.id)",
    "delete": f"AFTER DELETE ON {JOBS} FOR EACH ROW WHEN {_HELD}",
    "truncate": f"AFTER TRUNCATE ON {JOBS} FOR EACH STATEMENT",
}
_EMPTY: Final = "DELETE FROM {keys}"
_FILL: Final = """
INSERT INTO {keys}
SELECT owner_id, idempotency_key, id FROM {partition} AS job WHERE {holds}
"""
_OWNER: Final = "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(%s)"
_PARTS: Final = """
SELECT (SELECT count(*) FROM pg_trigger
        WHERE tgrelid = to_regclass(%s) AND tgname LIKE %s AND tgenabled IN ('O', 'A')
            AND tgfoid = to_regprocedure('presgen_hold_key()')),
    (SELECT count(*) FROM pg_index
        WHERE indexrelid = to_regclass(%s) AND indrelid = to_regclass(%s) AND indisunique AND indisvalid)
"""


def guard(database: Any, schema: str) -> None:
    """Make the table and the triggers, or make them again, and write down who holds which key."""
    database.execute_sql(f"LOCK TABLE {JOBS} IN SHARE ROW EXCLUSIVE MODE")
    database.execute_sql(_TABLE)
    database.execute_sql(_INDEX)
    words = {"schema": schema, "keys": KEYS, "jobs": JOBS, "index": INDEX, "holds_now": _HOLDS_NOW}
    database.execute_sql(_FUNCTION.format(**words))
    database.execute_sql("REVOKE ALL ON FUNCTION presgen_hold_key() FROM PUBLIC")
    give_to_owner_of(database, JOBS, KEYS)
    ((owner,),) = database.execute_sql(_OWNER, (KEYS,)).fetchall()
    database.execute_verbatim(f"ALTER FUNCTION presgen_hold_key() OWNER TO {owner}")
    for event, statement in _EVENTS.items():
        database.execute_sql(f"DROP TRIGGER IF EXISTS {TRIGGER}_{event} ON {JOBS}")
        database.execute_sql(f"CREATE TRIGGER {TRIGGER}_{event} {statement} EXECUTE FUNCTION presgen_hold_key()")
    database.execute_sql(_EMPTY.format(keys=KEYS))
    with seeing_all(database):
        for partition in partitions_of(database, JOBS):
            holds = _HOLDS.format(row="job")
            database.execute_sql(_FILL.format(keys=KEYS, partition=partition.name, holds=holds))


def are_guarded(database: Any) -> bool:
    """Whether every trigger and the unique index are there, and at work."""
    pattern = TRIGGER.replace("_", r"\_") + r"\_%"
    return bool(database.execute_sql(_PARTS, (JOBS, pattern, INDEX, KEYS)).fetchone() == (len(_EVENTS), 1))
