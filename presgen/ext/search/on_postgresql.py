"""Search on PostgreSQL: an expression's GIN index for each table, and functions that find rows by it.

A row's vector has, beside its words, the owner's id as a word that nobody can type, so that one index finds the words
within an owner's rows. Row-level security keeps a query from that index (the operator @@ is not leakproof), so whoever
sees their own rows only is answered by a function of a role that sees all, which looks at nobody else's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ...errors import ConfigurationError
from ...migrator import Migrator
from ...roles import give_function, quoted, schema_of
from ...sealing import PREFIX
from .query import Query
from .subjects import SUBJECTS, Subject, not_installed
from .words import LOWER_VARIANTS, WORD_MAX, separators_for_postgresql

_WORDS: Final = """
CREATE OR REPLACE FUNCTION {schema}.presgen_words(value text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT translate(
        lower(regexp_replace(value, '{separators}', ' ', 'g') COLLATE {collation}), '{variants}', '{letters}')
$$
"""
# Folded by the same rules as what it is compared with; operators have no letters.
_QUERY: Final = """
CREATE OR REPLACE FUNCTION {schema}.presgen_query(typed text) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT translate(lower(typed COLLATE {collation}), '{variants}', '{letters}')::tsquery
$$
"""
# The words with their places, straight into a tsvector: PostgreSQL's own parser would take 12e5ab for a number and a
# word. A tsvector refuses longer words, and has 256 places of each. The columns' places lie apart, or phrases would go
# on in the next one. In plpgsql, since a function of SQL would be inlined and its cost forgotten: the planner would
# rather make the vectors of many rows, in the order that is wanted, than look into the index.
_VECTOR: Final = """
CREATE OR REPLACE FUNCTION {schema}.presgen_vector_{table}(owner bigint, {parameters}) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 2000 AS $$
BEGIN
    RETURN (
        SELECT concat(string_agg(
            '''' || left(word, {word_max}) || ''':' || least(part.base + place, 16383) || part.weight, ' '
        ), ' ''@', owner, '''')::tsvector
        FROM (VALUES {weighed}) AS part (words, weight, base),
            unnest(string_to_array(part.words, ' ')) WITH ORDINALITY AS found (word, place)
        WHERE word <> ''
    );
END $$
"""
_WEIGHED: Final = "({schema}.presgen_words({value}), '{weight}', {base})"
_APART: Final = 2_000
_READABLE: Final = "coalesce(CASE WHEN left({column}, {length}) <> '{sealed}' THEN {column} END, '')"

# The newest rows that have the words, `page` of them. The planner's guesses at the beginnings of words can be wrong by
# far, so a few rows are looked at. Where many of them have the words, the rows are read from the newest on, which costs
# page / share times as much as making a vector; else by the index, which costs share * rows times as much as reading a
# row, and that is a twentieth of it.
_NEWEST: Final = """
CREATE OR REPLACE FUNCTION {schema}.presgen_newest_{table}(words tsquery, before_id bigint, page int)
RETURNS SETOF bigint LANGUAGE plpgsql STABLE
SET search_path = {schema}, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
DECLARE
    sample CONSTANT int := 12;
    share float8;
    ids bigint[];
BEGIN
    SELECT count(*)::float8 / sample INTO share
    FROM (
        SELECT {vector} AS vector
        FROM {table} AS t
        WHERE {is_alive} AND (before_id IS NULL OR t.id < before_id)
        ORDER BY t.id DESC
        LIMIT sample
    ) AS newest
    WHERE newest.vector @@ words;
    IF share * share * (SELECT reltuples FROM pg_class WHERE oid = '{table}'::regclass) > 20.0 * page THEN
        ids := ARRAY(
            SELECT newest.id
            FROM (
                SELECT t.id, {vector} AS vector
                FROM {table} AS t
                WHERE {is_alive} AND (before_id IS NULL OR t.id < before_id)
                ORDER BY t.id DESC
                LIMIT (4 * page / share)::bigint
            ) AS newest
            WHERE newest.vector @@ words
            ORDER BY newest.id DESC
            LIMIT page
        );
    END IF;
    IF cardinality(ids) = page THEN
        RETURN QUERY SELECT unnest(ids);
    ELSE
        RETURN QUERY
        SELECT t.id
        FROM {table} AS t
        WHERE {vector} @@ words AND {is_alive} AND (before_id IS NULL OR t.id < before_id)
        ORDER BY t.id + 0 DESC -- an order that no index has
        LIMIT page;
    END IF;
END $$
"""
# A page of ids, ranked by the words of `ranking`, or the newest first; `before_id` is the last one of the page before.
_FIND: Final = """
CREATE OR REPLACE FUNCTION {schema}.presgen_find_{table}(
    words tsquery, ranking tsquery, owner bigint, before_rank float8, before_id bigint, page int
) RETURNS TABLE (id bigint, rank float8)
LANGUAGE plpgsql STABLE SET search_path = {schema}, pg_temp AS $$
DECLARE
    wanted CONSTANT tsquery := CASE WHEN owner IS NULL THEN words ELSE words && format('''@%%s''', owner)::tsquery END;
BEGIN
    IF ranking IS NULL THEN
        RETURN QUERY SELECT newest, NULL::float8 FROM presgen_newest_{table}(wanted, before_id, page) AS newest;
    ELSE
        RETURN QUERY
        SELECT found.id, found.rank
        FROM (
            SELECT t.id, ts_rank({vector}, ranking)::float8 AS rank
            FROM {table} AS t
            WHERE t.id = ANY (ARRAY(SELECT presgen_newest_{table}(wanted, NULL, {ranked_max})))
        ) AS found
        WHERE before_id IS NULL OR (found.rank, found.id) < (before_rank, before_id)
        ORDER BY found.rank DESC, found.id DESC
        LIMIT page;
    END IF;
END $$
"""
# A rank takes some 30 microseconds, and a word may be in every row: only so many rows are ranked, the newest.
RANKED_MAX: Final = 1_000
_FIND_OWN: Final = """
CREATE OR REPLACE FUNCTION {schema}.presgen_find_own_{table}(
    words tsquery, ranking tsquery, before_rank float8, before_id bigint, page int
) RETURNS TABLE (id bigint, rank float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
    SELECT found.*
    FROM (SELECT nullif(current_setting('presgen.user_id', true), '')::bigint AS id) AS me,
        presgen_find_{table}(words, ranking, me.id, before_rank, before_id, page) AS found
    WHERE me.id IS NOT NULL
$$
"""
_NEWEST_TYPES: Final = "tsquery, bigint, int"
_FIND_TYPES: Final = "tsquery, tsquery, bigint, float8, bigint, int"
_FIND_OWN_TYPES: Final = "tsquery, tsquery, float8, bigint, int"

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
    AND NOT EXISTS (
        SELECT 1 FROM pg_policy, unnest(polroles) AS role
        WHERE polrelid = searched.oid AND polpermissive AND pg_get_expr(polqual, polrelid) = 'true'
            AND (role = 0 OR pg_has_role(role, 'USAGE')))
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
CREATE INDEX {concurrently} IF NOT EXISTS {index} ON {schema}.{table}
USING gin ({schema}.presgen_vector_{table}({owner}, {columns})) WITH (fastupdate = off)
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
    schema, collation, before = schema_of(database), _collation(database), _sources(database)
    variants, letters = LOWER_VARIANTS
    words = {
        "schema": schema,
        "collation": collation,
        "separators": separators_for_postgresql(),
        "variants": variants,
        "letters": letters,
    }
    for statement in (_WORDS, _QUERY):
        _execute(database, statement, **words)
    for subject in SUBJECTS:
        parts = {
            "schema": schema,
            "table": subject.table,
            "parameters": ", ".join(f"{column} text" for column in subject.columns),
            "weighed": ", ".join(_weighed(subject, schema)),
            "word_max": str(WORD_MAX),
            "vector": _vector(subject, schema, "t."),
            "is_alive": f"t.{subject.is_alive}",
            "ranked_max": str(RANKED_MAX),
        }
        _execute(database, _VECTOR, **parts)
        _execute(database, _NEWEST, **parts)
        _execute(database, _FIND, **parts)
        _make_find_own(database, subject, parts)
    if before and _sources(database) != before:  # an older version's index knows other words
        for subject in SUBJECTS:
            database.execute_sql(f"DROP INDEX IF EXISTS {schema}.{subject.index}")


def finish(database: Any) -> None:
    """Build the indexes, outside a transaction without blocking writers; one that was broken off is built anew."""
    schema = schema_of(database)
    with Migrator(database).exclusive():
        concurrently = "" if database.in_transaction() else "CONCURRENTLY"
        for subject in SUBJECTS:
            index = f"{schema}.{subject.index}"
            if database.execute_sql(_IS_VALID, (index,)).fetchone() == (False,):
                database.execute_sql(f"DROP INDEX {concurrently} {index}")
            columns = ", ".join(subject.columns)
            words = {"schema": schema, "table": subject.table, "owner": subject.owner, "columns": columns}
            _execute(database, _INDEX, index=subject.index, concurrently=concurrently, **words)
            database.execute_sql(
                f"ANALYZE {schema}.{subject.table}"
            )  # for the planner knows nothing of an index's words before


def uninstall(database: Any) -> None:
    """Drop indexes and functions."""
    (schema,) = database.execute_sql(_SCHEMA).fetchone()
    functions = ["presgen_query(text)", "presgen_words(text)"]
    for subject in SUBJECTS:
        database.execute_sql(f"DROP INDEX IF EXISTS {schema}.{subject.index}")
        types = ", ".join(["bigint", *["text"] * len(subject.columns)])
        functions += [
            f"presgen_find_own_{subject.table}({_FIND_OWN_TYPES})",
            f"presgen_find_{subject.table}({_FIND_TYPES})",
            f"presgen_newest_{subject.table}({_NEWEST_TYPES})",
            f"presgen_vector_{subject.table}({types})",
        ]
    for function in functions:
        database.execute_sql(f"DROP FUNCTION IF EXISTS {schema}.{function}")


def is_installed(database: Any) -> bool:
    """Whether every index is there and valid, and so what it rests on."""
    names = [subject.index for subject in SUBJECTS], [subject.table for subject in SUBJECTS]
    return bool(database.execute_sql(_PARTS, names).fetchone() == (len(SUBJECTS),))


def found_ids(
    database: Any,
    subject: Subject,
    query: Query,
    *,
    owner: int | None,
    ranked: bool,
    after: tuple[float | None, int] | None,
    limit: int,
) -> list[tuple[int, float | None]]:
    """A page of ids, each with its rank, if they are ranked; raises ConfigurationError where there is no index."""
    words, ranking = query.for_postgresql(), query.ranking_for_postgresql() if ranked else None
    page = (*(after or (None, None)), limit)
    facts = {"table": subject.table, "index": subject.index, "types": f"({_FIND_OWN_TYPES})"}
    schema, is_indexed, is_answered_apart = database.execute_sql(_HOW, facts).fetchone() or ("", False, False)
    if not is_indexed:
        raise not_installed()
    sql, values = _CALL, (words, ranking, owner, *page)
    if is_answered_apart:
        sql, values = _CALL_OWN, (words, ranking, *page)
    statement = sql.format(schema=schema, table=subject.table)
    return database.execute_sql(statement, values).fetchall()  # type: ignore[no-any-return]


def forget(_database: Any, _table: str, _column: str) -> None:
    """Nothing: the index follows the column; what it had of it before goes with REINDEX, after a VACUUM."""


def _make_find_own(database: Any, subject: Subject, parts: dict[str, str]) -> None:
    """Create, where there is tenancy, the function for whoever sees their own rows only."""
    found = database.execute_sql(_ROLES, (subject.table,)).fetchone()
    if found is None:
        return
    worker, others = found
    function = f"{parts['schema']}.presgen_find_own_{subject.table}({_FIND_OWN_TYPES})"
    database.execute_sql(f"DROP FUNCTION IF EXISTS {function}")
    _execute(database, _FIND_OWN, **parts)
    database.execute_sql(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    for role in quoted(database, *others):
        database.execute_sql(f"GRANT EXECUTE ON FUNCTION {function} TO {role}")
    give_function(database, function, worker)


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


def _weighed(subject: Subject, schema: str) -> Iterator[str]:
    for number, (column, weight) in enumerate(zip(subject.columns, "ABC", strict=False)):
        value = _READABLE.format(column=column, length=len(PREFIX), sealed=PREFIX)
        yield _WEIGHED.format(schema=schema, value=value, weight=weight, base=number * _APART)


def _vector(subject: Subject, schema: str, prefix: str) -> str:
    columns = ", ".join(prefix + column for column in (subject.owner, *subject.columns))
    return f"{schema}.presgen_vector_{subject.table}({columns})"


def _execute(database: Any, statement: str, **words: str) -> None:
    database.execute_sql(statement.format(**words))
