"""Manifest: what a data file holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from ...durable import Document
from ...errors import ArchiveError
from .compression import SUFFIXES

FORMAT: Final = 1
"""Which lines a data file has: a JSON object a job, `{"job": {column: value}, "events": [{column: value}, …]}`."""


@dataclass(frozen=True)
class Manifest(Document):
    """What a data file holds, as the JSON document beside it says.

    Moments are text as the database writes it, in UTC. `schema` is the latest migration that the database had.
    `replaces` is the archive whose jobs these were before some of them went back into the database.
    """

    name: str
    file: str
    sha256: str
    bytes: int
    jobs: int
    events: int
    first_job_id: int
    last_job_id: int
    first_finished_at: str
    last_finished_at: str
    schema: str
    replaces: str | None = None
    format: int = FORMAT

    @classmethod
    def from_json(cls, text: str, *, name: str, source: str) -> Manifest:
        """Read the document of the file `source`, which is about the archive `name`.

        Raises ArchiveError for one that is not, and for one of a later format.
        """
        try:
            found = json.loads(text)
            if found["format"] > FORMAT:
                raise ArchiveError(f"{source} was written by a later presgen, in format {found['format']}")
            manifest = cls(**cls.values_of(found))
            if manifest.name == name and manifest.file in [f"{name}.jsonl{suffix}" for suffix in SUFFIXES.values()]:
                return manifest
        except (ValueError, TypeError, KeyError):
            pass
        raise ArchiveError(f"{source} is no manifest of an archive, or is damaged")

    def may_have(self, job_id: int) -> bool:
        """Whether the job's id is in the file's range."""
        return self.first_job_id <= job_id <= self.last_job_id
