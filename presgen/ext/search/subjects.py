"""What is searched: which columns of which tables, and how much a word weighs in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ...errors import ConfigurationError
from ...models import PresentationJob, User, VoiceClone


@dataclass(frozen=True)
class Subject:
    """A table whose rows are searched. Words in the first of `columns` weigh most, those in the last one least."""

    model: Any
    columns: tuple[str, ...]
    owner: str
    """The column that has the owner's id."""
    is_alive: str
    """The condition that rows meet which are not soft-deleted, on both backends."""

    @property
    def table(self) -> str:
        """The table's name."""
        return str(self.model._meta.table_name)

    @property
    def index(self) -> str:
        """The name of the index on PostgreSQL, and of the FTS5 table on SQLite."""
        return f"idx_{self.table}_search"


USERS: Final = Subject(User, ("name", "email"), "id", "is_active")
VOICE_CLONES: Final = Subject(VoiceClone, ("name", "s3_path"), "owner_id", "is_active")
JOBS: Final = Subject(
    PresentationJob, ("s3_pptx_path", "s3_video_path", "error_message"), "owner_id", "deleted_at IS NULL"
)
SUBJECTS: Final = (USERS, VOICE_CLONES, JOBS)


def not_installed() -> ConfigurationError:
    """The error for a database that has no index of words, or not the whole of one."""
    return ConfigurationError("the database has no index of words; run: presgen install search")
