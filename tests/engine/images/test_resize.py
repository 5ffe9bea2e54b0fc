"""Resizing, against means and OpenCV's own steps."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine.images.resize import resize

KERNELS = [cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC]
SIDES = st.integers(1, 40)


def noise(height, width):
    return np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), np.uint8)


@given(SIDES, SIDES, st.integers(1, 6), st.integers(1, 6), st.integers(1, 4))
def test_area_gives_means_also_where_the_other_side_grows(height, width, across, down, times):
    pixels = noise(height * down, width * across)
    means = pixels.reshape(height, down, width, across, 3).mean((1, 3))
    assert np.abs(resize(pixels, height, width, cv2.INTER_AREA) - means).max() <= 1
    tall = resize(pixels[:height], height * times, width, cv2.INTER_AREA)
    rows = pixels[:height].reshape(height, width, across, 3).mean(2)
    assert np.abs(tall - np.repeat(rows, times, axis=0)).max() <= 1


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(KERNELS))
def test_the_other_kernels_take_one_step(height, width, to_height, to_width, kernel):
    pixels = noise(height, width)
    once = cv2.resize(pixels, (to_width, to_height), interpolation=kernel)
    mixed = (to_height - height) * (to_width - width) < 0
    if kernel != cv2.INTER_AREA or not mixed:
        np.testing.assert_array_equal(resize(pixels, to_height, to_width, kernel), once)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (10, 20), (10, 90), (60, 20), (30, 90), (30, 45)])
def test_sides_that_grow_may_have_a_kernel_of_their_own(height, width):
    pixels = noise(30, 45)
    expected = pixels
    low, narrow = min(height, 30), min(width, 45)
    if (low, narrow) != (30, 45):
        expected = cv2.resize(expected, (narrow, low), interpolation=cv2.INTER_AREA)
    if (low, narrow) != (height, width):
        expected = cv2.resize(expected, (width, height), interpolation=cv2.INTER_LINEAR)
    result = resize(pixels, height, width, cv2.INTER_AREA, grow=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(result, expected)
