"""A small studio that turns a deck into a narrated video: read it, draw it, speak it, put it together.

It knows nothing of presgen: a worker calls it between two changes of a job's status.
"""

from __future__ import annotations

import bisect
import importlib
import logging
import re
import subprocess
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .speech import StudioError, WavFacts, measure_wav, speak

__all__ = [
    "BadDeck", "Slide", "StudioError", "Video", "WavFacts",
    "assemble", "measure_wav", "read_deck", "render_slides", "speak",
]  # fmt: skip

SIZE = WIDTH, HEIGHT = 1280, 720
MARGIN = 96
PAPER, INK, FAINT, ACCENT = "#faf8f3", "#1f2d3a", "#8a949c", "#d9822b"
TITLE_SIZES, BODY_SIZES = (64, 54, 44, 36), (48, 40, 34, 28, 24, 20)
PLAIN_LETTERS = {
    ord("\N{EN DASH}"): "-",
    ord("—"): "-",
    ord("→"): "->",
    ord("ß"): "ss",
    ord("ø"): "o",
    ord("æ"): "ae",
}
MOST_CHARACTERS = 3000  # more cannot be read on one slide
FRAMES_A_SECOND = 10  # slides stand still, and every player plays it

log = logging.getLogger("studio")


class BadDeck(StudioError, ValueError):
    """The file is no deck that can be presented."""


@dataclass(frozen=True)
class Slide:
    """What a slide says: on the screen, and in its speaker notes."""

    title: str
    body: tuple[str, ...]
    notes: str


@dataclass(frozen=True)
class Video:
    """A finished video; seconds and size (bytes) are measured from the file."""

    path: Path
    seconds: float
    size: int


def library(name: str) -> ModuleType:
    """Import one of the libraries that come with the demo."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StudioError(f"the studio needs {name} ({error}): pip install 'presgen[demo]'") from None


def read_deck(path: str | Path) -> list[Slide]:
    """Read the words and notes of each slide of a .pptx file; BadDeck if it is none or has no slides."""
    deck_path = Path(path)
    pptx = library("pptx")
    if not deck_path.is_file():
        raise BadDeck(f"{deck_path}: there is no such file; check the path of the deck")
    try:
        slides = [_read_slide(slide) for slide in pptx.Presentation(str(deck_path)).slides]
    except PermissionError:
        raise BadDeck(f"{deck_path}: the deck may not be read; check the file's permissions") from None
    except Exception:  # a damaged deck can fail anywhere in the zip, XML and pptx libraries
        log.debug("%s is no deck", deck_path, exc_info=True)
        raise BadDeck(
            f"{deck_path}: not a PowerPoint deck that can be read; save it again as .pptx, without a password"
        ) from None
    if not slides:
        raise BadDeck(f"{deck_path}: the deck has no slides; add one and save it again")
    return slides


def _read_slide(slide: Any) -> Slide:
    title = slide.shapes.title
    texts = [text for shape in slide.shapes if shape != title for text in _texts(shape)]
    body = [" ".join(line.split()) for text in texts for line in text.splitlines()]
    notes = slide.notes_slide.notes_text_frame if slide.has_notes_slide else None
    return Slide(
        title=" ".join(title.text_frame.text.split()) if title is not None else "",
        body=tuple(line for line in body if line),
        notes=notes.text.strip() if notes is not None else "",
    )


def _texts(shape: Any) -> Iterator[str]:
    """Yield the texts of a shape: its own, its table's rows, those of the shapes grouped in it."""
    if hasattr(shape, "shapes"):
        for member in shape.shapes:
            yield from _texts(member)
    elif shape.has_text_frame and not _is_furniture(shape):
        yield shape.text_frame.text
    elif getattr(shape, "has_table", False):
        yield from ("  ".join(cell.text for cell in row.cells) for row in shape.table.rows)


def _is_furniture(shape: Any) -> bool:
    furniture = {"DATE", "FOOTER", "SLIDE_NUMBER"}
    return bool(shape.is_placeholder) and shape.placeholder_format.type.name in furniture


def render_slides(deck_path: str | Path, folder: str | Path) -> list[Path]:
    """Draw the words of each slide as a PNG of 1280x720 in the folder, and return the files in order.

    Pictures are left out, and a script that Pillow's own font lacks appears as boxes.
    """
    slides = read_deck(deck_path)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for number, slide in enumerate(slides, start=1):
        files.append(target / f"slide-{number:03}.png")
        _draw(slide, number, len(slides)).save(files[-1], compress_level=1)
    return files


