"""Bad values stop before the driver, with the same error on every backend; the database stops what gets past."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import peewee as pw
import pytest

from presgen import DatabaseManager, PresentationJob, User, ValidationError, VoiceClone
from presgen.errors import ConstraintViolation

NAN, INFINITY = float("nan"), float("inf")
TEXT = [("", "empty"), (" \t\n", "empty"), ("a\0b", "nul"), ("\ud800", "unicode"), ([1], "type"), ({}, "type"), (5, "type"),
        (b"bytes", "type"), (True, "type")]  # fmt: skip
WHOLE = [(1.5, "type"), (5.0, "type"), ("5", "type"), ("abc", "type"), ("1_000", "type"), (True, "type"), (NAN, "type"),
         (Decimal(5), "type"), (2**63, "range"), (-(2**63) - 1, "range"), (0, "positive"), (-3, "positive")]  # fmt: skip
NUMBER = [("1.5", "type"), (True, "type"), (Decimal("1.5"), "type"), (NAN, "finite"), (INFINITY, "finite"),
          (-INFINITY, "finite"), (10**400, "range"), (0, "positive"), (-1.0, "positive")]  # fmt: skip
FLAG = [("false", "type"), (0, "type"), (1, "type"), (2, "type")]
MOMENT = [(datetime(2026, 1, 1), "aware"), ("now", "type"), ("infinity", "type"), (date(2026, 1, 1), "type"), (0, "type"),
          (datetime.min.replace(tzinfo=timezone(timedelta(hours=2))), "range")]  # fmt: skip
DOCUMENT = [(NAN, "json"), ({"a": INFINITY}, "json"), (object(), "json"), ({1, 2}, "json"), ("\0", "nul"), ("\ud800", "unicode"),
            ("x" * 1_000_001, "max_length")]  # fmt: skip

CASES: list[tuple[Any, str, Any, str]] = [
    *[(User, "name", value, rule) for value, rule in [*TEXT, ("x" * 256, "max_length"), ("x" * 10_000_000, "max_length"), (None, "required")]],
    *[(User, "email", value, rule) for value, rule in [*TEXT, ("x" * 250 + "@example.com", "max_length")]],
    *[(User, "email", value, "email") for value in ("ada", "ada@", "@example.com", " ada@example.com", "a b@example.com", "a@b")],
    *[(User, "is_active", value, rule) for value, rule in [*FLAG, (None, "required")]],
    *[(User, "created_at", value, rule) for value, rule in MOMENT],
    *[(VoiceClone, "s3_path", value, rule) for value, rule in [*TEXT, ("v.wav", "absolute"), ("/v.WAV", "wav"), ("/" + "x" * 1000 + ".wav", "max_length")]],
    *[(VoiceClone, "file_size", value, rule) for value, rule in WHOLE],
    *[(VoiceClone, "sample_rate", value, rule) for value, rule in [*WHOLE, (2**31, "range")]],
    *[(VoiceClone, "duration_seconds", value, rule) for value, rule in [*NUMBER, (300.001, "range")]],
    *[(VoiceClone, "owner", value, rule) for value, rule in [("1", "type"), (1.0, "type"), (2**63, "range"), (None, "required")]],
    *[(PresentationJob, "status", value, "status") for value in ("done", 1, "PENDING", "Pending")],
    *[(PresentationJob, "s3_pptx_path", value, rule) for value, rule in [*TEXT, ("x" * 1001, "max_length"), (None, "required")]],
    *[(PresentationJob, "s3_video_path", value, rule) for value, rule in TEXT],
    *[(PresentationJob, "slides_count", value, rule) for value, rule in WHOLE],
    *[(PresentationJob, "video_duration_seconds", value, rule) for value, rule in [*NUMBER, (1e10, "range")]],
    *[(PresentationJob, "file_size_bytes", value, rule) for value, rule in WHOLE],
    *[(PresentationJob, "error_message", value, rule) for value, rule in [*TEXT, ("x" * 10_001, "max_length")]],
    *[(PresentationJob, "progress", value, "range") for value in (-0.1, 1.1)],
    *[(PresentationJob, "attempt", value, rule) for value, rule in [(-1, "range"), ("1", "type")]],
    *[(PresentationJob, "run_at", value, rule) for value, rule in MOMENT],
    *[(PresentationJob, "checkpoint", value, rule) for value, rule in DOCUMENT],
]  # fmt: skip


@pytest.fixture
def rows(user: User, voice: VoiceClone) -> dict[Any, dict[str, Any]]:
    """A good row of each model."""
    return {
        User: {"name": "Grace"},
        VoiceClone: {"name": "v", "s3_path": "/grace.wav", "owner": user},
        PresentationJob: {"s3_pptx_path": "/x.pptx", "owner": user, "voice_clone": voice},
    }


def test_bad_values_stop_before_the_driver(rows: dict[Any, dict[str, Any]], statements: list[str]) -> None:
    statements.clear()
    for model, field, value, rule in CASES:
        row = {**rows[model], field: value}
        writes: list[Callable[[], Any]] = [
            lambda model=model, row=row: model.create(**row),
            lambda model=model, row=row: model.insert(row).execute(),
            lambda model=model, row=row: model.insert_many([row]).execute(),
        ]
        if value is not None:
            writes.append(lambda model=model, field=field, value=value: model.update({field: value}).execute())
        for write in writes:
            with pytest.raises(ValidationError) as caught:
                write()
            assert (caught.value.field, caught.value.rule) == (field, rule), (model, field, value)
            assert len(str(caught.value)) < 200
    assert statements == []


def test_good_values_read_back_equal(rows: dict[Any, dict[str, Any]], voice: VoiceClone) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    values: dict[str, Any] = {
        "s3_pptx_path": "/décks/ünï 🐝 %s {} \\ ' \" ; --.pptx",
        "slides_count": 2**31 - 1,
        "video_duration_seconds": 0.1,
        "file_size_bytes": 2**63 - 1,
        "error_message": "line\nline\ttab \\N",
        "run_at": datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=zone),
        "progress": 1,
        "checkpoint": {"slides": [1, 2.5, None, True], "ü": {"nested": "'\"\\"}},
        "idempotency_key": "k" * 255,
        "priority": -5,
    }
    created = PresentationJob.create(**{**rows[PresentationJob], **values})
    stored = PresentationJob.get_by_id(created.id)
    for name, value in values.items():
        assert getattr(created, name) == getattr(stored, name) == value, name
    assert stored.run_at.tzinfo is timezone.utc
    assert VoiceClone.get_by_id(voice.id).duration_seconds == 3.5


def test_the_text_of_an_escape_is_no_nul(rows: dict[Any, dict[str, Any]]) -> None:
    text = "a backslash and u0000: \\u0000"
    assert PresentationJob.create(**rows[PresentationJob], checkpoint=[text]).checkpoint == [text]
    with pytest.raises(ValidationError):
        PresentationJob.create(**rows[PresentationJob], checkpoint=["\\\0"])


def test_a_document_becomes_what_it_reads_back_as(rows: dict[Any, dict[str, Any]]) -> None:
    job = PresentationJob.create(**rows[PresentationJob], checkpoint={1: (1, 2)})
    assert job.checkpoint == {"1": [1, 2]} == PresentationJob.get_by_id(job.id).checkpoint


# What raw SQL, COPY and other programs may try: a constraint with its name answers.
BROKEN_RULES = [
    ("UPDATE users SET name = '  '", "valid_user_name"),
    (f"UPDATE users SET name = '{'x' * 256}'", "valid_user_name"),
    ("UPDATE users SET email = 'nobody'", "valid_email"),
    ("UPDATE users SET email = 'ADA@example.com'", "valid_email"),
    ("UPDATE voice_clones SET file_size = 0", "positive_file_size"),
    ("UPDATE voice_clones SET duration_seconds = 0", "positive_duration"),
    ("UPDATE voice_clones SET duration_seconds = 300.5", "maximum_duration"),
    ("UPDATE voice_clones SET sample_rate = -1", "positive_sample_rate"),
    ("UPDATE voice_clones SET s3_path = 'v.wav'", "absolute_s3_path"),
    ("UPDATE voice_clones SET s3_path = '/v.mp3'", "wav_s3_path"),
    ("UPDATE voice_clones SET name = ''", "valid_voice_clone_name"),
    ("UPDATE presentation_jobs SET status = 'done'", "valid_status_transition"),
    ("UPDATE presentation_jobs SET status = 'completed'", "completed_jobs_have_video"),
    ("UPDATE presentation_jobs SET slides_count = 0", "positive_slides_count"),
    ("UPDATE presentation_jobs SET video_duration_seconds = 0", "positive_video_duration"),
    ("UPDATE presentation_jobs SET file_size_bytes = 0", "positive_video_file_size"),
    ("UPDATE presentation_jobs SET processing_time_seconds = -1", "valid_processing_time"),
    ("UPDATE presentation_jobs SET progress = 1.1", "valid_progress"),
    ("UPDATE presentation_jobs SET attempt = 4", "valid_attempt"),
    ("UPDATE presentation_jobs SET max_attempts = 0", "valid_attempt"),
    ("UPDATE presentation_jobs SET lease_expires_at = created_at", "lease_has_worker"),
    ("UPDATE presentation_jobs SET s3_pptx_path = ''", "valid_s3_pptx_path"),
    ("UPDATE presentation_jobs SET s3_video_path = ' '", "valid_s3_video_path"),
    (f"UPDATE presentation_jobs SET error_message = '{'x' * 10_001}'", "valid_error_message"),
    ("UPDATE presentation_jobs SET worker = ''", "valid_worker"),
    ("UPDATE presentation_jobs SET idempotency_key = ''", "valid_idempotency_key"),
    (
        "UPDATE presentation_jobs SET started_at = '2026-01-02 00:00:00.000000+00:00', "
        "completed_at = '2026-01-01 00:00:00.000000+00:00'",
        "valid_completion_time",
    ),
]


@pytest.mark.parametrize(("sql", "constraint"), BROKEN_RULES, ids=lambda value: value[:60])
def test_raw_sql_meets_the_same_rules_in_the_database(
    db: DatabaseManager, job: PresentationJob, sql: str, constraint: str
) -> None:
    with pytest.raises(pw.DatabaseError) as caught:
        db.database.execute_sql(sql)
    if isinstance(caught.value, pw.DataError):  # PostgreSQL looks at varchar(255) before it looks at the CHECK
        assert "x" * 256 in sql
        return
    assert isinstance(caught.value, ConstraintViolation)
    assert caught.value.constraint == constraint
    assert "ada" not in str(caught.value).lower()


def test_nan_and_infinity_do_not_pass_the_checks_of_postgresql(
    postgresql: str, db: DatabaseManager, job: PresentationJob
) -> None:
    for column in ("video_duration_seconds", "processing_time_seconds", "progress"):
        for value in ("NaN", "Infinity"):
            with pytest.raises(ConstraintViolation):
                db.database.execute_sql(f"UPDATE presentation_jobs SET {column} = '{value}'")
    with pytest.raises(ConstraintViolation):
        db.database.execute_sql("UPDATE voice_clones SET duration_seconds = 'NaN'")


def test_no_error_of_the_database_quotes_a_row(db: DatabaseManager, user: User) -> None:
    user.name = "canary-7f3a"
    user.save()
    for sql in ("UPDATE users SET email = 'x'", "INSERT INTO users (id, name) SELECT id, name FROM users"):
        with pytest.raises(ConstraintViolation) as caught:
            db.database.execute_sql(sql)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
