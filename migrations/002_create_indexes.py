"""The indexes that lists, lookups, foreign keys and the claim rest on."""

import peewee

UNFINISHED = "('pending', 'processing_slides', 'synthesizing_audio', 'assembling_video')"
RUNNING = "('processing_slides', 'synthesizing_audio', 'assembling_video')"

INDEXES = (
    "CREATE INDEX idx_users_name ON users (name)",
    "CREATE UNIQUE INDEX idx_users_email ON users (email) WHERE email IS NOT NULL",
    "CREATE INDEX idx_voice_clones_name ON voice_clones (name)",
    "CREATE INDEX idx_voice_clones_owner_name ON voice_clones (owner_id, name)",
    "CREATE UNIQUE INDEX idx_voice_clones_s3_path ON voice_clones (s3_path)",
    "CREATE INDEX idx_presentation_jobs_status ON presentation_jobs (status)",
    "CREATE INDEX idx_presentation_jobs_deleted ON presentation_jobs (status) WHERE deleted_at IS NOT NULL",
    "CREATE INDEX idx_presentation_jobs_voice_clone ON presentation_jobs (voice_clone_id)",
    "CREATE INDEX idx_presentation_jobs_owner_status ON presentation_jobs (owner_id, status)",
    "CREATE INDEX idx_presentation_jobs_created_at ON presentation_jobs (created_at DESC, id DESC)",
    "CREATE INDEX idx_presentation_jobs_claimable ON presentation_jobs (priority DESC, run_at, id) "
    "WHERE status = 'pending'",
    f"CREATE INDEX idx_presentation_jobs_running ON presentation_jobs (id) WHERE status IN {RUNNING}",
    "CREATE UNIQUE INDEX idx_presentation_jobs_idempotency_key ON presentation_jobs (owner_id, idempotency_key) "
    f"WHERE idempotency_key IS NOT NULL AND status IN {UNFINISHED}",
    "CREATE INDEX idx_job_events_job ON job_events (job_id, id)",
)


def migrate(migrator, database, *, fake=False):
    for index in INDEXES:
        migrator.sql(index)


SEALED = {
    True: "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name = 'encrypted_email_insert'",
    False: "SELECT conname FROM pg_constraint WHERE conname = 'encrypted_email' AND conrelid = to_regclass('users')",
}


IS_PARTITIONED = "SELECT FROM pg_class WHERE oid = to_regclass('presentation_jobs') AND relkind = 'p'"


def rollback(migrator, database, *, fake=False):
    is_sqlite = isinstance(database, peewee.SqliteDatabase)
    if not is_sqlite and database.execute_sql(IS_PARTITIONED).fetchone() is not None:
        raise peewee.OperationalError("jobs are partitioned, and the index of their keys would not come back")
    if database.execute_sql(SEALED[is_sqlite]).fetchone():  # their index is another one, which would not come back
        raise peewee.OperationalError("users' addresses are encrypted; run first: presgen uninstall encryption")
    for index in reversed(INDEXES):
        name = index.partition("INDEX ")[2].partition(" ")[0]
        migrator.sql(f"DROP INDEX {name}")
