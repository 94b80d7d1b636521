"""Put a deck into the queue: DATABASE_URL=… python enqueue.py ada@example.com voice.wav talk.pptx"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from presgen import DatabaseManager, PresentationJob, PresgenError, User, VoiceClone
from presgen.examples.studio import StudioError, measure_wav, read_deck

parser = argparse.ArgumentParser(description="Put a deck into the queue.")
parser.add_argument("email", help="who it is for; added when new")
parser.add_argument("voice", type=Path, help="a .wav file of the narrator")
parser.add_argument("deck", type=Path, help="a .pptx file")
given = parser.parse_args()
voice_path, deck_path = str(given.voice.resolve()), str(given.deck.resolve())

try:
    read_deck(deck_path)  # better said now than by the worker
    with DatabaseManager.from_env() as db, db.transaction():
        user, _ = User.get_or_create(email=given.email, defaults={"name": given.email.partition("@")[0]})
        facts = {"name": given.voice.stem, **asdict(measure_wav(voice_path))}
        voice, _ = VoiceClone.get_or_create(owner=user, s3_path=voice_path, defaults=facts)
        job = PresentationJob.enqueue(owner=user, voice_clone=voice, s3_pptx_path=deck_path)
except (PresgenError, StudioError) as error:
    sys.exit(f"Error: {error}")

print(f"job {job.id} is {job.status}")
