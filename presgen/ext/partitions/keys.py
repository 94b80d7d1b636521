"""One unfinished job for an idempotency key, over all partitions: the keys that are held, in a table of their own.

PostgreSQL knows no unique index over partitions that has not the column by which they are divided. Triggers write down
who holds which key, and the unique index of that table has the name of the index that it stands for.
"""

from __future__ import annotations

from typing import Any, Final

from ...roles import IS_ADMITTED_TO_ALL
from ...status import UNFINISHED
from .belongings import give_to_owner_of
from .ranges import JOBS, partitions_of

KEYS: Final = "presgen_idempotency_keys"
INDEX: Final = "idx_presentation_jobs_idempotency_key"
TRIGGER: Final = "presgen_hold_key"

_STATES: Final = ", ".join(f"'{status.value}'" for status in UNFINISHED)
_HOLDS: Final = "({row}.idempotency_key IS NOT NULL AND {row}.status IN (" + _STATES + "))"
_HELD, _HOLDS_NOW = _HOLDS.format(row="OLD"), _HOLDS.format(row="NEW")
_TABLE: Final = f"""
CREATE TABLE IF NOT EXISTS {KEYS} (
    owner_id bigint NOT NULL, idempotency_key varchar(255) NOT NULL, job_id bigint NOT NULL)
"""
_INDEX: Final = f"CREATE UNIQUE INDEX IF NOT EXISTS {INDEX} ON {KEYS} (owner_id, idempotency_key)"
# Whoever may write a job may not write here, but for the function, which has its owner's rights. A key whose holder
# is finished or gone, without the triggers' knowledge, goes to who asks for it. The row is locked before its holder is
# looked at, each in a statement of its own, so that the look sees what others have committed; under a snapshot that
# is older, PostgreSQL refuses to lock what has changed since. A holder that policies hide is not gone.
_FUNCTION: Final = """
CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
DECLARE
    holder bigint;
    is_held boolean;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM {keys};
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM {keys}
        WHERE owner_id = OLD.owner_id AND idempotency_key = OLD.idempotency_key AND job_id = OLD.id;
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN NULL;
    END IF;
    WHILE {holds_now} LOOP
        INSERT INTO {keys} VALUES (NEW.owner_id, NEW.idempotency_key, NEW.id) ON CONFLICT DO NOTHING;
        EXIT WHEN FOUND;
        SELECT job_id INTO holder FROM {keys}
        WHERE owner_id = NEW.owner_id AND idempotency_key = NEW.idempotency_key FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        SELECT owner_id = NEW.owner_id AND idempotency_key = NEW.idempotency_key AND {holds} INTO is_held
        FROM {jobs} AS job WHERE id = holder;
        IF NOT FOUND AND row_security_active('{jobs}') AND NOT {is_admitted} THEN
            RAISE EXCEPTION USING
                ERRCODE = 'insufficient_privilege',
                MESSAGE = 'the owner of {name}() does not see all jobs: make it a member of the worker role';
        END IF;
        IF is_held AND holder <> NEW.id THEN
            RAISE EXCEPTION USING
                ERRCODE = 'unique_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = '{jobs}', CONSTRAINT = '{index}',
                MESSAGE = 'another unfinished job of the owner has the idempotency key',
                DETAIL = format('Key (owner_id, idempotency_key)=(%%s, %%s) is held by job %%s.',
                    NEW.owner_id, NEW.idempotency_key, holder);
        END IF;
        UPDATE {keys} SET job_id = NEW.id
        WHERE owner_id = NEW.owner_id AND idempotency_key = NEW.idempotency_key;
        EXIT;
    END LOOP;
    RETURN NULL;
END $$
"""
_EVENTS: Final = {
    "insert": f"AFTER INSERT ON {JOBS} FOR EACH ROW WHEN {_HOLDS_NOW}",
    "update": f"AFTER UPDATE ON {JOBS} FOR EACH ROW WHEN ("
    f"{_HELD} IS DISTINCT FROM {_HOLDS_NOW} OR OLD.idempotency_key IS DISTINCT FROM NEW.idempotency_key "
    "OR OLD.owner_id <> NEW.owner_id OR OLD.id <> NEW.id)",
    "delete": f"AFTER DELETE ON {JOBS} FOR EACH ROW WHEN {_HELD}",
    "truncate": f"AFTER TRUNCATE ON {JOBS} FOR EACH STATEMENT",
}
_EMPTY: Final = "DELETE FROM {keys}"
# By the index of the status, for few are unfinished.
_FILL: Final = """
INSERT INTO {keys}
SELECT owner_id, idempotency_key, id FROM {partition} AS job WHERE {holds}
"""
_OWNER: Final = "SELECT quote_ident(pg_get_userbyid(relowner)) FROM pg_class WHERE oid = to_regclass(%s)"
_SOURCE: Final = "SELECT prosrc FROM pg_proc WHERE oid = to_regprocedure(%s)"
_PARTS: Final = """
SELECT (SELECT count(*) FROM pg_trigger
        WHERE tgrelid = to_regclass(%s) AND tgname = ANY (%s) AND tgenabled IN ('O', 'A')
            AND tgfoid = to_regprocedure(%s)),
    (SELECT count(*) FROM pg_index
        WHERE indexrelid = to_regclass(%s) AND indrelid = to_regclass(%s) AND indisunique AND indisvalid)
"""
TRIGGERS: Final = [f"{TRIGGER}_{event}" for event in _EVENTS]


