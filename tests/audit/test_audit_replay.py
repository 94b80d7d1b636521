"""Replaying the audit log gives the rows that the tables have, whatever was written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.configuration
import pytest
from fixtures.effort import settings_for
from hypothesis import given
from hypothesis import strategies as st

from presgen import MODELS, DatabaseManager, PresentationJob, User, VoiceClone
from presgen.errors import ConstraintViolation
from presgen.ext import audit

_FILES_OF_HYPOTHESIS = TemporaryDirectory(prefix="presgen-hypothesis-")
hypothesis.configuration.set_hypothesis_home_dir(_FILES_OF_HYPOTHESIS.name)

TABLES = {"users": User, "voice_clones": VoiceClone, "presentation_jobs": PresentationJob}
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9).filter(
    lambda name: name.strip() and not name.startswith("enc@@1:")
)
FLOATS = st.floats(min_value=1e-3, max_value=300)
IDS = st.integers(1, 4)
STEPS = st.one_of(
    st.tuples(st.just("user"), IDS, NAMES, st.booleans()),
    st.tuples(st.just("voice"), IDS, IDS, FLOATS | st.none()),
    st.tuples(st.just("job"), IDS, IDS, st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.just("claim"), st.integers(1, 3)),
    st.tuples(st.just("renumber"), IDS, st.integers(50, 60)),
    st.tuples(st.just("delete"), st.sampled_from(sorted(TABLES)), IDS),
    st.tuples(st.just("truncate")),
)


def take(db: DatabaseManager, step: tuple[Any, ...]) -> None:
    """One write of some kind; a constraint may refuse it."""
    kind, *values = step
    if kind == "user":
        number, name, is_active = values
        row = {"id": number, "name": name, "is_active": is_active}
        User.insert(row).on_conflict(conflict_target=[User.id], update={"name": name, "is_active": is_active}).execute()
    elif kind == "voice":
        number, owner, seconds = values
        VoiceClone.insert(
            id=number, name="v", s3_path=f"/{number}.wav", owner=owner, duration_seconds=seconds
        ).execute()
    elif kind == "job":
        owner, voice, priority = values
        PresentationJob.enqueue_many(
            [{"owner": owner, "voice_clone": voice, "s3_pptx_path": "/a.pptx", "priority": priority}]
        )
    elif kind == "rename":
        User.update(name=values[0]).where(User.name >= values[1]).execute()
    elif kind == "claim":
        for job in PresentationJob.claim("w", limit=values[0]):
            job.heartbeat(progress=0.5, checkpoint={"slide": 1})
    elif kind == "renumber":
        db.database.execute_sql(f"UPDATE users SET id = {values[1]} WHERE id = {values[0]}")
    elif kind == "delete":
        model = TABLES[values[0]]
        model.delete().where(model.id == values[1]).execute()
    elif db.config.backend != "sqlite":
        db.database.execute_sql("TRUNCATE users CASCADE")


def replayed() -> dict[str, dict[int, dict[str, Any]]]:
    """The rows of every table, as the log tells."""
    rows: dict[str, dict[int, dict[str, Any]]] = {table: {} for table in TABLES}
    for entry in sorted(audit.search(limit=10_000), key=lambda entry: entry.id):
        table = rows[entry.table_name]
        if entry.operation == "TRUNCATE":
            table.clear()
        elif entry.operation == "INSERT":
            table[entry.row_id] = entry.new
        elif entry.operation == "DELETE":
            assert table.pop(entry.row_id) == entry.old
        else:
            row = table.pop(entry.row_id)
            assert {column: row[column] for column in entry.old} == entry.old
            row = {**row, **entry.new}
            table[row["id"]] = row
    return rows


def stored() -> dict[str, dict[int, dict[str, Any]]]:
    """The rows of every table, without what is excluded."""
    excluded = {name.rpartition(".")[2] for name in audit.EXCLUDED}
    return {
        table: {
            row["id"]: {column: as_json(value) for column, value in row.items() if column not in excluded}
            for row in model.select(*[field.alias(field.column_name) for field in model._meta.sorted_fields]).dicts()
        }
        for table, model in TABLES.items()
    }


def as_json(value: Any) -> Any:
    """A moment as PostgreSQL writes it into JSON: without the zeros at the end of its fraction."""
    if not isinstance(value, datetime):
        return value
    whole, dot, fraction = value.isoformat().removesuffix("+00:00").partition(".")
    return f"{whole}{dot}{fraction.rstrip('0')}+00:00"


@pytest.fixture
def emptied(db: DatabaseManager) -> Iterator[DatabaseManager]:
    with db.session():
        yield db


def test_the_log_tells_every_row(emptied: DatabaseManager) -> None:
    @settings_for(short=60, full=3000)
    @given(st.lists(STEPS, min_size=4, max_size=24))
    def check(steps: list[tuple[Any, ...]]) -> None:
        class Undone(Exception):
            pass

        with suppress(Undone), emptied.transaction():
            for step in [("user", 1, "Ada", True), ("voice", 1, 1, 0.1), *steps]:
                with suppress(ConstraintViolation), emptied.transaction():
                    take(emptied, step)
            assert replayed() == stored()
            raise Undone

    check()


def test_the_tables_that_are_replayed_are_those_that_are_audited() -> None:
    assert tuple(TABLES) == audit.TABLES
    assert {model._meta.table_name for model in MODELS} - set(TABLES) == {"job_events"}
