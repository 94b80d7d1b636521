"""The studio of the demo makes real videos, and says in one line why it cannot."""

from __future__ import annotations

import importlib
import logging
import shutil
import subprocess
import sys
import wave
from array import array
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest

from presgen.examples import samples, speech, studio

ROOT = Path(__file__).parents[2]


def loudest(wav_path: Path) -> int:
    with wave.open(str(wav_path)) as wav:
        return max(map(abs, array("h", wav.readframes(wav.getnframes()))))


def decoded(video: Path, *, stream: str, form: str) -> bytes:
    """Decode one stream of the video to raw bytes; ffmpeg fails if there is none."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i", str(video)]
    command += ["-map", f"0:{stream}", "-f", form, "-"]
    return subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL).stdout


def one_line(error: pytest.ExceptionInfo[Exception], *, about: Path) -> str:
    message = str(error.value)
    assert str(about) in message
    assert "\n" not in message
    return message


@pytest.fixture
def deck(tmp_path: Path) -> Path:
    talk = samples.DECKS[0]
    return samples.make_deck(tmp_path / "deck.pptx", talk.title, talk.slides)


@pytest.fixture
def scenes(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Two slides and a second of silence for each."""
    slides = [studio.Slide("One", ("a line",), ""), studio.Slide("Two", ("a line",), "")]
    deck = samples.make_deck(tmp_path / "scenes" / "two.pptx", "Two", slides)
    audio = [tmp_path / "scenes" / f"{number}.wav" for number in (1, 2)]
    for path in audio:
        studio.speak("", path)
    return studio.render_slides(deck, tmp_path / "scenes"), audio


@pytest.fixture
def without_espeak(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    speech._espeak.cache_clear()
    yield
    speech._espeak.cache_clear()


def test_a_deck_becomes_a_video_that_plays_as_long_as_it_speaks(deck: Path, tmp_path: Path) -> None:
    slides = studio.read_deck(deck)
    pictures = studio.render_slides(deck, tmp_path / "slides")
    audio = [tmp_path / f"{number}.wav" for number in range(len(slides))]
    spoken = sum(studio.speak(slide.notes, path) for slide, path in zip(slides, audio, strict=True))

    video = studio.assemble(pictures, audio, tmp_path / "made" / "video.mp4")

    assert video.seconds == pytest.approx(spoken, abs=0.3)
    assert video.size == video.path.stat().st_size
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(video.path))
    assert seconds == pytest.approx(spoken, abs=0.3)
    assert frames == pytest.approx(spoken * studio.FRAMES_A_SECOND, abs=2)
    facts = next(imageio_ffmpeg.read_frames(str(video.path)))
    assert (facts["codec"], facts["size"], facts["audio_codec"]) == ("h264", studio.SIZE, "aac")
    assert facts["pix_fmt"].startswith("yuv420p")
    sound = array("h", decoded(video.path, stream="a", form="s16le"))
    assert max(map(abs, sound)) > 3000
    assert len(sound) / 44_100 == pytest.approx(spoken, abs=0.3)


def test_the_index_of_a_video_stands_first(scenes: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    content = studio.assemble(*scenes, tmp_path / "video.mp4").path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_each_slide_is_shown_while_its_own_notes_sound(tmp_path: Path) -> None:
    from PIL import Image

    slides, audio = [], []
    for number, (colour, words) in enumerate((("white", "A first and rather long sentence."), ("black", ""))):
        slides.append(tmp_path / f"it's {number}.png")
        audio.append(tmp_path / f"it's {number}.wav")
        Image.new("RGB", studio.SIZE, colour).save(slides[-1])
        studio.speak(words, audio[-1])
    video = studio.assemble(slides, audio, tmp_path / "video.mp4")
    pixels = decoded(video.path, stream="v", form="rawvideo")
    frame_size = studio.WIDTH * studio.HEIGHT * 3 // 2
    white = sum(pixels[start] > 128 for start in range(0, len(pixels), frame_size))
    first = studio.measure_wav(audio[0]).duration_seconds
    assert white / studio.FRAMES_A_SECOND == pytest.approx(first, abs=0.15)
    assert pixels[-frame_size] < 128


def test_a_sample_deck_reads_back_as_it_was_written(tmp_path: Path) -> None:
    for talk in samples.DECKS:
        path = samples.make_deck(tmp_path / f"{talk.name}.pptx", talk.title, talk.slides)
        assert studio.read_deck(path) == list(talk.slides)


def test_tables_groups_and_line_breaks_are_read_and_footers_are_not(tmp_path: Path) -> None:
    import pptx

    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts.get_by_name("Title Only"))
    slide.shapes.title.text = "A title\vin two lines"
    table = slide.shapes.add_table(1, 2, 0, 0, 99, 99).table
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    slide.shapes.add_group_shape().shapes.add_textbox(0, 0, 9, 9).text_frame.text = "grouped\v\vbroken"
    for placeholder in deck.slide_layouts.get_by_name("Title Only").placeholders:
        if placeholder.placeholder_format.type.name == "FOOTER":
            slide.shapes.clone_placeholder(placeholder)
            slide.placeholders[placeholder.placeholder_format.idx].text = "not said"
    deck.save(str(tmp_path / "deck.pptx"))
    assert studio.read_deck(tmp_path / "deck.pptx") == [
        studio.Slide("A title in two lines", ("left right", "grouped", "broken"), "")
    ]


