"""Django's ORM, with unmanaged models on presgen's own tables."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from psycopg2.extensions import parse_dsn

if not settings.configured:
    settings.configure(
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "none", "CONN_MAX_AGE": None}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
    )
    django.setup()

from django.db import connection, models


class User(models.Model):
    name = models.CharField(max_length=255)
    email = models.EmailField(max_length=255, null=True, unique=True)
    password_hash = models.CharField(max_length=255, null=True, blank=True)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "users"


class VoiceClone(models.Model):
    name = models.CharField(max_length=255)
    s3_path = models.CharField(max_length=1000, unique=True)
    file_size = models.BigIntegerField(null=True)
    duration_seconds = models.FloatField(null=True)
    sample_rate = models.IntegerField(null=True)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    owner = models.ForeignKey(User, models.CASCADE, related_name="voice_clones")

    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "voice_clones"


class PresentationJob(models.Model):
    status = models.CharField(max_length=32, default="pending")
    s3_pptx_path = models.CharField(max_length=1000)
    s3_video_path = models.CharField(max_length=1000, null=True)
    slides_count = models.IntegerField(null=True)
    video_duration_seconds = models.FloatField(null=True)
    file_size_bytes = models.BigIntegerField(null=True)
    processing_time_seconds = models.FloatField(null=True)
    error_message = models.TextField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    started_at = models.DateTimeField(null=True)
    completed_at = models.DateTimeField(null=True)
    owner = models.ForeignKey(User, models.CASCADE, related_name="presentations")
    voice_clone = models.ForeignKey(VoiceClone, models.RESTRICT, related_name="presentations")
    priority = models.IntegerField(default=0)
    run_at = models.DateTimeField(auto_now_add=True)
    attempt = models.IntegerField(default=0)
    max_attempts = models.IntegerField(default=3)
    worker = models.CharField(max_length=255, null=True)
    lease_expires_at = models.DateTimeField(null=True)
    cancel_requested_at = models.DateTimeField(null=True)
    progress = models.FloatField(default=0.0)
    checkpoint = models.JSONField(null=True)
    idempotency_key = models.CharField(max_length=255, null=True)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "benchmarks"
        managed = False
        db_table = "presentation_jobs"


def connect(url: str) -> None:
    """Use the database from now on, over one connection."""
    login = parse_dsn(url)
    connection.close()
    connection.settings_dict.update(NAME=login["dbname"], USER=login["user"], HOST=login["host"], PORT="5432")
    connection.ensure_connection()


def close() -> None:
    """Give the connection back."""
    connection.close()


def create_user(name: str, email: str) -> Any:
    """Validate and insert, as `full_clean()` and `save()` do."""
    user = User(name=name, email=email)
    user.full_clean(validate_unique=False, validate_constraints=False)
    user.save(force_insert=True)
    return user


def get_job(job_id: int) -> Any:
    return PresentationJob.objects.get(pk=job_id)


def get_presentation_jobs(limit: int) -> list[Any]:
    return list(PresentationJob.objects.select_related("owner").order_by("-created_at", "-id")[:limit])


def get_users_with_voice_clones() -> list[Any]:
    return list(User.objects.prefetch_related("voice_clones").order_by("id"))
