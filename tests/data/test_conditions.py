"""A condition changes a recording by as much as it says, the same way each time."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autoreap.data.conditions import Condition, Waveform, read_condition
from autoreap.errors import InputError

RATE = 16_000


def tone(hertz: float = 440.0, seconds: float = 1.0) -> Waveform:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def power(waveform: Waveform) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def test_no_condition_changes_nothing() -> None:
    assert np.array_equal(Condition().applied(tone(), RATE, "a"), tone())


@settings(max_examples=30, deadline=None)
@given(snr_db=st.floats(-10, 40), noise=st.sampled_from(("white", "pink", "brown")), seed=st.integers(0, 5))
def test_noise_is_as_loud_as_the_ratio_says(snr_db: float, noise: str, seed: int) -> None:
    heard = Condition(snr_db=snr_db, noise=noise, seed=seed).applied(tone(), RATE, "a")
    assert 10 * np.log10(power(tone()) / power(heard - tone())) == pytest.approx(snr_db, abs=0.05)


def test_noise_and_room_are_drawn_from_the_name_and_the_seed_alone() -> None:
    condition = Condition(snr_db=5, room_seconds=0.3)
    first = condition.applied(tone(), RATE, "a")
    assert np.array_equal(condition.applied(tone(), RATE, "a"), first)
    assert not np.array_equal(condition.applied(tone(), RATE, "b"), first)
    assert not np.array_equal(Condition(snr_db=5, room_seconds=0.3, seed=1).applied(tone(), RATE, "a"), first)


@pytest.mark.parametrize(("noise", "slope"), [("white", 0.0), ("pink", -3.0), ("brown", -6.0)])
def test_each_colour_falls_by_so_many_decibels_an_octave(noise: str, slope: float) -> None:
    silence = np.full(8 * RATE, 1e-3, dtype=np.float32)
    spectrum = np.abs(np.fft.rfft(Condition(snr_db=0, noise=noise).applied(silence, RATE, "a") - silence)) ** 2
    octaves = [spectrum[low * 8 : 2 * low * 8].mean() for low in (250, 500, 1000, 2000)]
    assert np.mean(np.diff(10 * np.log10(octaves))) == pytest.approx(slope, abs=0.3)


@pytest.mark.parametrize(("hertz", "remains"), [(100, False), (1000, True), (6000, False)])
def test_a_telephone_carries_the_voice_band(hertz: float, remains: bool) -> None:
    ratio = power(Condition(band="telephone").applied(tone(hertz), RATE, "a")) / power(tone(hertz))
    assert (ratio > 0.9) if remains else (ratio < 0.02)


@pytest.mark.parametrize("speed", [0.9, 1.25])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    heard = Condition(speed=speed).applied(tone(), RATE, "a")
    assert len(heard) == pytest.approx(RATE / speed, abs=2)
    peak = np.argmax(np.abs(np.fft.rfft(heard))) * RATE / len(heard)
    assert peak == pytest.approx(440 * speed, rel=0.01)


def test_a_room_rings_for_its_time_and_keeps_loudness_and_length() -> None:
    click = np.zeros(RATE, dtype=np.float32)
    click[0] = 1.0
    heard = Condition(room_seconds=0.5).applied(click, RATE, "a")
    assert len(heard) == len(click)
    assert power(heard) == pytest.approx(power(click), rel=1e-3)
    early, late = power(heard[200:1000]), power(heard[4200:5000])  # a quarter of a second later
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=2)


@pytest.mark.parametrize("seconds", [0.25, 3.0])
def test_a_recording_of_noise_is_cut_or_repeated(tmp_path: Path, seconds: float) -> None:
    hum = tone(60, seconds)
    soundfile.write(tmp_path / "cabin.wav", hum, RATE)
    added = Condition(noise=str(tmp_path / "cabin.wav"), snr_db=10).applied(tone(), RATE, "a") - tone()
    assert 10 * np.log10(power(tone()) / power(added)) == pytest.approx(10, abs=0.1)
    assert np.argmax(np.abs(np.fft.rfft(added))) == pytest.approx(60, abs=2)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"speed": 3}, "speed"), ({"speed": float("nan")}, "speed"), ({"room_seconds": -1}, "room_seconds"),
        ({"snr_db": 1000}, "snr_db"), ({"noise": "purple"}, "noise"), ({"band": "wide"}, "band"),
    ],
)  # fmt: skip
def test_what_no_condition_can_be_is_refused(values: dict[str, float], where: str) -> None:
    with pytest.raises(ValidationError, match=f"\n{where}\n  must be"):
        Condition(**values)  # type: ignore[arg-type]


def test_a_condition_is_read_from_a_line_with_the_keys_of_an_evals_file() -> None:
    assert read_condition("noise: pink, snr_db: 10", where="heal_condition") == Condition(noise="pink", snr_db=10)


@pytest.mark.parametrize(
    "text", ["", "speed:2", "noise: pink, snr_db", "noise", "{", "- 1", "nois: pink", "snr_db: loud"]
)
def test_a_line_that_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="heal_condition"):
        read_condition(text, where="heal_condition")