def test_notes_are_heard(tmp_path: Path) -> None:
    seconds = studio.speak("The sea comes in and goes out again.", tmp_path / "notes.wav")
    facts = studio.measure_wav(tmp_path / "notes.wav")
    assert facts.duration_seconds == pytest.approx(seconds)
    assert seconds > 1.5
    assert loudest(tmp_path / "notes.wav") > 3000


def test_no_notes_become_a_short_silence(tmp_path: Path) -> None:
    assert studio.speak(" \n\t", tmp_path / "nothing.wav") == pytest.approx(speech.SHORTEST_SECONDS)
    assert loudest(tmp_path / "nothing.wav") == 0


def test_espeak_is_loaded_once_and_speaks_again_after_a_long_text(tmp_path: Path) -> None:
    lengths = [studio.speak(text, tmp_path / "a.wav") for text in ("Short.", "Quite long. " * 40, "Short.")]
    assert lengths[0] == pytest.approx(lengths[2], abs=0.2)
    assert speech._espeak.cache_info().misses == 1


@pytest.mark.usefixtures("without_espeak")
def test_a_tone_speaks_when_espeak_cannot_load(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="studio"):
        short = studio.speak("Only four short words", tmp_path / "short.wav")
        long = studio.speak("This one has more words than the other one had", tmp_path / "long.wav")
    assert long > short > 1
    assert loudest(tmp_path / "short.wav") > 1000
    (record,) = [record for record in caplog.records if record.name == "studio"]
    assert "espeak-ng cannot load" in record.getMessage()
    assert "presgen[demo]" in record.getMessage()


def test_a_library_that_is_there_but_does_not_start_gives_a_tone_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    loader = importlib.import_module("espeakng_loader")
    monkeypatch.setattr(loader, "get_library_path", lambda: str(tmp_path / "not-there.so"))
    speech._espeak.cache_clear()
    request.addfinalizer(speech._espeak.cache_clear)
    assert studio.speak("Only four short words", tmp_path / "tone.wav") > 1
    assert loudest(tmp_path / "tone.wav") > 1000


@pytest.mark.parametrize("has_espeak", [True, False])
def test_two_voice_samples_speak_differently_and_each_in_its_own_pitch(
    tmp_path: Path, request: pytest.FixtureRequest, has_espeak: bool
) -> None:
    if not has_espeak:
        request.getfixturevalue("without_espeak")
    heard = {}
    for name in ("Maria", "Ken"):
        sample = samples.make_voice(tmp_path / f"{name}.wav", name)
        studio.speak("The same few words are said by everybody here.", tmp_path / "it.wav", voice_sample=sample)
        heard[name] = speech.measure_pitch(tmp_path / "it.wav")
        assert heard[name] == pytest.approx(speech.measure_pitch(sample), rel=0.25)
    assert heard["Ken"] > 1.4 * heard["Maria"]


@pytest.mark.parametrize(("width", "channels", "rate"), [(1, 1, 8000), (2, 2, 48_000), (3, 1, 44_100)])
def test_the_pitch_of_a_sample_is_measured_in_every_pcm_format(
    tmp_path: Path, width: int, channels: int, rate: int
) -> None:
    import math

    heights = (0.5 * math.sin(2 * math.pi * 200 * i / rate) for i in range(2 * rate))
    top = 2 ** (8 * width - 1)
    frames = ((int(height * top) + (top if width == 1 else 0)) for height in heights)
    data = b"".join(frame.to_bytes(width, "little", signed=width > 1) * channels for frame in frames)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(width)
        wav.setframerate(rate)
        wav.writeframes(data)
    assert speech.measure_pitch(tmp_path / "tone.wav") == pytest.approx(200, rel=0.05)


