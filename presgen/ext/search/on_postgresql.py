"""Search on PostgreSQL: an expression's GIN index for each table, and functions that find rows by it.

A row's vector has, beside its words, the owner's id as a word that nobody can type, so that one index finds the words
within an owner's rows. Row-level security keeps a query from that index (the operator @@ is not leakproof), so whoever
sees their own rows only is answered by a function of a role that sees all, which looks at nobody else's.
"""

from __future__ import annotations

from typing import Any, Final, cast

from ...errors import ConfigurationError
from ...migrating.concurrent import Concurrent, concurrent
from ...migrating.turns import exclusive
from ...roles import IS_ADMITTED_TO_ALL, give_function, quoted, schema_of
from . import functions
from .page import Page
from .query import Query
from .subjects import SUBJECTS, Subject, not_installed

_CALL: Final = """
SELECT id, rank
FROM {schema}.presgen_find_{table}({schema}.presgen_query(%s), {schema}.presgen_query(%s), %s, %s, %s, %s)
"""
_CALL_OWN: Final = """
SELECT id, rank
FROM {schema}.presgen_find_own_{table}({schema}.presgen_query(%s), {schema}.presgen_query(%s), %s, %s, %s)
"""
# The schema; whether the index is there; and whether policies let this login see some rows only, and it may call the
# function that finds them by the index.
_HOW: Final = """
SELECT relnamespace::regnamespace::text,
    EXISTS (
        SELECT 1 FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
        WHERE indrelid = searched.oid AND index.relname = %(index)s AND indisvalid),
    row_security_active(searched.oid)
    AND coalesce(has_function_privilege(to_regprocedure(
        relnamespace::regnamespace::text || '.presgen_find_own_' || %(table)s || %(types)s), 'EXECUTE'), false)
    AND NOT {is_admitted}
FROM pg_class AS searched
WHERE oid = to_regclass(%(table)s)
"""

_COLLATIONS: Final = """
SELECT quote_ident(nspname) || '.' || quote_ident(collname)
FROM pg_collation JOIN pg_namespace ON pg_namespace.oid = collnamespace
WHERE collnamespace = 'pg_catalog'::regnamespace AND collencoding IN (-1, pg_char_to_encoding('UTF8'))
    AND collname IN ('default', 'pg_c_utf8', 'C.utf8', 'C.UTF-8', 'en_US.utf8', 'en_US.UTF-8')
ORDER BY collname = 'default' DESC, collname DESC
"""
# A sample of what a search has to find in any case.
_FOLDS: Final = "SELECT lower('\u00c4\u0416\u03a3I' COLLATE {collation}) = '\u00e4\u0436\u03c3i'"
# Without fastupdate every write is in the index at once, and no search has to read a list of what is not.
_INDEX: Final = """
CREATE INDEX CONCURRENTLY {index} ON {schema}.{table}
USING gin ({vector}) WITH (fastupdate = off)
"""
_SOURCES: Final = r"""
SELECT oid::regprocedure::text, prosrc
FROM pg_proc
WHERE pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('users'))
    AND (proname = 'presgen_words' OR proname LIKE 'presgen\_vector\_%%')
ORDER BY 1
"""
_IS_VALID: Final = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
_PARTS: Final = """
SELECT count(*)
FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
    JOIN unnest(%s::text[], %s::text[]) AS wanted (name, of_table)
        ON index.relname = wanted.name AND indrelid = to_regclass(wanted.of_table)
WHERE indisvalid
"""
_SCHEMA: Final = """
SELECT coalesce(
    (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('users')),
    quote_ident(current_schema()))
"""
# The role that tenancy admits to all rows, and the others that may look for a user by an address.
_ROLES: Final = """
SELECT rolname::text, ARRAY(
    SELECT other.rolname::text
    FROM pg_proc, aclexplode(proacl) AS granted JOIN pg_roles AS other ON other.oid = granted.grantee
    WHERE pg_proc.oid = to_regprocedure('presgen_find_user(text)') AND granted.grantee <> proowner)
FROM pg_policy JOIN pg_roles ON pg_roles.oid = ANY (polroles)
WHERE polrelid = to_regclass(%s) AND polpermissive AND pg_get_expr(polqual, polrelid) = 'true'
LIMIT 1
"""


