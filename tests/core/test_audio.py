"""Sound files: exact round trips, one line for each kind of bad file, and the resampler's band."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from calm_bench.core import audio
from calm_bench.errors import BenchError, InputError
from calm_bench.types import Wave

RATE = 16_000


@pytest.fixture
def noise() -> Wave:
    return (0.2 * np.random.default_rng(0).standard_normal(RATE)).astype(np.float32)


def test_a_written_clip_keeps_its_identity(tmp_path: Path, noise: Wave) -> None:
    written = audio.write_flac(tmp_path / "deep" / "a.flac", noise, RATE)
    wave, rate = audio.read_audio(tmp_path / "deep" / "a.flac")
    assert rate == RATE
    assert wave.dtype == np.float32
    assert np.abs(wave - noise).max() <= 0.5 / 32768 + 1e-9
    assert np.array_equal(wave, written)
    assert audio.audio_hash(wave, rate) == audio.audio_hash(written, RATE)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.flac"]


def test_the_hash_depends_on_every_bit_of_every_sample_and_on_the_rate(noise: Wave) -> None:
    other = noise.copy()
    other[100] = np.nextafter(other[100], np.float32(1))
    others = (other, -noise, noise[::-1], np.pad(noise, (9, 0)), np.pad(noise, (0, 9)))
    hashes = {audio.audio_hash(wave, RATE) for wave in (noise, *others)}
    assert len(hashes | {audio.audio_hash(noise, 2 * RATE)}) == len(others) + 2
    loud = 40 * noise
    assert audio.audio_hash(loud, RATE) != audio.audio_hash(np.clip(loud, -1, 1), RATE)
    nothing = np.zeros(4, np.float32)
    assert audio.audio_hash(nothing, RATE) == audio.audio_hash(-nothing, RATE)


def test_too_loud_samples_are_clipped_not_scaled(tmp_path: Path) -> None:
    wave = np.array([0.0, 0.5, 1.0, -1.0, 1.5, -3.0], dtype=np.float32)
    audio.write_flac(tmp_path / "a.flac", wave, RATE)
    read, _ = audio.read_audio(tmp_path / "a.flac")
    assert read.tolist() == pytest.approx([0.0, 0.5, 1.0, -1.0, 1.0, -1.0], abs=1 / 32768)


def test_stereo_becomes_the_mean_of_its_channels(tmp_path: Path, noise: Wave) -> None:
    stereo = np.stack([noise, np.zeros_like(noise)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    wave, _ = audio.read_audio(tmp_path / "a.wav")
    assert np.allclose(wave, noise / 2, atol=1e-7)
    info = audio.probe_audio(tmp_path / "a.wav")
    assert (info.sample_rate, info.seconds) == (RATE, 1.0)


def test_resampling_passes_the_band_and_stops_what_would_fold() -> None:
    seconds = np.arange(2 * 48_000) / 48_000
    inside = np.sin(2 * np.pi * 0.45 * RATE * seconds).astype(np.float32)
    above = np.sin(2 * np.pi * 0.6 * RATE * seconds).astype(np.float32)
    middle = slice(RATE // 2, -RATE // 2)
    passed, stopped = (audio.resample(wave, 48_000, RATE)[middle] for wave in (inside, above))
    assert np.sqrt(2 * np.mean(passed**2)) == pytest.approx(1.0, abs=0.01)
    assert np.sqrt(np.mean(stopped**2)) < 1e-4
    assert len(audio.resample(inside, 48_000, RATE)) == 2 * RATE
    assert audio.resample(inside, RATE, RATE) is inside


def test_reading_at_another_rate(tmp_path: Path, noise: Wave) -> None:
    audio.write_flac(tmp_path / "a.flac", noise, RATE)
    wave, rate = audio.read_audio(tmp_path / "a.flac", 24_000)
    assert rate == 24_000
    assert len(wave) == 24_000
    assert wave.dtype == np.float32


def test_opus_keeps_length_loudness_and_most_of_the_wave(tmp_path: Path) -> None:
    seconds = np.arange(3 * RATE) / RATE
    wave = (0.3 * np.sin(2 * np.pi * (300 + 200 * seconds) * seconds)).astype(np.float32)
    audio.write_opus(tmp_path / "deep" / "a.opus", wave, RATE)
    audio.write_flac(tmp_path / "a.flac", wave, RATE)
    read, rate = audio.read_audio(tmp_path / "deep" / "a.opus")
    assert (rate, len(read)) == (RATE, len(wave))
    assert np.corrcoef(read, wave)[0, 1] > 0.99
    assert np.sqrt(np.mean(read**2)) == pytest.approx(np.sqrt(np.mean(wave**2)), rel=0.02)
    assert 3 * 5000 < (tmp_path / "deep" / "a.opus").stat().st_size < 3 * 9000  # bytes a second
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.opus"]


def test_opus_of_one_wave_is_the_same_bytes_and_whole_pages(tmp_path: Path, noise: Wave) -> None:
    for name in ("a", "b"):
        audio.write_opus(tmp_path / f"{name}.opus", noise, RATE)
    data = (tmp_path / "a.opus").read_bytes()
    assert data == (tmp_path / "b.opus").read_bytes()
    # The checksums are right: libogg drops a page whose checksum is wrong.
    damaged = bytearray(data)
    damaged[-1] ^= 1
    (tmp_path / "c.opus").write_bytes(damaged)
    assert len(soundfile.read(tmp_path / "a.opus")[0]) == len(noise)
    assert len(soundfile.read(tmp_path / "c.opus")[0]) < len(noise)


RATES = {8000: 8000, 11_025: 12_000, 22_050: 24_000, 44_100: 48_000, 96_000: 48_000}


@pytest.mark.parametrize(("rate", "written"), RATES.items())
def test_opus_takes_a_rate_that_it_lacks_as_the_next_higher_one(
    tmp_path: Path, rate: int, written: int
) -> None:
    wave = 0.2 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    audio.write_opus(tmp_path / "a.opus", wave, rate)
    read, found = audio.read_audio(tmp_path / "a.opus")
    assert found == written
    assert len(read) == pytest.approx(written, abs=1)
    assert np.corrcoef(read, audio.resample(wave, rate, written)[: len(read)])[0, 1] > 0.99


def bad_file(tmp_path: Path, noise: Wave, kind: str) -> Path:
    path = tmp_path / "a.flac"
    audio.write_flac(path, noise, RATE)
    whole = path.read_bytes()
    contents = {"zero bytes": b"", "text": b"not a sound file" * 40, "cut": whole[:9000]}
    if kind == "missing":
        path.unlink()
    elif kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "no samples":
        soundfile.write(path, noise[:0], RATE, format="WAV")
    elif kind == "folder":
        path = tmp_path
    else:
        noise = noise.copy()
        noise[5] = float(kind)
        soundfile.write(path, noise, RATE, format="WAV", subtype="FLOAT")
    return path


@pytest.mark.parametrize(
    "kind", ["missing", "zero bytes", "text", "cut", "no samples", "folder", "nan", "inf"]
)
def test_bad_files_give_one_line_that_names_them(tmp_path: Path, noise: Wave, kind: str) -> None:
    path = bad_file(tmp_path, noise, kind)
    with pytest.raises(InputError) as caught:
        audio.read_audio(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message


def test_probing_what_is_no_sound_file(tmp_path: Path, noise: Wave) -> None:
    with pytest.raises(InputError, match="not a readable sound file"):
        audio.probe_audio(bad_file(tmp_path, noise, "text"))


def test_nan_is_neither_written_nor_hashed(tmp_path: Path) -> None:
    wave = np.array([0.0, np.nan], dtype=np.float32)
    for write in (audio.write_flac, audio.write_opus):
        with pytest.raises(InputError, match="NaN"):
            write(tmp_path / "a", wave, RATE)
    with pytest.raises(InputError, match="NaN"):
        audio.audio_hash(wave, RATE)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, noise: Wave, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.flac"
    audio.write_flac(path, noise, RATE)
    before = path.read_bytes()

    def full_disk(self: Path, target: Path) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with pytest.raises(BenchError, match=r"the disk is full: cannot write .*a\.flac"):
        audio.write_flac(path, noise / 2, RATE)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.flac"]


def streamed_flac(path: Path, wave: Wave, rate: int) -> None:
    """A FLAC as an encoder writes it to a pipe: its header says no length and no checksum."""
    soundfile.write(path, wave, rate)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the upper 4 of 36 bits, then 32 more and an MD5 of 128
    data[22:42] = bytes(20)
    path.write_bytes(data)


def test_a_flac_of_unknown_length_is_simply_read(tmp_path: Path, noise: Wave) -> None:
    streamed_flac(tmp_path / "a.flac", noise, RATE)
    audio.write_flac(tmp_path / "b.flac", noise, RATE)
    whole, _ = audio.read_audio(tmp_path / "b.flac")
    assert np.array_equal(audio.read_audio(tmp_path / "a.flac")[0], whole)
    assert audio.probe_audio(tmp_path / "a.flac").seconds == 1.0
    part, _ = audio.read_audio(tmp_path / "a.flac", start=0.25, seconds=0.5)
    assert np.array_equal(part, whole[4000:12000])
    assert audio.examine(tmp_path / "a.flac") == audio.examine(tmp_path / "b.flac")


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF - 36])
def test_a_wav_that_was_streamed_is_read_and_one_that_was_cut_is_not(
    tmp_path: Path, noise: Wave, size: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise, RATE)
    data = bytearray(path.read_bytes())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"cut short: 7989 of 16000 samples"):
        audio.read_audio(path)
    data[40:44] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert len(audio.read_audio(path)[0]) == RATE


@pytest.mark.parametrize(("missing", "fits"), [(10, True), (160, True), (161, False)])
def test_a_file_may_lack_its_last_moment(
    tmp_path: Path, noise: Wave, missing: int, fits: bool
) -> None:
    """As much as 50 ms and 1 % of it, which is said."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[: -2 * missing])
    if fits:
        assert len(audio.read_audio(path)[0]) == RATE - missing
        (remark,) = audio.examine(path).remarks
        assert remark == f"it lacks its last {missing} of 16000 samples"
    else:
        with pytest.raises(InputError, match="cut short"):
            audio.read_audio(path)


