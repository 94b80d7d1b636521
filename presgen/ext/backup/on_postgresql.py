"""Backups of PostgreSQL: pg_dump in a snapshot, of which each table's fingerprint is taken as well."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psycopg2
from psycopg2 import sql

from ...config import DatabaseConfig
from ...embedded import EmbeddedServer
from ...errors import BackupError, ConfigurationError
from ...roles import require_all_rows
from .manifest import SUFFIXES, Fingerprint, Manifest
from .programs import find_program, run_program
from .steps import Progress, Steps

SUFFIX: Final = SUFFIXES[0]
_MIN_EMBEDDED: Final = 16
_MAX_EMBEDDED: Final = 18

# Text that says all of a value, whatever the login's settings are; no deadline, for tables may be large.
_EXACT: Final = """
SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'iso_8601'; SET extra_float_digits = 1;
SET bytea_output = 'hex'; SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
SET row_security = on; SET search_path = pg_catalog
"""
# Every table of every schema, but what extensions own: partitions, not their parents.
_TABLES: Final = r"""
SELECT format('%I.%I', nspname, relname), row_security_active(pg_class.oid)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND relpersistence <> 't' AND nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
    AND NOT EXISTS (
        SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e')
ORDER BY 1
"""
_FINGERPRINT: Final = """
SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint::numeric), 0)::text
FROM ONLY {table} AS t
"""
_ROLES: Final = """
SELECT DISTINCT rolname::text
FROM pg_shdepend JOIN pg_roles ON pg_roles.oid = refobjid
WHERE refclassid = 'pg_authid'::regclass AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY 1
"""
_FACTS: Final = """
SELECT current_setting('server_version_num')::int / 10000, pg_encoding_to_char(encoding), datcollate
FROM pg_database
WHERE datname = current_database()
"""
# Anything that a restore would meet: relations, functions and types that are no extension's.
_THINGS: Final = r"""
SELECT format('%I.%I', nspname, name)
FROM (
    SELECT relnamespace AS space, relname AS name, oid, 'pg_class'::regclass AS class
    FROM pg_class
    WHERE relkind NOT IN ('i', 'I', 't')
    UNION ALL SELECT pronamespace, proname, oid, 'pg_proc'::regclass FROM pg_proc
) AS thing JOIN pg_namespace ON pg_namespace.oid = space
WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
    AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = class AND objid = thing.oid AND deptype = 'e')