def guard(database: Any, schema: str) -> None:
    """Make the table and the triggers, or make them again, and write down who holds which key.

    Nobody else may be at work on the jobs. Raises ConstraintViolation for two unfinished jobs with one key.
    """
    holds = _HOLDS.format(row="job")
    database.execute_sql(_TABLE)
    database.execute_sql(_INDEX)
    give_to_owner_of(database, JOBS, KEYS)
    database.execute_sql(_function(schema))
    database.execute_sql(f"REVOKE ALL ON FUNCTION {TRIGGER}() FROM PUBLIC")
    ((owner,),) = database.execute_sql(_OWNER, (JOBS,)).fetchall()
    database.execute_verbatim(f"ALTER FUNCTION {TRIGGER}() OWNER TO {owner}")
    for name, event in zip(TRIGGERS, _EVENTS.values(), strict=True):
        database.execute_sql(f"DROP TRIGGER IF EXISTS {name} ON {JOBS}")
        database.execute_sql(f"CREATE TRIGGER {name} {event} EXECUTE FUNCTION {TRIGGER}()")
    database.execute_sql(_EMPTY.format(keys=KEYS))
    database.execute_sql("SET LOCAL row_security = off")  # an error, where a part of the rows only would be seen
    for partition in partitions_of(database, JOBS):
        database.execute_sql(_FILL.format(keys=KEYS, partition=partition.name, holds=holds))


def _function(schema: str) -> str:
    words = {"name": TRIGGER, "keys": KEYS, "jobs": JOBS, "index": INDEX, "schema": schema}
    is_admitted = IS_ADMITTED_TO_ALL.replace("%(table)s", f"'{JOBS}'")
    return _FUNCTION.format(**words, holds=_HOLDS.format(row="job"), holds_now=_HOLDS_NOW, is_admitted=is_admitted)


def is_function_current(database: Any) -> bool:
    """Whether the function is this version's."""
    found = database.execute_sql(_SOURCE, (f"{TRIGGER}()",)).fetchone()
    return found is not None and found[0] == _function("").replace("%%", "%").split("$$")[1]


def are_guarded(database: Any) -> bool:
    """Whether every trigger and the unique index are there, and at work."""
    parts = database.execute_sql(_PARTS, (JOBS, TRIGGERS, f"{TRIGGER}()", INDEX, KEYS)).fetchone()
    return bool(parts == (len(TRIGGERS), 1))