def test_a_silent_or_tiny_voice_sample_gives_the_default_pitch(tmp_path: Path) -> None:
    studio.speak("", tmp_path / "silent.wav")
    assert speech.measure_pitch(tmp_path / "silent.wav") == speech.DEFAULT_HERTZ
    with wave.open(str(tmp_path / "tiny.wav"), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(40)
        wav.writeframes(b"\x00\x70" * 400)
    assert speech.measure_pitch(tmp_path / "tiny.wav") > 0


def test_a_sample_voice_lasts_two_to_four_seconds(tmp_path: Path) -> None:
    for name in ("Ada", "Linus", "Margaret"):
        facts = studio.measure_wav(samples.make_voice(tmp_path / f"{name}.wav", name))
        assert 2 < facts.duration_seconds < 4.5


def test_wav_facts_are_measured_and_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "one.wav"
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(2)
        wav.setsampwidth(2)
        wav.setframerate(8000)
        wav.writeframes(bytes(2 * 2 * 12_000))
    assert studio.measure_wav(path) == studio.WavFacts(48_044, 1.5, 8000)
    path.write_bytes(path.read_bytes()[: 44 + 2 * 2 * 4000])
    assert studio.measure_wav(path) == studio.WavFacts(16_044, 0.5, 8000)


@pytest.mark.parametrize("content", [b"", b"no sound at all", b"RIFF\x24\x00\x00\x00WAVE", None])
def test_a_file_that_is_no_wav_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "sample.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(studio.StudioError) as error:
        studio.speak("Hello.", tmp_path / "said.wav", voice_sample=path)
    one_line(error, about=path)


def test_a_wav_that_claims_no_sample_rate_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sample.wav"
    studio.speak("", path)
    content = bytearray(path.read_bytes())
    content[24:28] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(studio.StudioError, match="sample rate is 0"):
        studio.measure_wav(path)


def test_a_file_that_is_no_deck_is_refused_in_one_line(tmp_path: Path) -> None:
    path = samples.make_broken_deck(tmp_path / "broken.pptx")
    with pytest.raises(studio.BadDeck) as error:
        studio.read_deck(path)
    assert "save it again as .pptx" in one_line(error, about=path)
    assert isinstance(error.value, ValueError)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_a_deck_that_was_cut_off_is_refused(deck: Path, tmp_path: Path) -> None:
    deck.write_bytes(deck.read_bytes()[:-2000])
    with pytest.raises(studio.BadDeck):
        studio.render_slides(deck, tmp_path / "slides")
    assert not (tmp_path / "slides").exists()


@pytest.mark.parametrize("name", ["missing.pptx", "."])
def test_a_missing_deck_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(studio.BadDeck) as error:
        studio.read_deck(tmp_path / name)
    assert "no such file" in one_line(error, about=tmp_path / name)


def test_a_deck_without_slides_is_refused(tmp_path: Path) -> None:
    path = samples.make_deck(tmp_path / "empty.pptx", "Nothing", [])
    with pytest.raises(studio.BadDeck) as error:
        studio.render_slides(path, tmp_path)
    assert "has no slides" in one_line(error, about=path)


def test_long_text_and_every_script_are_drawn_and_spoken(tmp_path: Path) -> None:
    slides = [
        studio.Slide("Long " * 200, tuple(f"{number} " + "word " * 60 for number in range(50)), "x" * 40),
        studio.Slide("蜜蜂的舞蹈 🐝", ("蜜蜂" * 2000, "🐝" * 90, "x" * 5000), "蜜蜂 🐝 Größe, ça va? <b>\x01 [[x]]"),
        studio.Slide("", (), ""),
        studio.Slide("مرحبا שלום", ("Ünïcödé — “quoted” → done",), "مرحبا"),
    ]
    deck = samples.make_deck(tmp_path / "déck 'ß'.pptx", "Odd", slides)
    pictures = studio.render_slides(deck, tmp_path / "it's 🐝")
    audio = [tmp_path / f"it's 🐝 {number}.wav" for number in range(len(slides))]
    spoken = [studio.speak(slide.notes, path) for slide, path in zip(studio.read_deck(deck), audio, strict=True)]
    video = studio.assemble(pictures, audio, tmp_path / "it's 🐝 %d.mp4")
    assert video.seconds == pytest.approx(sum(spoken), abs=0.3)


def test_text_stays_inside_the_slide(tmp_path: Path) -> None:
    from PIL import Image, ImageChops

    slide = studio.Slide("W" * 400, tuple("W" * 200 for _ in range(30)), "")
    deck = samples.make_deck(tmp_path / "wide.pptx", "Wide", [slide])
    (picture,) = studio.render_slides(deck, tmp_path)
    drawn = Image.open(picture)
    plain = Image.new("RGB", studio.SIZE, studio.PAPER)
    inner = ImageChops.difference(drawn, plain).crop((21, 0, studio.WIDTH, studio.HEIGHT - 60))
    box = inner.getbbox()
    assert box is not None
    assert box[2] <= studio.WIDTH - studio.MARGIN // 2
    assert box[3] < studio.HEIGHT - 60


def test_a_failed_assembly_says_why_and_leaves_nothing(scenes: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    slides, audio = scenes
    slides[0].write_bytes(slides[0].read_bytes()[:3000])
    target = tmp_path / "made" / "video.mp4"
    with pytest.raises(studio.StudioError) as error:
        studio.assemble(slides, audio, target)
    assert "ffmpeg made no video" in one_line(error, about=target)
    assert list(target.parent.iterdir()) == []


def test_a_failed_assembly_keeps_the_video_of_before(scenes: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    slides, audio = scenes
    target = tmp_path / "video.mp4"
    target.write_bytes(b"the one before")
    slides[0].unlink()
    with pytest.raises(studio.StudioError):
        studio.assemble(slides, audio, target)
    assert target.read_bytes() == b"the one before"


def test_a_killed_worker_leaves_no_half_video(scenes: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from presgen.examples import studio

def half(words, *, about):
    Path(words[-1]).write_bytes(b"half a video")
    print("half", flush=True)
    time.sleep(600)

studio._ffmpeg = half
slide, sound, target = map(Path, sys.argv[1:])
studio.assemble([slide], [sound], target)
"""
    target = tmp_path / "made" / "video.mp4"
    words = [sys.executable, "-P", "-c", script, str(scenes[0][0]), str(scenes[1][0]), str(target)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "half\n"
        worker.kill()
    assert not target.exists()
    assert studio.assemble(*scenes, target).seconds == pytest.approx(2, abs=0.3)


def test_an_interrupted_worker_cleans_up(
    scenes: tuple[list[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(words: list[str], *, about: Path) -> None:
        Path(words[-1]).write_bytes(b"half a video")
        raise KeyboardInterrupt

    monkeypatch.setattr(studio, "_ffmpeg", interrupted)
    with pytest.raises(KeyboardInterrupt):
        studio.assemble(*scenes, tmp_path / "made" / "video.mp4")
    assert list((tmp_path / "made").iterdir()) == []


def test_slides_without_their_audio_are_refused(scenes: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    slides, audio = scenes
    with pytest.raises(studio.StudioError, match="2 slides and 1 audio files"):
        studio.assemble(slides, audio[:1], tmp_path / "video.mp4")
    with pytest.raises(studio.StudioError, match="0 slides"):
        studio.assemble([], [], tmp_path / "video.mp4")


def test_a_folder_that_cannot_be_written_is_one_line(scenes: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    target = tmp_path / "file" / "video.mp4"
    with pytest.raises(studio.StudioError) as error:
        studio.assemble(*scenes, target)
    assert "cannot be written" in one_line(error, about=target)


@pytest.mark.parametrize(
    ("module", "work"),
    [
        ("pptx", lambda deck, folder: studio.read_deck(deck)),
        ("PIL.Image", lambda deck, folder: studio.render_slides(deck, folder)),
        ("imageio_ffmpeg", lambda deck, folder: studio._ffmpeg_path()),
    ],
)
def test_a_missing_library_says_which_extra_to_install(
    deck: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, work: object
) -> None:
    assert callable(work)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(studio.StudioError, match=r"pip install 'presgen\[demo\]'") as error:
        work(deck, tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_ffmpeg_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", nowhere)
    with pytest.raises(studio.StudioError, match="presgen"):
        studio._ffmpeg_path()


def test_the_studio_also_works_inside_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "shipped" / "examples")
    monkeypatch.syspath_prepend(str(tmp_path))
    shipped = importlib.import_module("shipped.examples.samples")
    assert shipped.Slide.__module__ == "shipped.examples.studio"


def test_importing_the_studio_loads_no_heavy_library() -> None:
    script = (
        "import sys; from presgen.examples import samples, studio; "
        "print({'pptx', 'PIL', 'imageio_ffmpeg', 'espeakng_loader', 'lxml'} & set(sys.modules))"
    )
    words = [sys.executable, "-P", "-c", script]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