def test_channels_that_cancel_are_said(tmp_path: Path, noise: Wave) -> None:
    path, other = tmp_path / "a.wav", np.random.default_rng(1).standard_normal(RATE)
    for channels, said in (
        ((noise, -noise), "their mean is silence"),
        ((noise, -0.9 * noise), "their mean is 26 dB weaker"),
        ((noise, noise), None),
        ((noise, *[0 * noise] * 5), None),
        ((noise, 0.2 * other), None),  # unrelated
    ):
        soundfile.write(path, np.stack(channels, axis=1), RATE, subtype="FLOAT")
        found = audio.examine(path).remarks
        assert found == (() if said is None else (f"its channels cancel, {said}",))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(("a.wav", {"subtype": subtype}) for subtype in ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
        ("a.wav", {"subtype": "PCM_24", "format": "WAVEX"}),
        ("a.rf64", {"subtype": "PCM_24", "format": "RF64"}),
        *((f"a.{end}", {"subtype": "PCM_24"}) for end in ("w64", "aiff", "au", "caf", "flac")),
        ("a.sph", {"subtype": "PCM_16", "format": "NIST"}),
    ],
)
@pytest.mark.parametrize(("rate", "channels"), [(11_025, 1), (44_100, 2), (96_000, 6)])
def test_any_lossless_form_is_read_as_written(
    tmp_path: Path, name: str, form: dict[str, str], rate: int, channels: int
) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal((rate, channels))
    soundfile.write(tmp_path / name, samples, rate, **form)
    wave, found = audio.read_audio(tmp_path / name)
    step = 2.0**-15 if form["subtype"] == "PCM_16" else 2.0**-23
    assert found == rate
    assert np.abs(wave - samples.mean(axis=1)).max() <= 1.1 * step
    facts = audio.examine(tmp_path / name)
    assert (facts.n_samples, facts.channels, facts.remarks) == (rate, channels, ())
    assert facts.audio_id == audio.audio_hash(wave, rate)