def _draw(slide: Slide, number: int, count: int) -> Any:
    image = library("PIL.Image").new("RGB", SIZE, PAPER)
    draw = library("PIL.ImageDraw").Draw(image)
    draw.rectangle((0, 0, 20, HEIGHT), fill=ACCENT)
    font, rows = _fit([slide.title], TITLE_SIZES, width=WIDTH - 2 * MARGIN, height=140)
    top = 72
    for _, text in rows:
        draw.text((MARGIN, top), text, font=font, fill=INK, stroke_width=1, stroke_fill=INK)
        top += _line_height(font)
    draw.rectangle((MARGIN, top + 18, MARGIN + 120, top + 23), fill=ACCENT)
    top += 64
    font, rows = _fit(slide.body, BODY_SIZES, width=WIDTH - 2 * MARGIN - 40, height=HEIGHT - 90 - top)
    for is_first, text in rows:
        middle = top + font.size * 0.62
        if is_first:
            draw.ellipse((MARGIN, middle - 6, MARGIN + 12, middle + 6), fill=ACCENT)
        draw.text((MARGIN + 40, top), text, font=font, fill=INK)
        top += _line_height(font)
    font = _font(22)
    draw.text((WIDTH - MARGIN, HEIGHT - 44), f"{number} / {count}", font=font, fill=FAINT, anchor="rm")
    draw.rectangle((0, HEIGHT - 8, WIDTH * number // count, HEIGHT), fill=ACCENT)
    return image


def _font(size: int) -> Any:
    return library("PIL.ImageFont").load_default(size)


def _line_height(font: Any) -> int:
    return int(font.size * 1.4)


def _fit(
    paragraphs: Sequence[str], sizes: Sequence[int], *, width: int, height: int
) -> tuple[Any, list[tuple[bool, str]]]:
    """Wrap the paragraphs in the largest font that fits; past the smallest, cut them with an ellipsis.

    Each row says whether it is the first of its paragraph.
    """
    rows: list[tuple[bool, str]] = []
    for size in sizes:
        font = _font(size)
        wrapped = [_wrap(_plain(paragraph[:MOST_CHARACTERS]), font, width) for paragraph in paragraphs]
        rows = [(i == 0, line) for lines in wrapped for i, line in enumerate(lines)]
        room = height // _line_height(font)
        if len(rows) <= room:
            return font, rows
    is_first, last = rows[room - 1]
    return font, [*rows[: room - 1], (is_first, last[:-3] + "...")]


def _plain(text: str) -> str:
    """Put plain letters for accents and dashes, which Pillow's own font lacks."""
    letters = unicodedata.normalize("NFKD", text.translate(PLAIN_LETTERS))
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def _wrap(text: str, font: Any, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width:  # no space in it: a long address, or Chinese
            ends = range(2, len(word))
            cut = 1 + bisect.bisect_right(ends, width, key=lambda end: font.getlength(word[:end]))
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line] if line else lines


def assemble(slides: Sequence[Path], audio: Sequence[Path], video_path: str | Path) -> Video:
    """Write an MP4 (H.264, AAC) that shows each slide for as long as its audio, a WAV file, sounds.

    The video appears under its name whole or not at all. StudioError says in one line what went wrong.
    """
    target = Path(video_path).absolute()
    if not slides or len(slides) != len(audio):
        raise StudioError(
            f"{target}: {len(slides)} slides and {len(audio)} audio files; a video needs one for each slide"
        )
    seconds = [measure_wav(path).duration_seconds for path in audio]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as workshop:
            listing = Path(workshop, "slides.txt")
            listing.write_text(_listing(slides, seconds), encoding="utf-8")
            part = Path(workshop, "video.mp4")
            _ffmpeg(_recipe(listing, audio, total=sum(seconds), target=part), about=target)
            video = Video(target, _measure_seconds(part), part.stat().st_size)
            part.replace(target)
    except OSError as error:
        raise StudioError(f"{target}: the video cannot be written ({error}); check the folder") from None
    return video


def _listing(slides: Sequence[Path], seconds: Sequence[float]) -> str:
    """List the slides for ffmpeg, which reads each once."""
    lines = ["ffconcat version 1.0"]
    for slide, duration in zip(slides, seconds, strict=True):
        quoted = str(slide.absolute()).replace("'", r"'\''")
        lines += [f"file '{quoted}'", f"duration {duration:.6f}"]
    return "\n".join(lines)


def _recipe(listing: Path, audio: Sequence[Path], *, total: float, target: Path) -> list[str]:
    # A slide is one frame: fps repeats it until the next, tpad repeats the last until -t ends the video.
    pictures = f"[0:v]scale={WIDTH}:{HEIGHT},fps={FRAMES_A_SECOND},tpad=stop_mode=clone:stop=-1[v]"
    sounds = "".join(f"[{i}:a]" for i in range(1, len(audio) + 1)) + f"concat=n={len(audio)}:v=0:a=1[a]"
    return [
        *("-f", "concat", "-safe", "0", "-i", str(listing)),
        *(word for path in audio for word in ("-i", str(path.absolute()))),
        *("-filter_complex", f"{pictures};{sounds}"),
        *(
            "-map",
            "[v]",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-tune",
            "stillimage",
            "-pix_fmt",
            "yuv420p",
        ),
        *("-map", "[a]", "-c:a", "aac", "-b:a", "96k", "-ar", "44100", "-ac", "1"),
        *("-t", f"{total:.6f}", "-movflags", "+faststart", "-f", "mp4", str(target)),
    ]


def _ffmpeg(words: Sequence[str], *, about: Path) -> None:
    command = [_ffmpeg_path(), "-nostdin", "-hide_banner", "-loglevel", "error", "-xerror", "-y", *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        said = re.sub(r"\[[^]]* @ 0x\w+\]", "", done.stderr.decode(errors="replace"))
        tail = " ".join(said.split())[-300:]
        raise StudioError(f"{about}: ffmpeg made no video (exit {done.returncode}): {tail}")


def _ffmpeg_path() -> str:
    try:
        return str(library("imageio_ffmpeg").get_ffmpeg_exe())
    except RuntimeError as error:
        raise StudioError(f"there is no ffmpeg ({error}): pip install 'presgen[demo]'") from None


def _measure_seconds(video: Path) -> float:
    command = [_ffmpeg_path(), "-hide_banner", "-i", str(video)]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).stderr
    found = re.search(rb"Duration: (\d+):(\d+):(\d+\.\d+)", said)
    if not found:
        raise StudioError(f"{video}: ffmpeg cannot tell how long the video is")
    hours, minutes, seconds = (float(number) for number in found.groups())
    return hours * 3600 + minutes * 60 + seconds
