"""Where the network's input lies on the photo."""

import numpy as np
import pytest
from encoded import smooth
from hypothesis import given, settings
from hypothesis import strategies as st

from simmap.engine.contract import InputSpec
from simmap.engine.errors import ImageError
from simmap.engine.images.geometry import Geometry
from simmap.engine.images.preprocess import preprocess

SIDES = st.integers(1, 300)


SPECS = st.builds(
    InputSpec,
    height=st.integers(1, 96),
    width=st.integers(1, 96),
    colour=st.sampled_from(["rgb", "bgr"]),
    resize=st.sampled_from(["squash", "crop", "letterbox"]),
    kernel=st.sampled_from(["area", "linear", "cubic"]),
    crop_fraction=st.floats(0.1, 1),
)


FAST = settings(max_examples=80)


@FAST
@given(SIDES, SIDES, SPECS, st.integers(1, 20), st.integers(1, 20))
def test_cells_tile_the_field_and_cell_at_inverts_their_centres(height, width, spec, rows, columns):
    _, geometry = preprocess(np.zeros((height, width, 3), np.uint8), spec)
    boxes = [[geometry.cell_box(y, x, rows, columns) for x in range(columns)] for y in range(rows)]
    assert boxes[0][0][:2] == geometry.field[:2]
    assert boxes[-1][-1][2:] == geometry.field[2:]
    for y in range(rows):
        for x in range(columns):
            x0, y0, x1, y1 = boxes[y][x]
            assert x0 < x1
            assert y0 < y1
            if x:
                assert boxes[y][x - 1][2] == x0
            if y:
                assert boxes[y - 1][x][3] == y0
            px, py = (x0 + x1) / 2, (y0 + y1) / 2
            if 0 <= px < width and 0 <= py < height:
                assert geometry.cell_at(px, py, rows, columns) == (y, x)
            else:
                with pytest.raises(ImageError, match="outside the photo"):
                    geometry.cell_at(px, py, rows, columns)


def test_every_pixel_of_a_photo_lies_in_some_cell():
    geometry = Geometry(3, 5, (0.0, 0.0, 5.0, 3.0))
    assert [geometry.cell_at(px, 0, 3, 5)[1] for px in range(5)] == [0, 1, 2, 3, 4]
    assert [geometry.cell_at(0, py, 3, 5)[0] for py in range(3)] == [0, 1, 2]
    # Just inside, where a difference of floats rounds up to the whole field.
    geometry = Geometry(3, 5, (-1000.0, -1000.0, 5.0, 3.0))
    assert geometry.cell_at(np.nextafter(5, 0), np.nextafter(3, 0), 7, 9) == (6, 8)


@pytest.mark.parametrize(
    "place", [(-1, 0), (0, -0.1), (20, 0), (0, 10), (float("nan"), 0), (float("inf"), 0)]
)
def test_places_outside_the_photo(place):
    geometry = Geometry(10, 20, (-5.0, -5.0, 25.0, 25.0))
    with pytest.raises(ImageError, match=r"^pixel .* is outside the photo; .*20 .*10$"):
        geometry.cell_at(*place, 7, 7)


def test_places_that_the_crop_cut_away():
    _, geometry = preprocess(smooth(100, 200), InputSpec(50, 50, resize="crop", crop_fraction=1))
    assert geometry.field == (50, 0, 150, 100)
    assert geometry.cell_at(50, 0, 5, 5) == (0, 0)
    for px in (49, 150):
        with pytest.raises(ImageError, match=r"the part that the network sees; give x from 50\.0 to 150\.0"):
            geometry.cell_at(px, 50, 5, 5)


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (3, 0), (0, 4)])
def test_cells_outside_the_map(cell):
    with pytest.raises(ImageError, match="outside the map of 3 x 4"):
        Geometry(9, 9, (0.0, 0.0, 9.0, 9.0)).cell_box(*cell, 3, 4)


def test_a_geometry_fits_the_photo_at_another_size():
    whole = preprocess(smooth(400, 600), InputSpec(64, 64, resize="crop"))[1]
    half = preprocess(smooth(200, 300), InputSpec(64, 64, resize="crop"))[1].resized(400, 600)
    assert (half.photo_height, half.photo_width) == (400, 600)
    assert half.field == pytest.approx(whole.field, abs=2)


@FAST
@given(SIDES, SIDES, SPECS)
def test_input_has_the_shape_asked_for_and_the_field_its_bounds(height, width, spec):
    tensor, geometry = preprocess(np.zeros((height, width, 3), np.uint8), spec)
    assert tensor.shape == (spec.height, spec.width, 3)
    assert tensor.dtype == np.uint8
    assert tensor.flags.c_contiguous
    assert (geometry.photo_height, geometry.photo_width) == (height, width)
    x0, y0, x1, y1 = geometry.field
    assert x0 < x1
    assert y0 < y1
    if spec.resize == "squash":
        assert geometry.field == (0, 0, width, height)
    elif spec.resize == "crop":
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= width + 1e-9
        assert y1 <= height + 1e-9
    else:
        assert x0 <= 0
        assert y0 <= 0
        assert x1 >= width - 1e-9
        assert y1 >= height - 1e-9
    # Centred, to within the one pixel of the input that an odd border leaves over.
    assert abs(x0 + x1 - width) <= (x1 - x0) / spec.width + 1e-6
    assert abs(y0 + y1 - height) <= (y1 - y0) / spec.height + 1e-6