@pytest.mark.parametrize(("rate", "wanted"), [(48_000, 16_000), (44_100, 16_000), (8000, 24_000)])
def test_reading_in_blocks_gives_the_samples_of_resampling_at_once(
    tmp_path: Path, rate: int, wanted: int
) -> None:
    wave = (0.1 * np.random.default_rng(0).standard_normal(7 * rate)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    whole, _ = audio.read_audio(tmp_path / "a.wav", wanted)
    assert np.array_equal(whole, audio.resample(wave, rate, wanted))
    for start, seconds in ((0.0, 1.0), (2.3, 2.0), (3.0, None), (6.5, 9.0)):
        part, found = audio.read_audio(tmp_path / "a.wav", wanted, start=start, seconds=seconds)
        stop = None if seconds is None else round(start * wanted) + round(seconds * wanted)
        expected = whole[round(start * wanted) : stop]
        assert (found, len(part)) == (wanted, len(expected))
        assert np.abs(part - expected).max() < 1e-6


def test_a_stretch_after_the_end_is_refused(tmp_path: Path, noise: Wave) -> None:
    audio.write_flac(tmp_path / "a.flac", noise, RATE)
    with pytest.raises(InputError, match="holds no audio after 2 s"):
        audio.read_audio(tmp_path / "a.flac", start=2.0, seconds=1.0)


def test_examining_finds_the_loudest_tenth_of_a_second(tmp_path: Path) -> None:
    wave = np.full(3 * RATE, 1e-3, np.float32)
    wave[2 * RATE :][: RATE // 10] = 0.5
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    assert audio.examine(tmp_path / "a.wav").level_dbfs == pytest.approx(-6.02)
    soundfile.write(tmp_path / "a.wav", 0 * wave, RATE, subtype="FLOAT")
    assert audio.examine(tmp_path / "a.wav").level_dbfs is None