def install(database: Any) -> None:
    """Create the functions; the indexes come with finish()."""
    schema, before = schema_of(database), _sources(database)
    functions.create(database, schema, _collation(database))
    for subject in SUBJECTS:
        _let_everybody_find_their_own(database, schema, subject)
    if before and _sources(database) != before:  # an older version's index knows other words
        _drop_indexes(database, schema)


def finish(database: Any) -> None:
    """Build the indexes, outside a transaction without blocking writers; one that was broken off is built anew."""
    schema = schema_of(database)
    with exclusive(database):
        for subject in SUBJECTS:
            if database.execute_sql(_IS_VALID, (f"{schema}.{subject.index}",)).fetchone() != (True,):
                words = {"schema": schema, "table": subject.table, "vector": functions.vector(subject, schema)}
                _build(database, schema, subject.index, _INDEX.format(index=subject.index, **words))
            # Of an index's words the planner knows nothing before.
            database.execute_sql(f"ANALYZE {schema}.{subject.table}")


def _build(database: Any, schema: str, index: str, statement: str) -> None:
    if database.in_transaction():
        database.execute_sql(f"DROP INDEX IF EXISTS {schema}.{index}")
        database.execute_sql(statement.replace("CONCURRENTLY", ""))
    else:
        cast(Concurrent, concurrent(statement)).run(database.execute_sql)


def uninstall(database: Any) -> None:
    """Drop indexes and functions."""
    (schema,) = database.execute_sql(_SCHEMA).fetchone()
    _drop_indexes(database, schema)
    functions.drop(database, schema)


def is_installed(database: Any) -> bool:
    """Whether every index is there and valid, and so what it rests on."""
    names = [subject.index for subject in SUBJECTS], [subject.table for subject in SUBJECTS]
    return bool(database.execute_sql(_PARTS, names).fetchone() == (len(SUBJECTS),))


def found_ids(database: Any, subject: Subject, query: Query, page: Page) -> list[tuple[int, float | None]]:
    """A page of ids, each with its rank, if they are ranked; raises ConfigurationError where there is no index."""
    words, ranking = query.for_postgresql(), query.ranking_for_postgresql() if page.is_ranked else None
    place = (page.before_rank, page.before_id, page.limit)
    facts = {"table": subject.table, "index": subject.index, "types": f"({functions.FIND_OWN_TYPES})"}
    how = database.execute_sql(_HOW.format(is_admitted=IS_ADMITTED_TO_ALL), facts).fetchone()
    schema, is_indexed, is_answered_apart = how or ("", False, False)
    if not is_indexed:
        raise not_installed()
    owner = () if is_answered_apart else (page.owner_id,)
    statement = (_CALL_OWN if is_answered_apart else _CALL).format(schema=schema, table=subject.table)
    return database.execute_sql(statement, (words, ranking, *owner, *place)).fetchall()  # type: ignore[no-any-return]


def forget(_database: Any, _table: str, _column: str) -> None:
    """Nothing: the index follows the column; what it had of it before goes with REINDEX, after a VACUUM."""


def _let_everybody_find_their_own(database: Any, schema: str, subject: Subject) -> None:
    """Create, where there is tenancy, the function for whoever sees their own rows only."""
    found = database.execute_sql(_ROLES, (subject.table,)).fetchone()
    if found is None:
        return
    worker, others = found
    function = functions.create_own(database, schema, subject)
    database.execute_sql(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    for role in quoted(database, *others):
        database.execute_sql(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")
    give_function(database, function, worker)


def _drop_indexes(database: Any, schema: str) -> None:
    for subject in SUBJECTS:
        database.execute_sql(f"DROP INDEX IF EXISTS {schema}.{subject.index}")


def _sources(database: Any) -> list[tuple[str, str]]:
    """The functions that say what the words of a row are."""
    return database.execute_sql(_SOURCES).fetchall()  # type: ignore[no-any-return]


def _collation(database: Any) -> str:
    """A collation that knows lower case; raises ConfigurationError where the server has none."""
    if database.execute_sql("SHOW server_encoding").fetchone() == ("UTF8",):
        for (collation,) in database.execute_sql(_COLLATIONS).fetchall():
            if database.execute_sql(_FOLDS.format(collation=collation)).fetchone()[0]:
                return str(collation)
    raise ConfigurationError("search needs a database in UTF-8, and a collation such as C.utf8")
