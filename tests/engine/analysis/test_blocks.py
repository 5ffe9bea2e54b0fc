"""Blocks of a photo against the map as it is drawn, pixel by pixel."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import ARTIFACTS
from simmap.engine import Engine
from simmap.engine.analysis.blocks import SIDE, BlockGrid, baselines, removed, working_copy
from simmap.engine.contract import InputSpec
from simmap.engine.images.geometry import Geometry
from simmap.engine.images.photo import Photo
from simmap.engine.images.preprocess import preprocess


def geometry(height: int, width: int, resize: Any) -> Geometry:
    return preprocess(np.zeros((height, width, 3), np.uint8), InputSpec(56, 56, resize=resize))[1]


def bilinear(values: Any, y: float, x: float) -> float:
    """The map at a place in cells, whose middles are at + 0.5; beyond the last middle it is flat."""
    height, width = values.shape
    y, x = min(max(y - 0.5, 0), height - 1), min(max(x - 0.5, 0), width - 1)
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = values[top, left] * (1 - (x - left)) + values[top, right] * (x - left)
    lower = values[below, left] * (1 - (x - left)) + values[below, right] * (x - left)
    return float(upper * (1 - (y - top)) + lower * (y - top))


@given(
    st.integers(20, 90), st.integers(20, 90), st.sampled_from(["squash", "crop", "letterbox"]),
    st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_block_has_the_mean_of_the_drawn_map(
    height: int, width: int, resize: str, rows: int, columns: int, seed: int
) -> None:
    where = geometry(height, width, resize)
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    found = BlockGrid(where).values(values).reshape(SIDE, SIDE)
    x0, y0, x1, y1 = where.field
    top, bottom = max(y0, 0), min(y1, height)
    left, right = max(x0, 0), min(x1, width)
    for block_y, block_x in ((0, 0), (3, 8), (SIDE - 1, SIDE - 1)):
        terms = []
        for down in range(4):
            for across in range(4):
                y = top + (block_y + (down + 0.5) / 4) * (bottom - top) / SIDE
                x = left + (block_x + (across + 0.5) / 4) * (right - left) / SIDE
                terms.append(bilinear(values, (y - y0) / (y1 - y0) * rows, (x - x0) / (x1 - x0) * columns))
        assert found[block_y, block_x] == pytest.approx(sum(terms) / 16, abs=1e-9)


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_a_mask_covers_its_blocks_with_soft_edges_and_its_complement_the_rest(resize: str) -> None:
    where = geometry(140, 280, resize)
    grid = BlockGrid(where)
    chosen = np.zeros(SIDE * SIDE, bool)
    chosen[SIDE * 2 + 3 : SIDE * 2 + 6] = True
    mask = grid.mask(chosen)
    assert mask.shape == (140, 280)
    np.testing.assert_allclose(mask + grid.mask(~chosen), 1, atol=1e-5)
    x0, y0, x1, y1 = max(where.field[0], 0), max(where.field[1], 0), where.field[2], where.field[3]
    high, wide = (min(y1, 140) - y0) / SIDE, (min(x1, 280) - x0) / SIDE
    middle = mask[int(y0 + 2.5 * high), int(x0 + 4.5 * wide)]
    far = mask[int(y0 + 8 * high), int(x0 + 4.5 * wide)]
    edge = mask[int(y0 + 2.5 * high), int(x0 + 3 * wide)]
    assert middle > 0.9 and far < 1e-3 and 0.2 < edge < 0.8
    for all_of_it in (True, False):
        whole = grid.mask(np.full(SIDE * SIDE, all_of_it))
        np.testing.assert_allclose(whole, float(all_of_it), atol=1e-6)


def test_what_is_removed_shows_the_baseline_and_the_rest_is_untouched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    versions = baselines(pixels)
    assert set(versions) == {"blur", "mean"}
    assert (versions["mean"] == pixels.reshape(-1, 3).mean(axis=0).round()).all()
    np.testing.assert_array_equal(versions["blur"], cv2.GaussianBlur(pixels, (0, 0), 8.0))
    mask = np.zeros((60, 80), np.float32)
    mask[:, 40:] = 1
    mask[:, 40] = 0.25
    mixed = removed(pixels, versions["mean"], mask)
    np.testing.assert_array_equal(mixed[:, :40], pixels[:, :40])
    np.testing.assert_array_equal(mixed[:, 41:], versions["mean"][:, 41:])
    by_hand = 0.75 * pixels[:, 40].astype(float) + 0.25 * versions["mean"][:, 40]
    assert np.abs(mixed[:, 40] - by_hand).max() <= 1


def test_a_working_copy_is_no_larger_than_the_network_can_tell() -> None:
    with Engine(ARTIFACTS / "max.onnx", device="cpu") as engine:  # takes 32 x 48 pixels
        large = Photo(np.zeros((600, 900, 3), np.uint8), "large")
        assert working_copy(engine, large).shape == (60, 90, 3)
        small = Photo(np.zeros((50, 300, 3), np.uint8), "small")
        assert working_copy(engine, small) is small.pixels
