"""The colours of contributions: lightness that rises on any ground, grey photos, cool and warm."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import Array, noise, plain

from simmap.engine.figures import heat
from simmap.engine.figures.cielab import lightness, to_srgb
from simmap.engine.figures.heat import apply_heat
from simmap.engine.types import Pixels

JND = 2.3  # of CIELAB


def lab_of(pixels: Pixels) -> Array:
    """CIELAB of sRGB by the textbook, one pixel (3,)."""
    value = pixels.astype(float) / 255
    light = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in value]
    matrix = [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
    xyz = [sum(m * v for m, v in zip(row, light, strict=True)) / sum(row) for row in matrix]
    f = [t ** (1 / 3) if t > (6 / 29) ** 3 else t * (29 / 6) ** 2 / 3 + 4 / 29 for t in xyz]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def colour(value: float, ground: tuple[int, int, int], opacity: float = 0.6) -> Pixels:
    # Off the diagonals that are hatched.
    photo = np.full((3, 3, 3), ground, np.uint8)
    return apply_heat(photo, np.full((3, 3), value, np.float32), opacity)[1, 1]


grounds = st.tuples(*[st.integers(0, 255)] * 3)


@given(grounds)
def test_lightness_rises_with_the_value_on_any_ground(ground: tuple[int, int, int]) -> None:
    rising = [lab_of(colour(value, ground))[0] for value in (0, 0.1, 0.25, 0.5, 1)]
    assert all(high - low >= JND for low, high in pairwise(rising)), rising


@given(grounds)
def test_lightness_never_rises_towards_what_speaks_against(ground: tuple[int, int, int]) -> None:
    falling = [lab_of(colour(-value, ground))[0] for value in (0, 0.25, 0.5, 1)]
    # Clipping to sRGB costs up to one.
    assert all(low - high >= -1.3 for high, low in pairwise(falling[::-1])), falling
    assert falling[-1] <= falling[0] + 1.3


@given(grounds, st.sampled_from([-1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5]))
def test_steps_of_the_scale_can_be_told_apart(ground: tuple[int, int, int], value: float) -> None:
    steps = {-1.0: -0.5, -0.5: -0.25, -0.25: -0.1, -0.1: 0.0, 0.0: 0.1, 0.1: 0.25, 0.25: 0.5, 0.5: 1.0}
    apart = lab_of(colour(value, ground)) - lab_of(colour(steps[value], ground))
    assert np.sqrt((apart**2).sum()) >= 2 * JND


@given(grounds)
def test_the_photo_is_grey_where_nothing_counts(ground: tuple[int, int, int]) -> None:
    _, a, b = lab_of(colour(0, ground))
    assert abs(a) < 0.5 and abs(b) < 0.5


@given(st.integers(0, 255), st.integers(0, 255), st.sampled_from([-1.0, -0.3, 0.0, 0.3, 0.6, 1.0]))
def test_lighter_photos_stay_lighter_under_the_heat(one: int, other: int, value: float) -> None:
    low, high = sorted([one, other])
    dark, light = (lab_of(colour(value, (grey, grey, grey)))[0] for grey in (low, high))
    assert light >= dark - 0.5
    if high - low > 80:
        assert light > dark + 2


@pytest.mark.parametrize(
    "ground", [(0, 0, 0), (128, 128, 128), (255, 255, 255), (200, 30, 30), (20, 20, 200)]
)
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_for_is_warm_and_against_is_blue(ground: tuple[int, int, int], share: float) -> None:
    warm, cool = (colour(sign * share, ground).astype(int) for sign in (1, -1))
    assert warm[0] > warm[2] + 5
    assert cool[2] > cool[0] + 5


def test_values_beyond_the_scale_get_its_last_colour() -> None:
    grey = (90, 90, 90)
    np.testing.assert_array_equal(colour(3, grey), colour(1, grey))
    np.testing.assert_array_equal(colour(-3, grey), colour(-1, grey))


def test_full_opacity_leaves_nothing_of_the_photo_at_full_scale() -> None:
    black, white = colour(1, (0, 0, 0), 1.0), colour(1, (255, 255, 255), 1.0)
    np.testing.assert_array_equal(black, white)
    expected = heat.FOR[-1]
    lab = lab_of(black)
    assert lab[0] == pytest.approx(expected[0], abs=0.6)
    assert np.hypot(lab[1], lab[2]) == pytest.approx(expected[1], abs=3)
    half = lab_of(colour(1, (255, 255, 255), 0.5))[0] - lab_of(colour(1, (0, 0, 0), 0.5))[0]
    assert half == pytest.approx(heat.RELIEF / 2, abs=3)


def test_what_speaks_against_is_hatched_from_a_twentieth_of_the_scale_on() -> None:
    photo = plain(28, 28, 100)
    for value, hatched in ((-0.5, True), (-0.06, True), (-0.04, False), (0.5, False)):
        picture = apply_heat(photo, np.full((28, 28), value, np.float32), 0.6).astype(int)
        lines = np.argwhere((picture != picture[0, 1]).any(axis=-1))
        assert (len(lines) > 0) == hatched
        assert all((y + x) % heat.HATCH_PERIOD == 0 for y, x in lines)
        assert len(lines) in (0, 28 * 28 // heat.HATCH_PERIOD)


@pytest.mark.parametrize("grey", [0, 60, 127, 128, 200, 255])
def test_hatching_can_be_seen_on_any_ground(grey: int) -> None:
    picture = apply_heat(plain(14, 14, grey), np.full((14, 14), -0.3, np.float32), 0.6)
    assert abs(lab_of(picture[0, 0])[0] - lab_of(picture[0, 1])[0]) > 5 * JND


def test_strips_have_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).uniform(-1, 1, (50, 80)).astype(np.float32)
    whole = apply_heat(noise(50, 80), values, 0.6)
    monkeypatch.setattr(heat, "STRIP", 7 * 80 + 3)
    np.testing.assert_array_equal(apply_heat(noise(50, 80), values, 0.6), whole)


@given(st.lists(grounds, min_size=1, max_size=20))
def test_cielab_and_back_is_the_same_colour(colours: list[tuple[int, int, int]]) -> None:
    pixels = np.array(colours, np.uint8)
    back = to_srgb(np.array([lab_of(pixel) for pixel in pixels]))
    assert abs(back.astype(int) - pixels).max() <= 1


def test_lightness_of_greys() -> None:
    greys = np.arange(256, dtype=np.uint8)
    expected = [lab_of(np.full(3, grey, np.uint8))[0] for grey in greys]
    np.testing.assert_allclose(lightness(greys), expected, atol=1e-3)
