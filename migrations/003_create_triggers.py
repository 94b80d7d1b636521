"""What must hold whoever writes: legal transitions, a record of each, updated_at, and users that can be deleted."""

import peewee as pw

ENDS = ("completed", "failed", "cancelled")

# presgen.status.TRANSITIONS as it stood when this was released.
TRANSITIONS = {
    "pending": ("processing_slides", "synthesizing_audio", "assembling_video", *ENDS),
    "processing_slides": ("synthesizing_audio", "pending", *ENDS),
    "synthesizing_audio": ("assembling_video", "pending", *ENDS),
    "assembling_video": ("pending", *ENDS),
    "completed": (),
    "failed": ("pending",),
    "cancelled": ("pending",),
}
LEGAL = " OR ".join(
    "(OLD.status = '{}' AND NEW.status IN ({}))".format(before, ", ".join(f"'{status}'" for status in after))
    for before, after in TRANSITIONS.items()
    if after
)
TABLES = ("users", "voice_clones", "presentation_jobs")

POSTGRESQL = (
    f"""
    CREATE FUNCTION presgen_guard_transition() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT ({LEGAL}) THEN
            RAISE EXCEPTION USING
                ERRCODE = 'check_violation',
                CONSTRAINT = 'valid_status_transition',
                TABLE = TG_TABLE_NAME,
                MESSAGE = format('job %%s cannot go from %%s to %%s', OLD.id, OLD.status, NEW.status);
        END IF;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER guard_transition BEFORE UPDATE ON presentation_jobs FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION presgen_guard_transition()
    """,
    """
    CREATE FUNCTION presgen_record_transition() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO job_events (job_id, from_status, to_status, at, worker, attempt)
        VALUES (NEW.id, OLD.status, NEW.status, statement_timestamp(), COALESCE(NEW.worker, OLD.worker), NEW.attempt);
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER record_transition AFTER UPDATE ON presentation_jobs FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION presgen_record_transition()
    """,
    """
    CREATE FUNCTION presgen_touch() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at := statement_timestamp();
        RETURN NEW;
    END $$
    """,
    *(
        f"""
        CREATE TRIGGER touch BEFORE UPDATE ON {table} FOR EACH ROW
            WHEN (NEW.updated_at IS NOT DISTINCT FROM OLD.updated_at) EXECUTE FUNCTION presgen_touch()
        """
        for table in TABLES
    ),
    # Both keys of a job cascade or restrict from the same delete, in the order in which they were created;
    # with the jobs gone first, the order does not matter.
    """
    CREATE FUNCTION presgen_delete_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM presentation_jobs WHERE owner_id = OLD.id;
        RETURN OLD;
    END $$
    """,
    """
    CREATE TRIGGER delete_jobs BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION presgen_delete_jobs()
    """,
)

SQLITE = (
    f"""
    CREATE TRIGGER guard_transition BEFORE UPDATE ON presentation_jobs FOR EACH ROW
    WHEN OLD.status <> NEW.status AND NOT ({LEGAL})
    BEGIN
        SELECT RAISE(ABORT, 'valid_status_transition');
    END
    """,
    """
    CREATE TRIGGER record_transition AFTER UPDATE ON presentation_jobs FOR EACH ROW
    WHEN OLD.status <> NEW.status
    BEGIN
        INSERT INTO job_events (job_id, from_status, to_status, worker, attempt)
        VALUES (NEW.id, OLD.status, NEW.status, COALESCE(NEW.worker, OLD.worker), NEW.attempt);
    END
    """,
    *(
        f"""
        CREATE TRIGGER touch_{table} AFTER UPDATE ON {table} FOR EACH ROW
        WHEN NEW.updated_at = OLD.updated_at
        BEGIN
            UPDATE {table} SET updated_at = strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now') WHERE id = NEW.id;
        END
        """
        for table in TABLES
    ),
    """
    CREATE TRIGGER delete_jobs BEFORE DELETE ON users FOR EACH ROW
    BEGIN
        DELETE FROM presentation_jobs WHERE owner_id = OLD.id;
    END
    """,
)
SQLITE_NAMES = ("delete_jobs", *(f"touch_{table}" for table in TABLES), "record_transition", "guard_transition")
POSTGRESQL_FUNCTIONS = ("delete_jobs", "touch", "record_transition", "guard_transition")


def migrate(migrator, database, *, fake=False):
    for statement in SQLITE if isinstance(database, pw.SqliteDatabase) else POSTGRESQL:
        migrator.sql(statement)


def rollback(migrator, database, *, fake=False):
    if isinstance(database, pw.SqliteDatabase):
        for name in SQLITE_NAMES:
            migrator.sql(f"DROP TRIGGER {name}")
    else:
        for name in POSTGRESQL_FUNCTIONS:
            migrator.sql(f"DROP FUNCTION presgen_{name}() CASCADE")
