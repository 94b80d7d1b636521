"""The specification's own tests, written for Peewee, and what plain use of the models promises."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import peewee as pw
import pytest
from playhouse.signals import pre_save

from presgen import MODELS, DatabaseManager, JobStatus, PresentationJob, User, ValidationError, VoiceClone, queries
from presgen.clock import database_now
from presgen.errors import ConfigurationError, ConstraintViolation


def test_user_creation(db: DatabaseManager) -> None:
    user = User(name="Test User", email="test@example.com")
    user.save()

    assert user.id is not None
    assert user.created_at is not None
    assert user.created_at.tzinfo is timezone.utc
    assert user.updated_at >= user.created_at
    assert user.is_active is True


def test_user_email_validation(db: DatabaseManager) -> None:
    user = User(name="Test User", email="invalid-email")

    with pytest.raises(ValueError, match="^Invalid email format$"):
        user.save()
    assert User.select().count() == 0


def test_cascade_delete_voice_clones(db: DatabaseManager) -> None:
    user = User.create(name="Test User")
    voice_clone = VoiceClone.create(name="Test Voice", s3_path="/test.wav", owner_id=user.id)

    user.delete_instance()

    assert VoiceClone.get_or_none(VoiceClone.id == voice_clone.id) is None


def test_query_by_email_uses_its_index(db: DatabaseManager) -> None:
    User.insert_many([{"name": f"User {i}", "email": f"user{i}@example.com"} for i in range(1000)]).execute()
    database = db.database
    with db.session():
        database.execute_sql("ANALYZE")
        query = User.select().where(User.email == "user500@example.com")
        explain = "EXPLAIN QUERY PLAN " if isinstance(database, pw.SqliteDatabase) else "EXPLAIN "
        sql, parameters = query.sql()
        plan = "\n".join(str(row) for row in database.execute_sql(explain + sql, parameters).fetchall())

    assert "idx_users_email" in plan
    assert query.get().name == "User 500"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"s3_path": "test.wav"}, "^S3 path must start with '/'$"),
        ({"s3_path": "/test.mp3"}, "^Voice clone must be a WAV file$"),
        ({"duration_seconds": 0}, "^Duration must be positive$"),
        ({"duration_seconds": -1.5}, "^Duration must be positive$"),
        ({"duration_seconds": 300.5}, r"^Voice clone too long \(max 5 minutes\)$"),
        ({"file_size": 0}, "^File size must be positive$"),
    ],
)
def test_a_voice_clone_is_validated_with_the_specifications_messages(
    user: User, columns: dict[str, Any], message: str
) -> None:
    row = {"name": "v", "s3_path": "/v.wav", "owner": user, **columns}
    with pytest.raises(ValidationError, match=message) as caught:
        VoiceClone.create(**row)
    assert caught.value.field == next(iter(columns))
    for write in (
        lambda: VoiceClone.insert(**row).execute(),
        lambda: VoiceClone.insert([row]).execute(),
        lambda: VoiceClone.insert_many([row]).execute(),
        lambda: VoiceClone.bulk_create([VoiceClone(**row)]),
        lambda: VoiceClone.update(**columns).execute(),
    ):
        with pytest.raises(ValidationError, match=message):
            write()
    assert VoiceClone.select().count() == 0


def test_bulk_update_validates_too(voice: VoiceClone) -> None:
    voice.duration_seconds = 999
    with pytest.raises(ValidationError, match="too long"):
        VoiceClone.bulk_update([voice], ["duration_seconds"])
    voice.duration_seconds = 7
    assert VoiceClone.bulk_update([voice], [VoiceClone.duration_seconds]) == 1
    assert VoiceClone.get_by_id(voice.id).duration_seconds == 7.0


def test_bulk_create_fills_in_what_the_database_would(user: User) -> None:
    voices = [VoiceClone(name=f"v{i}", s3_path=f"/v{i}.wav", owner=user) for i in range(3)]
    VoiceClone.bulk_create(voices)

    stored = list(VoiceClone.select().order_by(VoiceClone.id))
    assert [voice.name for voice in stored] == ["v0", "v1", "v2"]
    assert all(isinstance(voice.created_at, datetime) and voice.is_active for voice in stored)


def test_insert_many_takes_tuples_with_and_without_columns(user: User) -> None:
    VoiceClone.insert_many([("a", "/a.wav", user)], fields=["name", "s3_path", "owner"]).execute()
    assert VoiceClone.get().owner_id == user.id
    with pytest.raises(ValidationError, match="^row 1 has 3 values for 9 columns"):
        VoiceClone.insert_many([("a", "/a.wav", user)]).execute()
    query = VoiceClone.select(VoiceClone.name, pw.Value("/b.wav"), VoiceClone.owner)
    VoiceClone.insert_many(query, fields=[VoiceClone.name, VoiceClone.s3_path, VoiceClone.owner]).execute()
    assert VoiceClone.select().count() == 2


def test_an_unknown_column_is_named_and_its_value_is_not_shown(db: DatabaseManager) -> None:
    with pytest.raises(ValidationError, match=r"^User has no field 'nmae'$"):
        User.insert(nmae="canary").execute()
    with pytest.raises(ValidationError, match="name must be set"):
        User.insert(email="a@example.com").execute()


def test_emails_are_stored_in_normal_form(db: DatabaseManager) -> None:
    user = User.create(name="Ada", email="Ada.Lovelace@EXAMPLE.com")
    assert user.email == "ada.lovelace@example.com"
    assert User.get(User.email == "ada.lovelace@example.com") == user


def test_an_email_belongs_to_one_user_only(user: User) -> None:
    with pytest.raises(ConstraintViolation) as caught:
        User.create(name="Eve", email="ADA@example.com")
    assert caught.value.constraint == "idx_users_email"
    assert "ada@example.com" not in str(caught.value).lower()
    assert isinstance(caught.value, pw.IntegrityError)
    User.create(name="Nobody")
    User.create(name="Nobody either")


def test_deleting_a_voice_in_use_is_refused_and_deleting_its_owner_is_not(job: PresentationJob, user: User) -> None:
    with pytest.raises(pw.IntegrityError):
        job.voice_clone.delete_instance()
    with pytest.raises(pw.IntegrityError):
        job.voice_clone.delete_instance(recursive=True)
    assert PresentationJob.select().count() == 1

    user.delete_instance()

    assert [model.select().count() for model in MODELS] == [0, 0, 0, 0]


def test_nobody_can_use_somebody_elses_voice(voice: VoiceClone) -> None:
    other = User.create(name="Eve")
    with pytest.raises(pw.IntegrityError):
        PresentationJob.create(owner=other, voice_clone=voice, s3_pptx_path="/x.pptx")
    with pytest.raises(pw.IntegrityError):
        PresentationJob.enqueue(owner=other, voice_clone=voice, s3_pptx_path="/x.pptx")


def test_save_writes_only_what_changed(user: User, statements: list[str]) -> None:
    mine, theirs = User.get_by_id(user.id), User.get_by_id(user.id)
    mine.name, theirs.email = "Ada L.", "new@example.com"
    statements.clear()
    assert mine.save() == 1
    assert theirs.save() == 1
    assert theirs.save() == 0

    assert len(statements) == 2
    assert "email" not in statements[0].partition("WHERE")[0]
    stored = User.get_by_id(user.id)
    assert (stored.name, stored.email) == ("Ada L.", "new@example.com")


def test_save_only_some_columns(user: User) -> None:
    user.name, user.email = "Ada L.", "new@example.com"
    user.save(only=[User.name])
    assert User.get_by_id(user.id).email == "ada@example.com"
    assert user.dirty_field_names == ["email"]
    user.save(only=["email"])
    assert User.get_by_id(user.id).email == "new@example.com"


def test_saving_a_row_that_is_gone_is_an_error(user: User) -> None:
    user.delete_instance()
    user.name = "Ghost"
    with pytest.raises(User.DoesNotExist, match=r"^User \d+ is not in the database; use create"):
        user.save()


def test_updated_at_follows_every_kind_of_update(db: DatabaseManager, user: User) -> None:
    def stored() -> datetime:
        moment: datetime = User.get_by_id(user.id).updated_at
        return moment

    past = datetime(2001, 1, 1, tzinfo=timezone.utc)
    for write in (
        lambda: (setattr(user, "name", "A"), user.save()),
        lambda: User.update(name="B").execute(),
        lambda: db.database.execute_sql("UPDATE users SET name = 'C'"),
    ):
        User.update(updated_at=past).execute()
        assert stored() == past
        write()
        assert abs(stored() - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert user.updated_at > past


def test_repr_names_id_and_name(job: PresentationJob, user: User, voice: VoiceClone) -> None:
    assert repr(user) == f"<User(id={user.id}, name='Ada', email='ada@example.com')>"
    assert repr(voice) == f'<VoiceClone(id={voice.id}, name="Ada\'s voice", owner_id={user.id})>'
    assert repr(job) == f"<PresentationJob(id={job.id}, status='pending')>"
    assert repr(PresentationJob(status=None)) == "<PresentationJob(id=None)>"


def test_alive_leaves_out_the_soft_deleted(job: PresentationJob, user: User, voice: VoiceClone) -> None:
    for model in (User, VoiceClone, PresentationJob):
        assert model.alive().count() == 1
    user.is_active = voice.is_active = False
    job.deleted_at = datetime.now(timezone.utc)
    for row in (user, voice, job):
        row.save()
    for model in (User, VoiceClone, PresentationJob):
        assert model.alive().count() == 0
        assert model.select().count() == 1
    assert PresentationJob.claim("w1") == []


def test_status_is_an_enum_from_assignment_on(job: PresentationJob) -> None:
    assert job.status is JobStatus.PENDING
    job.status = "processing_slides"
    assert job.status is JobStatus.PROCESSING_SLIDES
    job.save()
    assert PresentationJob.get(PresentationJob.status == "processing_slides").status is JobStatus.PROCESSING_SLIDES
    job.status = "done"
    with pytest.raises(ValidationError, match="status must be one of pending, processing_slides"):
        job.save()
    with pytest.raises(ValidationError):
        list(PresentationJob.select().where(PresentationJob.status == "done"))


def test_plain_use_completes_a_job_without_worker_or_lease(job: PresentationJob) -> None:
    job.status = JobStatus.COMPLETED
    with pytest.raises(ValidationError, match="a completed job needs s3_video_path"):
        job.save()
    job.s3_video_path = "/videos/1.mp4"
    job.save()

    stored = PresentationJob.get_by_id(job.id)
    assert stored.status is JobStatus.COMPLETED
    for shown in (job, stored):
        assert shown.started_at <= shown.completed_at
        assert shown.processing_time_seconds == 0.0


def test_plain_use_measures_the_time_between_start_and_end(job: PresentationJob) -> None:
    job.status = JobStatus.PROCESSING_SLIDES
    job.started_at = datetime.now(timezone.utc) - timedelta(seconds=90)
    job.save()
    job.status, job.s3_video_path = JobStatus.COMPLETED, "/v.mp4"
    job.save()
    assert PresentationJob.get_by_id(job.id).processing_time_seconds == pytest.approx(90, abs=30)

    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    done = PresentationJob.create(
        owner=job.owner_id,
        voice_clone=job.voice_clone_id,
        s3_pptx_path="/x.pptx",
        s3_video_path="/x.mp4",
        status=JobStatus.COMPLETED,
        started_at=start,
        completed_at=start + timedelta(seconds=12.5),
    )
    assert PresentationJob.get_by_id(done.id).processing_time_seconds == 12.5


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [
        (0.9997, 1.0001, 0.0004),
        (0.9994, 0.9996, 0.0002),
        (0.0, 0.0, 0.0),
        (0.999999, 1.999999, 1.0),
        (0.5, 86400.25, 86399.75),
    ],
)
def test_processing_time_is_right_to_the_microsecond(
    job: PresentationJob, start: float, end: float, seconds: float
) -> None:
    began = datetime(2026, 1, 1, tzinfo=timezone.utc)
    job.started_at, job.completed_at = began + timedelta(seconds=start), began + timedelta(seconds=end)
    job.status, job.s3_video_path = JobStatus.COMPLETED, "/v.mp4"
    job.save()
    assert PresentationJob.get_by_id(job.id).processing_time_seconds == pytest.approx(seconds, abs=1e-6)


def test_completion_before_the_start_is_refused(job: PresentationJob) -> None:
    job.started_at = datetime(2026, 1, 2, tzinfo=timezone.utc)
    job.completed_at = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with pytest.raises(ValidationError, match="completed_at must not lie before started_at"):
        job.save()


def test_a_failed_job_goes_back_to_pending_in_plain_use(job: PresentationJob) -> None:
    for status in (JobStatus.PROCESSING_SLIDES, JobStatus.FAILED, JobStatus.PENDING):
        job.status = status
        job.save()
    stored = PresentationJob.get_by_id(job.id)
    assert (stored.started_at, stored.completed_at, stored.processing_time_seconds) == (None, None, None)


def test_backrefs_lead_from_a_user_to_voices_and_jobs(job: PresentationJob, user: User, voice: VoiceClone) -> None:
    assert list(user.voice_clones) == [voice]
    assert list(user.presentations) == [job]
    assert job.owner == user
    assert job.voice_clone == voice


def test_pre_save_is_peewees_signal(db: DatabaseManager) -> None:
    seen: list[tuple[str, bool]] = []

    @pre_save(name="spy", sender=User)
    def spy(_sender: Any, instance: User, created: bool) -> None:
        seen.append((instance.name, created))

    try:
        user = User.create(name="Ada")
        user.name = "Grace"
        user.save()
    finally:
        pre_save.disconnect(name="spy", sender=User)
    assert seen == [("Ada", True), ("Grace", False)]


def test_a_relation_saved_later_is_picked_up(db: DatabaseManager) -> None:
    user = User(name="Ada")
    voice = VoiceClone(name="v", s3_path="/v.wav", owner=user)
    with pytest.raises(ValidationError, match="owner must be set"):
        voice.save()
    user.save()
    voice.save()
    assert VoiceClone.get().owner_id == user.id
    with pytest.raises(ValidationError, match="owner must be saved first"):
        VoiceClone.insert(name="v", s3_path="/w.wav", owner=User(name="unsaved")).execute()


def test_models_work_on_a_plain_peewee_database_without_the_manager() -> None:
    database = pw.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})
    with database.bind_ctx(MODELS), database.connection_context():
        database.create_tables(MODELS)
        user = User.create(name="Ada", email="ADA@example.com")
        voice = VoiceClone.create(name="v", s3_path="/v.wav", owner=user)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path="/x.pptx")
        (claimed,) = PresentationJob.claim("w1")
        claimed.complete(s3_video_path="/v.mp4")
        assert PresentationJob.get_by_id(job.id).status is JobStatus.COMPLETED
        with pytest.raises(pw.IntegrityError):
            voice.delete_instance()
        user.delete_instance()
        assert PresentationJob.select().count() == 0


def test_created_at_lies_between_before_and_after(db: DatabaseManager) -> None:
    with db.session() as database:
        for _ in range(20):
            before = database_now(database)
            user = User.create(name="x")
            assert before <= user.created_at <= user.updated_at <= database_now(database)


def test_an_email_is_found_however_it_is_written(db: DatabaseManager) -> None:
    first, was_new = User.get_or_create(email="Ada@Example.com", defaults={"name": "Ada"})
    second, is_new = User.get_or_create(email="ADA@example.com", defaults={"name": "Ada"})
    assert (first, was_new, is_new) == (second, True, False)
    assert User.get(User.email.in_(["ADA@EXAMPLE.COM"])) == first
    assert User.select().where(User.email.contains("DA@exa")).count() == 1


def test_a_later_row_with_more_columns_is_refused_instead_of_cut(user: User) -> None:
    rows = [{"name": "a"}, {"name": "b", "email": "b@example.com"}]
    with pytest.raises(ValidationError, match="row 2 has email, which the first row lacks"):
        User.insert_many(rows).execute()
    User.insert_many([rows[1], {"name": "c"}, {"name": "d", "is_active": False}]).execute()
    assert [
        (row.name, row.email, row.is_active) for row in User.select().where(User.id != user.id).order_by(User.name)
    ] == [
        ("b", "b@example.com", True),
        ("c", None, True),
        ("d", None, False),
    ]


def test_a_field_of_another_model_is_none_of_this_ones(voice: VoiceClone) -> None:
    with pytest.raises(ValidationError, match="VoiceClone has no field"):
        VoiceClone.update({User.name: "hijack"})


@pytest.mark.parametrize("name", [["a"], 1.5, "nul\0", "\ud800", ""])
def test_an_upsert_is_validated_too(user: User, name: Any) -> None:
    with pytest.raises(ValidationError):
        User.insert(id=user.id, name="x").on_conflict(conflict_target=[User.id], update={User.name: name})
    with pytest.raises(ValidationError):
        User.insert(id=user.id, name="x").on_conflict("update", {User.name: name})
    upsert = User.insert(id=user.id, name="x").on_conflict(conflict_target=[User.id], update={"name": "Grace"})
    upsert.execute()
    stored = User.get_by_id(user.id)
    assert (stored.name, stored.updated_at > user.updated_at) == ("Grace", True)


def test_an_update_of_nothing_is_refused_and_of_no_rows_is_none(user: User) -> None:
    with pytest.raises(ValidationError, match="there is nothing to update"):
        User.update()
    assert User.bulk_update([], [User.name]) == 0


def test_save_only_validates_only_what_it_writes(user: User) -> None:
    user.email, user.is_active = "nonsense", False
    assert user.save(only=[User.is_active]) == 1
    with pytest.raises(ValidationError):
        user.save()


def test_listeners_of_pre_save_run_before_the_validators(db: DatabaseManager) -> None:
    @pre_save(name="mender", sender=VoiceClone)
    def mender(_sender: Any, instance: VoiceClone, created: bool) -> None:
        instance.s3_path = f"/{instance.s3_path}" if created else "\0"

    try:
        voice = VoiceClone.create(name="v", s3_path="v.wav", owner=User.create(name="Ada"))
        assert voice.s3_path == "/v.wav"
        with pytest.raises(ValidationError):
            voice.save()
    finally:
        pre_save.disconnect(name="mender", sender=VoiceClone)


def test_models_without_a_database_say_what_to_do() -> None:
    for use in (
        lambda: User.create(name="Ada"),
        lambda: PresentationJob.claim("w1"),
        lambda: queries.get_user_voice_clones(1),
    ):
        with pytest.raises(ConfigurationError, match="use them inside `with DatabaseManager"):
            use()


def test_moments_compare_with_text_alike_on_every_backend(user: User) -> None:
    moment = user.created_at.astimezone(timezone(timedelta(hours=5)))
    for text in (moment.isoformat(), moment.isoformat(" ")):
        assert User.select().where(User.created_at == text).count() == 1
    for bad in ("2026-01-01 00:00:00", "yesterday", 5):
        with pytest.raises(ValidationError, match="^created_at must be"):
            User.select().where(User.created_at > bad).count()
    with pytest.raises(ValidationError, match="^status must be one of"):
        PresentationJob.select().where(PresentationJob.status == 5).count()
    year = user.created_at.year
    assert User.select().where(User.created_at.year == year).count() == 1


def test_an_sql_expression_is_left_to_the_database(user: User) -> None:
    user.name = User.name.concat("!")
    user.save()
    assert user.name == "Ada!"
    assert User.get_by_id(user.id).name == "Ada!"
