"""The studio's sound: espeak-ng where it loads, a soft hum where it does not, and the facts of a WAV file."""

from __future__ import annotations

import ctypes
import importlib
import logging
import math
import operator
import statistics
import threading
import wave
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SAMPLE_RATE = 22_050  # what espeak-ng produces
DEFAULT_HERTZ = 105.0
PAUSE_SECONDS = 0.4  # after each text, so that slides do not fall over each other
SHORTEST_SECONDS = 1.0
HUM_SECONDS_A_WORD = 0.35

log = logging.getLogger("studio")
_one_speaker_at_a_time = threading.Lock()  # espeak-ng keeps its state in globals


class StudioError(Exception):
    """The studio cannot do its work."""


@dataclass(frozen=True)
class WavFacts:
    """What was measured of a WAV file; the size is in bytes, the rate in Hz."""

    file_size: int
    duration_seconds: float
    sample_rate: int


def speak(text: str, wav_path: str | Path, *, voice_sample: str | Path | None = None) -> float:
    """Write the text as speech in the pitch of the voice sample, and return its seconds.

    The file is a 16-bit mono WAV. A text without words becomes a short silence.
    """
    hertz = DEFAULT_HERTZ if voice_sample is None else measure_pitch(voice_sample)
    return say(text, wav_path, hertz=hertz)


