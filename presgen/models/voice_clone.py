"""VoiceClone: a recorded voice that can narrate."""

from __future__ import annotations

from typing import Any

import peewee as pw

from .. import validation
from ..fields import (
    BigWholeField,
    FlagField,
    IdField,
    MomentField,
    NumberField,
    VarcharField,
    WholeField,
)
from ..references import ReferenceField
from .base import BaseModel
from .user import User


class VoiceClone(BaseModel):
    """A WAV file of somebody's voice; `file_size` in bytes, `sample_rate` in Hz.

    It cannot be deleted while a job uses it.
    """

    id = IdField()
    name = VarcharField(max_length=255)
    s3_path = VarcharField(max_length=1000, rules=[validation.absolute_path, validation.wav_file])
    file_size = BigWholeField(null=True, rules=[validation.positive("File size must be positive")])
    duration_seconds = NumberField(
        null=True,
        rules=[
            validation.positive("Duration must be positive"),
            validation.between(0, validation.VOICE_CLONE_MAX_SECONDS, "Voice clone too long (max 5 minutes)"),
        ],
    )
    sample_rate = WholeField(null=True, rules=[validation.positive()])
    is_active = FlagField(default=True)
    created_at = MomentField(now=True)
    updated_at = MomentField(now=True)
    owner = ReferenceField(User, backref="voice_clones", on_delete="CASCADE", index=False)

    class Meta:
        table_name = "voice_clones"
        constraints = [
            pw.Check("file_size > 0", name="positive_file_size"),
            pw.Check("duration_seconds > 0", name="positive_duration"),
            pw.Check(f"duration_seconds <= {validation.VOICE_CLONE_MAX_SECONDS}", name="maximum_duration"),
            pw.Check("sample_rate > 0", name="positive_sample_rate"),
            pw.Check("substr(s3_path, 1, 1) = '/' AND length(s3_path) <= 1000", name="absolute_s3_path"),
            pw.Check("substr(s3_path, length(s3_path) - 3) = '.wav'", name="wav_s3_path"),
            pw.Check("length(trim(name)) > 0 AND length(name) <= 255", name="valid_voice_clone_name"),
            pw.SQL("CONSTRAINT voice_clones_owner_id_id UNIQUE (owner_id, id)"),
        ]

    def __repr__(self) -> str:
        return f"<VoiceClone(id={self._pk}, name={self.name!r}, owner_id={self.owner_id})>"

    @classmethod
    def alive(cls) -> Any:
        """Select the voices that are not soft-deleted."""
        return cls.select().where(cls.is_active)

    @classmethod
    def owned_by(cls, user: User | int) -> Any:
        """Select the voices of a user, given as row or id; raises ValidationError for None and for an unsaved row."""
        return cls.select().where(cls.owner == cls.owner.clean_value(user))


VoiceClone.add_index(VoiceClone.index(VoiceClone.name, name="idx_voice_clones_name"))
VoiceClone.add_index(VoiceClone.index(VoiceClone.owner, VoiceClone.name, name="idx_voice_clones_owner_name"))
VoiceClone.add_index(VoiceClone.index(VoiceClone.s3_path, unique=True, name="idx_voice_clones_s3_path"))