ORDER BY 1
LIMIT 1
"""


@dataclass(frozen=True)
class Facts:
    """What a manifest has to know of a database beside its tables."""

    tables: dict[str, Fingerprint]
    version: int
    encoding: str
    locale: str
    roles: tuple[str, ...]
    program: int


def dump(database: Any, target: Path, progress: Progress | None) -> Facts:
    """Dump the database into a file; the fingerprints are those of the same snapshot."""
    login = database.config.connect_parameters()
    with _connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(_EXACT)
        _begin_with_locks(cursor)
        cursor.execute("SELECT pg_export_snapshot()")
        (snapshot,) = cursor.fetchone()
        cursor.execute(_FACTS)
        version, encoding, locale = cursor.fetchone()
        cursor.execute(_ROLES)
        roles = tuple(name for (name,) in cursor.fetchall())
        cursor.execute(_TABLES)
        tables = cursor.fetchall()
        for table, is_filtered in tables:
            if is_filtered:
                require_all_rows(database, table)
        steps = Steps(progress, 2 * len(tables))
        prints = {table: _fingerprint(cursor, table, steps) for table, _ in tables}
        words = ["--format=custom", "--verbose", f"--snapshot={snapshot}", "--file", str(target)]
        if any(is_filtered for _, is_filtered in tables):
            words.append("--enable-row-security")
        program, program_version = find_program("pg_dump", at_least=version)
        run_program(
            program,
            *words,
            login=login,
            on_line=lambda line: steps.step() if "dumping contents of table" in line else None,
        )
    return Facts(prints, version, encoding, locale, roles, program_version)


def _begin_with_locks(cursor: Any) -> None:
    """Begin the transaction of the snapshot, with every table locked before: a TRUNCATE after it would show in it."""
    cursor.execute(_TABLES)
    tables = [table for table, _ in cursor.fetchall()]
    cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    if tables:
        cursor.execute(f"LOCK TABLE {', '.join(tables)} IN ACCESS SHARE MODE")  # which takes no snapshot


def restore(
    config: DatabaseConfig, source: Path, manifest: Manifest, progress: Progress | None, *, keep_owners: bool
) -> None:
    """Load a backup into an empty database, in one transaction, and compare it with what was saved."""
    login = config.connect_parameters()
    with _connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(_THINGS)
        found = cursor.fetchone()
        if found is not None:
            raise BackupError(f"{config.safe_url} is not empty: it has {found[0]}; restore into a new database")
        if keep_owners:
            _require_roles(cursor, manifest)
    _load(login, source, manifest, progress, ["--single-transaction"], keep_owners=keep_owners)


def verify(config: DatabaseConfig | None, source: Path, manifest: Manifest, progress: Progress | None) -> None:
    """Load a backup into a scratch database, of that server or of one made for it, and compare it."""
    with ExitStack() as stack:
        login = stack.enter_context(_embedded(manifest)) if config is None else config.connect_parameters()
        scratch = stack.enter_context(_scratch_database(login, manifest))
        _load(scratch, source, manifest, progress, [], keep_owners=False)


def _load(
    login: Mapping[str, Any],
    source: Path,
    manifest: Manifest,
    progress: Progress | None,
    words: list[str],
    *,
    keep_owners: bool,
) -> None:
    steps = Steps(progress, 2 * len(manifest.tables))
    if not keep_owners:
        words = [*words, "--no-owner", "--no-privileges"]
    run_program(
        find_program("pg_restore", at_least=max(manifest.version, manifest.program))[0],
        "--exit-on-error",
        "--verbose",
        *words,
        str(source),
        login=login,
        on_line=lambda line: steps.step() if "processing data for table" in line else None,
    )
    with _connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(_EXACT)
        cursor.execute(_TABLES)
        restored = {table: _fingerprint(cursor, table, steps) for table, _ in cursor.fetchall()}
    manifest.require_equal(restored)


def _fingerprint(cursor: Any, table: str, steps: Steps) -> Fingerprint:
    cursor.execute(_FINGERPRINT.format(table=table))
    steps.step()
    return Fingerprint(*cursor.fetchone())


def _require_roles(cursor: Any, manifest: Manifest) -> None:
    cursor.execute("SELECT rolname::text FROM pg_roles WHERE rolname = ANY (%s)", (list(manifest.roles),))
    missing = sorted({*manifest.roles} - {name for (name,) in cursor.fetchall()})
    if missing:
        raise ConfigurationError(
            f"the backup's things belong to roles that this server does not have: {', '.join(missing)}; create them "
            "first (presgen roles create), or restore without owners and rights (--no-owners)"
        )


@contextmanager
def _connected(login: Mapping[str, Any]) -> Iterator[Any]:
    """A connection of its own: pools and PgBouncer give a transaction no more than their deadlines."""
    try:
        connection = psycopg2.connect(**login)
    except psycopg2.OperationalError as error:
        raise BackupError(f"the server does not answer: {str(error).strip().splitlines()[-1]}") from None
    with closing(connection):
        connection.autocommit = True
        try:
            yield connection
        except psycopg2.Error as error:
            said = getattr(error.diag, "message_primary", None) or type(error).__name__
            raise BackupError(f"the server refused: {said}") from None


@contextmanager
def _scratch_database(login: Mapping[str, Any], manifest: Manifest) -> Iterator[dict[str, Any]]:
    """A new database on the server, dropped at the end."""
    name = f"presgen_verify_{secrets.token_hex(6)}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}").format(
        sql.Identifier(name), sql.Literal(manifest.encoding), sql.Literal(manifest.locale), sql.Literal(manifest.locale)
    )
    with _connected(login) as connection, connection.cursor() as cursor:
        cursor.execute(create)
    try:
        yield {**login, "dbname": name}
    finally:
        with _connected(login) as connection, connection.cursor() as cursor:
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def _embedded(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """The login of a server that is there for the block alone, with the roles that the backup's policies name."""
    if manifest.version > _MAX_EMBEDDED:
        raise ConfigurationError(f"no embedded server can read a backup of PostgreSQL {manifest.version}")
    version = _MIN_EMBEDDED if manifest.version <= _MIN_EMBEDDED else _MAX_EMBEDDED
    with TemporaryDirectory(prefix="presgen-verify-") as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder) / "server", version=version, settings={"fsync": "off"}) as server:
            login = DatabaseConfig(server.url).connect_parameters()
            with _connected(login) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT rolname::text FROM pg_roles")
                there = {name for (name,) in cursor.fetchall()}
                for role in manifest.roles:
                    if role not in there:
                        cursor.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            yield login