def say(text: str, wav_path: str | Path, *, hertz: float) -> float:
    """Write the text as speech at a pitch of so many Hz, and return its seconds."""
    sound = bytearray()
    if words := "".join(c if c.isprintable() else " " for c in text).strip():
        with _one_speaker_at_a_time:
            espeak = _espeak()
            sound += espeak.say(words, hertz=hertz) if espeak else _hum(words, hertz=hertz)
    sound += bytes(2 * int(PAUSE_SECONDS * SAMPLE_RATE))
    sound += bytes(max(0, 2 * int(SHORTEST_SECONDS * SAMPLE_RATE) - len(sound)))
    target = Path(wav_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(sound)
    return len(sound) / 2 / SAMPLE_RATE


def measure_wav(path: str | Path) -> WavFacts:
    """Measure a WAV file; a file that is none raises StudioError.

    The seconds are those of the samples that are there, whatever a cut or streamed file's header claims.
    """
    with _reading(Path(path)) as wav:
        size = Path(path).stat().st_size
        header_size = 44
        there = (size - header_size) // (wav.getnchannels() * wav.getsampwidth())
        frames = max(0, min(wav.getnframes(), there))
        return WavFacts(size, frames / wav.getframerate(), wav.getframerate())


def measure_pitch(path: str | Path) -> float:
    """Measure the median pitch of a voice in Hz, between 50 and 400, over its first ten seconds.

    Each of some 20 windows of 55 ms votes with the lag at which its autocorrelation first peaks, if that
    holds half of the window's energy. A sample without a voice has the default pitch.
    """
    samples, rate = _thinned(Path(path), near_rate=SAMPLE_RATE // 4)
    shortest, longest, width = max(1, int(rate / 400)), max(2, int(rate / 50)), int(rate * 0.055)
    last = len(samples) - width - longest
    votes: list[float] = []
    for start in range(0, last, max(1, last // 20)):
        window = samples[start : start + width]
        energy = sum(map(operator.mul, window, window))
        if energy < 300**2 * width:
            continue  # quiet: between words
        likeness = [
            sum(map(operator.mul, window, samples[start + lag : start + lag + width]))
            for lag in range(shortest, longest)
        ]
        peak = _first_peak(likeness)
        if likeness[peak] > energy / 2:
            votes.append(rate / (shortest + peak))
    return statistics.median(votes) if votes else DEFAULT_HERTZ


def _first_peak(likeness: list[int]) -> int:
    """Find the first peak among those nearly as high as the highest: the others are multiples of its lag."""
    highest = max(likeness)
    peak = next(i for i, height in enumerate(likeness) if height >= 0.85 * highest)
    while peak + 1 < len(likeness) and likeness[peak + 1] > likeness[peak]:
        peak += 1
    return peak


@contextmanager
def _reading(path: Path) -> Iterator[wave.Wave_read]:
    try:
        with wave.open(str(path), "rb") as wav:
            if not wav.getframerate():
                raise wave.Error("its sample rate is 0")
            yield wav
    except FileNotFoundError:
        raise StudioError(f"{path}: there is no such WAV file; check the path") from None
    except (wave.Error, EOFError, OSError) as error:
        reason = str(error) or "it ends too early"
        raise StudioError(f"{path}: cannot be read as a PCM WAV file ({reason}); record or export it again") from None


def _thinned(path: Path, *, near_rate: int) -> tuple[array[int], float]:
    """Read the first channel's upper 16 bits, every n-th sample: enough for a pitch."""
    with _reading(path) as wav:
        step = max(1, wav.getframerate() // near_rate)
        width = wav.getsampwidth()
        stride = width * wav.getnchannels() * step
        data = wav.readframes(10 * wav.getframerate())
        highs = data[width - 1 :: stride]
        if width == 1:  # unsigned, alone among the widths
            return array("h", ((high - 128) << 8 for high in highs)), wav.getframerate() / step
        pairs = zip(highs, data[width - 2 :: stride], strict=False)
        signed = (((high ^ 128) - 128) << 8 | low for high, low in pairs)
        return array("h", signed), wav.getframerate() / step


class _Espeak:
    """The espeak-ng library, which can be initialised once in a process."""

    SYNCHRONOUS = 2
    DO_NOT_EXIT = 0x8000
    UTF8 = 1
    PITCH = 3
    # A voice, its Hz at pitch 0, and the growth of its Hz with a step of pitch: measured with measure_pitch.
    LOW = (b"en-us", 69.0, 0.0089)
    HIGH = (b"en-us+f2", 134.0, 0.0080)
    HIGH_FROM_HERTZ = 145.0
    ON_SOUND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

    def __init__(self) -> None:
        loader = importlib.import_module("espeakng_loader")
        self._sound = bytearray()
        self._library = ctypes.CDLL(loader.get_library_path())
        data = str(loader.get_data_path()).encode()
        if self._library.espeak_Initialize(self.SYNCHRONOUS, 0, data, self.DO_NOT_EXIT) != SAMPLE_RATE:
            raise OSError("espeak-ng does not start with its data")
        self._on_sound = self.ON_SOUND(self._keep)  # held here, or it would be collected while C calls it
        self._library.espeak_SetSynthCallback(self._on_sound)

    def _keep(self, samples: int | None, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._sound += ctypes.string_at(samples, 2 * count)
        return 0

    def say(self, text: str, *, hertz: float) -> bytes:
        name, lowest, growth = self.HIGH if hertz >= self.HIGH_FROM_HERTZ else self.LOW
        pitch = round(math.log(hertz / lowest) / growth)
        self._library.espeak_SetVoiceByName(name)
        self._library.espeak_SetParameter(self.PITCH, min(99, max(0, pitch)), 0)
        words = text.encode(errors="replace")
        self._sound.clear()
        self._library.espeak_Synth(words, ctypes.c_size_t(len(words) + 1), 0, 1, 0, self.UTF8, None, None)
        return bytes(self._sound)


@cache
def _espeak() -> _Espeak | None:
    try:
        return _Espeak()
    except (ImportError, OSError, RuntimeError) as error:
        log.warning("espeak-ng cannot load (%s): a tone speaks instead; pip install 'presgen[demo]'", error)
        return None


def _hum(text: str, *, hertz: float) -> bytes:
    """One soft swell of tone a word; scripts without spaces count six characters as a word."""
    words = max(len(text.split()), len(text) // 6)
    length = int(HUM_SECONDS_A_WORD * SAMPLE_RATE)
    turn = 2 * math.pi * hertz / SAMPLE_RATE
    tone = (math.sin(turn * i) + 0.4 * math.sin(2 * turn * i) for i in range(length))
    swell = (2500 * math.sin(math.pi * i / length) * height for i, height in enumerate(tone))
    return array("h", map(int, swell)).tobytes() * words
