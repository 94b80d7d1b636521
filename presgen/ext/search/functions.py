"""The functions of PostgreSQL that say what the words of a row are, and find rows by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ...sealing import PREFIX
from .subjects import SUBJECTS, Subject
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
FIND_OWN_TYPES: Final = "tsquery, tsquery, float8, bigint, int"


def create(database: Any, schema: str, collation: str) -> None:
    """Create the functions that are everybody's, or bring them to their newest state."""
    variants, letters = LOWER_VARIANTS
    words = {
        "schema": schema,
        "collation": collation,
        "separators": separators_for_postgresql(),
        "variants": variants,
        "letters": letters,
    }
    for statement in (_WORDS, _QUERY):
        database.execute_sql(statement.format(**words))
    for subject in SUBJECTS:
        parts = _parts(subject, schema)
        for statement in (_VECTOR, _NEWEST, _FIND):
            database.execute_sql(statement.format(**parts))


def create_own(database: Any, schema: str, subject: Subject) -> str:
    """Create the function for whoever sees their own rows only, anew; gives its name and types as SQL."""
    function = f"{schema}.presgen_find_own_{subject.table}({FIND_OWN_TYPES})"
    database.execute_sql(f"DROP FUNCTION IF EXISTS {function}")
    database.execute_sql(_FIND_OWN.format(schema=schema, table=subject.table))
    return function


def drop(database: Any, schema: str) -> None:
    """Drop the functions, which no index uses any more."""
    functions = ["presgen_query(text)", "presgen_words(text)"]
    for subject in SUBJECTS:
        types = ", ".join(["bigint", *["text"] * len(subject.columns)])
        functions += [
            f"presgen_find_own_{subject.table}({FIND_OWN_TYPES})",
            f"presgen_find_{subject.table}({_FIND_TYPES})",
            f"presgen_newest_{subject.table}({_NEWEST_TYPES})",
            f"presgen_vector_{subject.table}({types})",
        ]
    for function in functions:
        database.execute_sql(f"DROP FUNCTION IF EXISTS {schema}.{function}")


def vector(subject: Subject, schema: str, prefix: str = "") -> str:
    """The call that makes a row's vector; `prefix` is what stands before its columns."""
    columns = ", ".join(prefix + column for column in (subject.owner, *subject.columns))
    return f"{schema}.presgen_vector_{subject.table}({columns})"


def _parts(subject: Subject, schema: str) -> dict[str, Any]:
    return {
        "schema": schema,
        "table": subject.table,
        "parameters": ", ".join(f"{column} text" for column in subject.columns),
        "weighed": ", ".join(_weighed(subject, schema)),
        "word_max": WORD_MAX,
        "vector": vector(subject, schema, "t."),
        "is_alive": f"t.{subject.is_alive}",
        "ranked_max": RANKED_MAX,
    }


def _weighed(subject: Subject, schema: str) -> Iterator[str]:
    for number, (column, weight) in enumerate(zip(subject.columns, "ABC", strict=False)):
        value = _READABLE.format(column=column, length=len(PREFIX), sealed=PREFIX)
        yield _WEIGHED.format(schema=schema, value=value, weight=weight, base=number * _APART)
