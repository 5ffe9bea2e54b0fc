"""The fewest places of a share against brute force, and the lines around exactly these cells."""

from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scenes import Array

from simmap.engine.decompose import fewest_places
from simmap.engine.figures.contours import _rounded, cell_outlines, draw_contours

small_maps = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=3), elements=st.integers(-4, 9))
sets = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=7))


@given(small_maps, st.integers(1, 10))
def test_no_smaller_set_makes_the_share(values: Array, tenths: int) -> None:
    inside = fewest_places(values.astype(float), tenths / 10)
    total = int(np.maximum(values, 0).sum())
    assert inside.shape == values.shape and inside.dtype == bool
    if total == 0:
        assert not inside.any()
        return
    assert 10 * values[inside].sum() >= tenths * total
    flat = values.reshape(-1).tolist()
    for cells in combinations(flat, int(inside.sum()) - 1):
        assert 10 * sum(cells) < tenths * total


@given(small_maps)
def test_the_largest_places_come_first_and_of_equal_ones_the_first(values: Array) -> None:
    inside = fewest_places(values.astype(float), 0.5)
    chosen = [(-v, at) for at, (v, c) in enumerate(zip(values.ravel(), inside.ravel(), strict=True)) if c]
    others = [(-v, at) for at, (v, c) in enumerate(zip(values.ravel(), inside.ravel(), strict=True)) if not c]
    assert not chosen or not others or max(chosen) < min(others)


def test_half_and_four_fifths_worked_out_by_hand() -> None:
    values = np.array([[4.0, 1.0, -3.0], [0.0, 3.0, 2.0]])
    np.testing.assert_array_equal(fewest_places(values, 0.5), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(fewest_places(values, 0.8), [[1, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(fewest_places(values, 1.0), [[1, 1, 0], [0, 1, 1]])


@given(sets)
def test_outlines_enclose_exactly_the_cells(inside: Array) -> None:
    height, width = inside.shape
    loops = cell_outlines(inside)
    # The winding number of a cell's middle: how often loops cross the ray to its right, down less up.
    for y in range(height):
        for x in range(width):
            winding = 0
            for loop in loops:
                for (ax, ay), (_, by) in zip(loop, loop[1:] + loop[:1], strict=True):
                    if ax > x and min(ay, by) <= y < max(ay, by):
                        winding += 1 if by > ay else -1
            assert winding == int(inside[y, x])


@given(sets)
def test_outlines_are_as_long_as_the_border_and_turn_at_each_corner(inside: Array) -> None:
    padded = np.pad(inside, 1).astype(int)
    border = abs(np.diff(padded, axis=0)).sum() + abs(np.diff(padded, axis=1)).sum()
    length = 0
    for loop in cell_outlines(inside):
        for (ax, ay), (bx, by), (cx, _) in zip(loop, loop[1:] + loop[:1], loop[2:] + loop[:2], strict=True):
            assert (ax == bx) != (ay == by)
            assert (bx == cx) != (ax == bx)  # the next side is across
            length += abs(bx - ax) + abs(by - ay)
    assert length == border


def test_cells_that_touch_at_a_corner_have_loops_of_their_own() -> None:
    checkers = np.indices((4, 5)).sum(axis=0) % 2 == 0
    assert len(cell_outlines(checkers)) == 10
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    assert sorted(map(len, cell_outlines(ring))) == [4, 4]


@given(sets)
def test_rounded_corners_stay_within_the_cells(inside: Array) -> None:
    for loop in cell_outlines(inside):
        points = _rounded(np.array(loop, float), 0.3)
        corners = np.array(loop, float)
        # Each arc begins and ends on a side, and misses its corner by less than the radius.
        for corner, arc in zip(corners, points.reshape(len(loop), -1, 2), strict=True):
            assert np.abs(arc - corner).sum(axis=1).max() <= 0.3 + 1e-9
            assert np.abs(arc[2] - corner).sum() == pytest.approx(0.15)


@given(arrays(float, (5, 6), elements=st.floats(0.01, 1)), st.integers(0, 3))
def test_lines_lie_on_the_borders_of_the_cells(values: Array, margin: int) -> None:
    picture = np.full((200 + margin, 240 + margin, 3), 128, np.uint8)
    draw_contours(picture, values, (margin, margin, margin + 240, margin + 200), 1.0)
    drawn = (picture != 128).any(axis=-1)
    half, most = fewest_places(values, 0.5), fewest_places(values, 0.8)
    assume(half.any())
    for y, x in np.ndindex(5, 6):
        # Nothing but a rounded corner comes near the middle of a cell.
        assert not drawn[
            margin + 40 * y + 16 : margin + 40 * y + 24, margin + 40 * x + 16 : margin + 40 * x + 24
        ].any()
    for set_, other in ((half, most),):
        for y, x in np.ndindex(5, 5):
            side = picture[
                margin + 40 * y + 14 : margin + 40 * y + 26, margin + 40 * x + 34 : margin + 40 * x + 46
            ]
            light = (side > 170).all(axis=-1)
            if set_[y, x] != set_[y, x + 1]:
                assert light.any(axis=1).all()  # a whole line
            elif other[y, x] == other[y, x + 1]:
                assert not light.any()


def test_the_larger_share_is_dashed_and_below_the_smaller_one() -> None:
    # The left column makes half, the two left ones 80 %.
    values = np.array([[5.0, 3.0, 2.0]] * 3)
    picture = np.full((300, 300, 3), 128, np.uint8)
    draw_contours(picture, values, (0, 0, 300, 300), 1.0)

    def share_of_white(column: int) -> float:
        return float(((picture[20:280, column - 3 : column + 4] > 170).all(axis=-1).any(axis=1)).mean())

    assert share_of_white(100) == 1
    assert 0.4 < share_of_white(200) < 0.8
    for edge in (picture[:4, 50], picture[-4:, 50], picture[50, :4]):
        assert (edge > 170).all(axis=-1).any()  # inside at the picture's edges
    assert cv2.countNonZero(picture[:, 215:285, 0] - 128) == 0


def test_nothing_is_drawn_where_nothing_is_positive() -> None:
    picture = np.full((50, 50, 3), 128, np.uint8)
    draw_contours(picture, -np.ones((3, 3)), (0, 0, 50, 50), 1.0)
    assert (picture == 128).all()


def test_a_contour_lies_where_its_cell_does_worked_out_by_hand() -> None:
    # The first of four cells, 50 x 30 pixels from (10, 20) on. At unit 2 lines are 1.6 and 2.2 pixels wide;
    # those at the map's edges lie 3.5 pixels inside, at 13.5 and 23.5; the others at 60.5 and 50.5.
    picture = np.full((100, 130, 3), 128, np.uint8)
    draw_contours(picture, np.array([[1.0, 0.0], [0.0, 0.0]]), (10, 20, 110, 80), 2.0)
    light = (picture > 230).all(axis=-1)
    assert np.flatnonzero(light[35]).tolist() == [12, 13, 14, 59, 60, 61]
    assert np.flatnonzero(light[:, 35]).tolist() == [22, 23, 24, 49, 50, 51]
    assert not light[49:52, 59:62].any()  # a corner rounded by .3 of 30 pixels


def test_places_of_a_map_of_any_size_count() -> None:
    np.testing.assert_array_equal(fewest_places(np.array([[0.2, 0.0, -0.7]]), 0.5), [[1, 0, 0]])
    np.testing.assert_array_equal(fewest_places(np.array([[-0.2, -0.0]]), 0.5), [[0, 0]])
