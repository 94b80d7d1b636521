"""Sample input for the demo: real decks with speaker notes, and real voice recordings."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .speech import say
from .studio import Slide, library


@dataclass(frozen=True)
class Talk:
    """A small talk: its file's name without the ending, its title, and its slides."""

    name: str
    title: str
    slides: tuple[Slide, ...]


def make_deck(path: str | Path, title: str, slides: Sequence[Slide]) -> Path:
    """Write a .pptx file with a title, bullets and speaker notes on each slide."""
    deck = library("pptx").Presentation()
    deck.core_properties.title = title
    for slide in slides:
        page = deck.slides.add_slide(deck.slide_layouts.get_by_name("Title and Content"))
        page.shapes.title.text = slide.title
        page.placeholders[1].text = "\n".join(slide.body)
        if slide.notes:
            page.notes_slide.notes_text_frame.text = slide.notes
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    deck.save(str(target))
    return target


def make_broken_deck(path: str | Path) -> Path:
    """Write a file that is named like a deck and is none."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"These bytes were never a presentation.\n" * 100)
    return target


def make_voice(path: str | Path, name: str) -> Path:
    """Write a WAV file in which somebody of that name speaks; the name decides the pitch."""
    lowest, octaves = 82.0, 1.4
    hertz = lowest * 2 ** (octaves * (zlib.crc32(name.encode()) % 1000) / 1000)
    say(f"Hello, my name is {name}. I lend my voice to slides.", path, hertz=hertz)
    return Path(path)


DECKS = (
    Talk(
        "jobs",
        "How a job survives",
        (
            Slide(
                "How a job survives",
                ("A deck comes in, a video goes out", "The database remembers", "Workers come and go"),
                "Every video begins as one row in a table. Whatever happens to the workers, the row stays.",
            ),
            Slide(
                "A claim is a lease",
                ("One worker takes one job", "A heartbeat extends the lease", "Silence gives the job back"),
                "A worker only borrows its job. If it falls silent, somebody else may carry on.",
            ),
            Slide(
                "Late words do not count",
                ("Each attempt has a number", "Every write must show it", "An old number changes nothing"),
                "A worker that wakes up too late cannot spoil the work of the next. Its number has expired.",
            ),
        ),
    ),
    Talk(
        "bees",
        "What a bee knows",
        (
            Slide(
                "What a bee knows",
                ("A brain of a million neurons", "A map of several kilometres", "A language made of dance"),
                "A honey bee is smaller than a peanut. Yet it finds its way home from kilometres away.",
            ),
            Slide(
                "The waggle dance",
                ("The angle shows the direction", "The length shows the distance", "The sun is the compass"),
                "Back in the dark hive, a bee dances. Her sisters read from it the way to the flowers.",
            ),
            Slide(
                "Choosing a new home",
                ("Scouts report what they found", "Good places are danced for longer", "A quorum decides"),
                "When a swarm looks for a home, nobody is in charge. The best place wins the most dancers.",
            ),
        ),
    ),
    Talk(
        "tides",
        "Why the sea breathes",
        (
            Slide(
                "Why the sea breathes",
                ("Two high tides on most coasts", "12 hours 25 minutes apart", "The Moon sets the rhythm"),
                "Twice a day, on most coasts, the sea comes in and goes out again. The Moon keeps the time.",
            ),
            Slide(
                "Two bulges, not one",
                ("The near sea is pulled more", "The far sea is pulled less", "We turn beneath both"),
                "The Moon pulls the near sea harder than the Earth, and the far sea less. Hence two bulges.",
            ),
            Slide(
                "Spring and neap",
                ("Sun and Moon in line: spring", "At right angles: neap", "The coast does the rest"),
                "At new and full moon the Sun helps, and tides are large. A week later they are small.",
            ),
        ),
    ),
)
