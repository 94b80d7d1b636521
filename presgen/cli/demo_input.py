"""What the demo starts from: people, recordings of their voices, decks, and a job for each deck."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigurationError
from ..models import PresentationJob, User, VoiceClone
from ..status import UNFINISHED

PEOPLE: Final = ("Ada", "Grace", "Alan")
# With so many jobs there is room for one that fails.
JOBS_WITH_BROKEN_DECK: Final = 3


def enqueue_jobs(store: Path, count: int) -> list[PresentationJob]:
    """Write decks and voices below `store`, and put `count` jobs for them into the queue, in one transaction.

    From three jobs on, the last one's deck is broken. Each run has keys of its own; people are known by e-mail.
    """
    samples, measure_wav = examples("samples"), examples("studio").measure_wav
    run = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    voices = {name: f"/voices/{run}/{name.lower()}.wav" for name in PEOPLE}
    for name, key in voices.items():
        samples.make_voice(stored(store, key), name)
    decks = [f"/decks/{run}/{talk.name}.pptx" for talk in samples.DECKS]
    for talk, key in zip(samples.DECKS, decks, strict=True):
        samples.make_deck(stored(store, key), talk.title, talk.slides)
    keys = [decks[number % len(decks)] for number in range(count)]
    if count >= JOBS_WITH_BROKEN_DECK:
        keys[-1] = f"/decks/{run}/broken.pptx"
        samples.make_broken_deck(stored(store, keys[-1]))
    with PresentationJob._meta.database.atomic():
        clones = [_voice_clone(name, key, measure_wav(stored(store, key))) for name, key in voices.items()]
        jobs = []
        for number, key in enumerate(keys):
            # One voice further with each round, so that a deck is heard in different voices.
            clone = clones[(number + number // len(decks)) % len(clones)]
            jobs.append(PresentationJob.enqueue(owner=clone.owner, voice_clone=clone, s3_pptx_path=key))
    return jobs


def refuse_others_jobs(store: Path) -> None:
    """Raise ConfigurationError when jobs wait whose decks are not in `store`: the demo's workers would fail them."""
    for job in PresentationJob.alive().where(PresentationJob.status.in_(UNFINISHED)).iterator():
        if not stored(store, job.s3_pptx_path).is_file():
            raise ConfigurationError(
                f"the database has unfinished jobs of others (job {job.id}), which the demo's workers would take; "
                "use a database without any, or leave --database out"
            )


def stored(store: Path, key: str) -> Path:
    """The file of a key."""
    return store / key.lstrip("/")


def examples(name: str) -> Any:
    """A module of the examples, which lie beside the package in a checkout: type checkers do not find them there."""
    return import_module(f"presgen.examples.{name}")


def _voice_clone(name: str, key: str, facts: Any) -> VoiceClone:
    user, _ = User.get_or_create(email=f"{name.lower()}@demo.example.com", defaults={"name": name})
    clone: VoiceClone = VoiceClone.create(owner=user, name=f"{name}'s voice", s3_path=key, **asdict(facts))
    return clone
