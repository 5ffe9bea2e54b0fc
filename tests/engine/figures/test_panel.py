"""One photo under its map: where the heat lies, what is outlined, and what is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import Array, geometry, panel, plain

from simmap.engine.errors import ConfigError, DecompositionError
from simmap.engine.figures import panel as panels
from simmap.engine.figures.heat import apply_heat
from simmap.engine.figures.panel import Panel, overlay, panel_size, stack_sizes
from simmap.engine.images.geometry import Geometry
from simmap.engine.types import Pixels


def one_cell(height: int, width: int, y: int, x: int, value: float = 1.0) -> Array:
    values = np.zeros((height, width))
    values[y, x] = value
    return values


def bare(shown: Panel, scale: float = 1.0, **more: Any) -> Pixels:
    return overlay(shown, scale=scale, contours=False, **more)


def colour_of(value: float, ground: int = 255) -> Array:
    # The middle pixel lies on no hatched diagonal.
    return apply_heat(plain(3, 3, ground), np.full((3, 3), value, np.float32), 0.6)[1, 1].astype(int)


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(300, 200), (200, 500)])
@pytest.mark.parametrize("cell", [(0, 3), (3, 3), (4, 1), (6, 6)])
def test_hottest_place_lies_where_the_geometry_says(
    resize: str, size: tuple[int, int], cell: tuple[int, int]
) -> None:
    shown = panel(plain(*size, 205), one_cell(7, 7, *cell), resize)
    assert shown.geometry is not None
    picture = bare(shown, height=350, width=420)
    cold = bare(panel(plain(*size, 205), np.zeros((7, 7)), resize), height=350, width=420)
    # Green, the most of lightness, rises as the value grows; the photo is as light as padding.
    rise = picture[..., 1].astype(int) - cold[..., 1]
    ys, xs = np.nonzero(rise == rise.max())
    x0, y0, x1, y1 = shown.canvas
    box = shown.geometry.cell_box(*cell, 7, 7)
    # The cell at a border is flat from its centre outwards, so its hottest place reaches to the border.
    centre_x, centre_y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    expected_x, expected_y = (centre_x - x0) / (x1 - x0) * 420, (centre_y - y0) / (y1 - y0) * 350
    assert np.hypot(ys + 0.5 - expected_y, xs + 0.5 - expected_x).min() < 2.5
    edges = (box[0] - x0) / (x1 - x0) * 420, (box[2] - x0) / (x1 - x0) * 420
    assert edges[0] - 1 <= xs.min() and xs.max() <= edges[1] + 1
    edges = (box[1] - y0) / (y1 - y0) * 350, (box[3] - y0) / (y1 - y0) * 350
    assert edges[0] - 1 <= ys.min() and ys.max() <= edges[1] + 1


@pytest.mark.parametrize("shape", [(7, 7), (1, 48), (16, 8), (1, 1)])
def test_upscaling_is_bilinear_between_cell_centres(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    values = rng.uniform(0, 1, shape)
    height, width = 120, 200
    picture = bare(panel(plain(30, 50), values), height=height, width=width)
    for row, column in rng.integers(0, (height, width), (60, 2)):
        y = min(max((row + 0.5) / height * shape[0] - 0.5, 0), shape[0] - 1)
        x = min(max((column + 0.5) / width * shape[1] - 0.5, 0), shape[1] - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, shape[0] - 1), min(x0 + 1, shape[1] - 1)
        above = values[y0, x0] * (1 - (x - x0)) + values[y0, x1] * (x - x0)
        below = values[y1, x0] * (1 - (x - x0)) + values[y1, x1] * (x - x0)
        expected = colour_of(above * (1 - (y - y0)) + below * (y - y0))
        assert abs(expected - picture[row, column]).max() <= 2


def test_crop_dims_and_outlines_what_the_network_did_not_see() -> None:
    picture = bare(panel(plain(200, 400, 200), np.zeros((7, 7)), "crop"), height=200, width=400)
    assert (picture[100, 5] == round(200 * panels.DIMMED)).all()
    np.testing.assert_array_equal(picture[100, 200], colour_of(0, 200))
    x0, _, x1, _ = geometry(plain(200, 400), "crop").field
    for edge in (round(x0), round(x1) - 1):
        assert (picture[100, edge] == 255).all()


def test_letterbox_shows_heat_in_the_padding() -> None:
    shown = panel(plain(100, 200), one_cell(7, 7, 0, 3), "letterbox")
    assert shown.canvas == pytest.approx((0, -50, 200, 150))
    picture = bare(shown, height=200, width=200)
    assert (picture[5, 5] == colour_of(0, panels.PADDING[0])).all()
    np.testing.assert_allclose(picture[5, 100], colour_of(1.0, panels.PADDING[0]), atol=4)
    assert (picture[50, 20] == 255).all() and (picture[51, 20] < 60).all()  # the photo's outline


def test_boxes_are_outlined_and_never_moved_onto_the_photo() -> None:
    inside = bare(Panel(plain(100, 100, 90), boxes=((20, 30, 60, 70),)), height=100)
    changed = np.argwhere((inside != 90).any(axis=-1))
    np.testing.assert_array_equal([changed.min(axis=0), changed.max(axis=0)], [[30, 20], [69, 59]])
    assert (inside[50, 40] == 90).all()
    beyond = Panel(plain(100, 100, 90), boxes=((20, -50, 60, -20),))
    assert beyond.canvas == (0, -50, 100, 100)
    assert (bare(beyond, height=150)[50:] == 90).all()


def test_plain_photo_with_a_geometry_is_as_large_as_under_its_map() -> None:
    pixels = plain(100, 200)
    bare = Panel(pixels, None, geometry(pixels, "letterbox"))
    assert bare.canvas == panel(pixels, np.zeros((2, 2)), "letterbox").canvas


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[0.1, np.nan]]), "NaN"),
        (np.array([[0.1, -np.inf]]), "NaN or infinite"),
        (np.zeros(7), r"\(7,\), must be \(H, W\)"),
        (np.zeros((7, 7, 3)), r"\(7, 7, 3\), must be \(H, W\)"),
        (np.zeros((0, 7)), r"\(0, 7\), must be \(H, W\)"),
    ],
)
def test_bad_maps_are_refused(values: Array, says: str) -> None:
    with pytest.raises(DecompositionError, match=says):
        panel(plain(8, 8), values)


def test_bad_panels_are_refused() -> None:
    with pytest.raises(DecompositionError, match=r"float64 \(8, 8, 3\), must be uint8"):
        Panel(np.zeros((8, 8, 3)))  # type: ignore[arg-type]
    for shape in ((8, 8), (8, 8, 4), (0, 8, 3)):
        with pytest.raises(DecompositionError, match=r"must be uint8 \(h, w, 3\)"):
            Panel(np.zeros(shape, np.uint8))
    with pytest.raises(DecompositionError, match="geometry"):
        Panel(plain(8, 8), np.zeros((2, 2)))
    with pytest.raises(DecompositionError, match=r"\(8, 9, 3\), must be \(9, 8, 3\)"):
        Panel(plain(8, 9), np.zeros((2, 2)), geometry(plain(9, 8)))
    for box in ((3, 3, 3, 5), (0, 0, np.nan, 1), (1, 2, 3)):
        with pytest.raises(DecompositionError, match="a box is"):
            Panel(plain(8, 8), boxes=(box,))  # type: ignore[arg-type]
    with pytest.raises(DecompositionError, match="field"):
        Panel(plain(8, 8), np.zeros((2, 2)), Geometry(8, 8, (0, 0, 0, 8)))

    with pytest.raises(DecompositionError, match=r"mask has shape \(8, 9\), must be \(8, 8\)"):
        Panel(plain(8, 8), mask=np.ones((8, 9), bool))


def test_bad_options_are_refused() -> None:
    shown = panel(plain(8, 8), np.zeros((2, 2)))
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DecompositionError, match="scale"):
            overlay(shown, scale=scale, height=8)
    for opacity in (0.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="opacity"):
            overlay(shown, scale=1.0, height=8, opacity=opacity)
    with pytest.raises(ConfigError, match="height is 0"):
        overlay(shown, scale=1.0, height=0)
    with pytest.raises(ConfigError, match="width is -1"):
        overlay(shown, scale=1.0, height=8, width=-1)


def test_mask_is_outlined_inside_its_edge_and_never_beyond() -> None:
    mask = np.zeros((100, 100), bool)
    mask[20:60, 30:80] = True
    mask[70:, :20] = True  # along the photo's edges
    picture = bare(Panel(plain(100, 100, 90), mask=mask), height=100)
    expected = plain(100, 100, 90)
    for top, left, bottom, right in ((20, 30, 60, 80), (70, 0, 100, 20)):
        for inset, colour in ((0, (255, 255, 255)), (2, (25, 25, 28))):
            expected[top + inset : bottom - inset, left + inset : right - inset] = colour
        expected[top + 4 : bottom - 4, left + 4 : right - 4] = 90
    np.testing.assert_array_equal(picture, expected)
    box = Panel(plain(100, 100, 90), boxes=((30, 20, 80, 60), (0, 70, 20, 100)))
    np.testing.assert_array_equal(bare(box, height=100), expected)  # as a region of boxes is
    thick = bare(Panel(plain(100, 100, 90), mask=mask), height=100, unit=2.0)
    assert (thick[20:24, 50] == 255).all() and (thick[24:28, 50] < 30).all() and (thick[28, 50] == 90).all()


def test_contours_are_drawn_over_the_field_alone_and_can_be_left_out() -> None:
    shown = panel(plain(200, 400, 200), one_cell(4, 4, 1, 2), "crop")
    without = overlay(shown, scale=1.0, height=200, contours=False)
    with_ = overlay(shown, scale=1.0, height=200)
    ys, xs = np.nonzero((with_ != without).any(axis=-1))
    assert shown.geometry is not None
    x0, y0, x1, y1 = shown.geometry.cell_box(1, 2, 4, 4)
    # Around the only cell that counts.
    assert (ys.min(), xs.min()) == pytest.approx((y0, x0), abs=4)
    assert (ys.max(), xs.max()) == pytest.approx((y1, x1), abs=4)


aspects = st.floats(1 / 300, 300)


@given(st.lists(aspects, min_size=1, max_size=3), st.integers(32, 500))
def test_stacks_have_one_width_and_add_up_to_their_height(ratios: list[float], height: int) -> None:
    photos = [plain(max(1, round(60 / max(r, 1 / 60))), max(1, round(60 * min(r, 60)))) for r in ratios]
    shown = [Panel(photo) for photo in photos]
    sizes, width = stack_sizes(shown, height)
    assert all(own[1] <= width + 1 for own in sizes)
    bounded = [0.55 <= photo.shape[1] / photo.shape[0] <= 2.2 for photo in photos]
    if all(bounded):
        assert sum(own[0] for own in sizes) == pytest.approx(height * len(photos), abs=2)
        for photo, (high, wide) in zip(photos, sizes, strict=True):
            assert wide == width
            assert wide / high == pytest.approx(photo.shape[1] / photo.shape[0], rel=3 / min(high, wide))
    assert sum(own[0] for own in sizes) <= height * len(photos) + len(photos) * (height / 15 + 1)


def test_a_narrow_photo_keeps_a_column_wide_enough_for_words() -> None:
    sizes, width = stack_sizes([Panel(plain(400, 100)), Panel(plain(100, 100))], 90)
    assert width == round(180 / (1 / 0.55 + 1))
    assert sizes == [(116, 29), (64, 64)]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((360, 640), (90, 160)), ((100, 100), (90, 90)), ((100, 400), (50, 198)), ((400, 100), (90, 22)),
     ((1000, 1), (90, 6)), ((1, 1000), (6, 198))],
)  # fmt: skip
def test_size_of_a_panel_by_hand(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert panel_size(Panel(plain(*shape)), 90) == size


def test_a_rectangle_of_the_photo_lies_in_the_panel_worked_out_by_hand() -> None:
    # 100 x 50 photo pixels from (-10, -20) on, in a panel of 200 x 100: two pixels each.
    view = panels.View((-10.0, -20.0, 90.0, 30.0), 100, 200)
    assert view.rectangle((0.0, 0.0, 50.0, 10.0)) == (20, 40, 120, 60)
    assert view.point(5.0, 5.0) == (30.0, 50.0)
    # At least one pixel, inside the panel.
    assert view.rectangle((-99.0, -99.0, -50.0, -50.0)) == (0, 0, 1, 1)
    assert view.rectangle((500.0, 500.0, 600.0, 600.0)) == (199, 99, 200, 100)
    assert view.rectangle((3.0, 3.0, 3.1, 3.1)) == (26, 46, 27, 47)


@pytest.mark.parametrize("shape", [(40, 80), (80, 40)])
def test_a_mask_is_outlined_on_a_photo_with_padding_around_it(shape: tuple[int, int]) -> None:
    # given a photo in the middle of a square that the network saw, and a mask over all of it
    height, width = shape
    shown = panel(plain(*shape, 90), np.zeros((7, 7)), "letterbox", mask=np.ones(shape, bool))
    picture = bare(shown, height=80, width=80)
    # then the light frame of the mask, two pixels wide, lies along the photo's edges
    top, left = (80 - height) // 2, (80 - width) // 2
    ring = np.zeros((80, 80), bool)
    ring[top : top + height, left : left + width] = True
    ring[top + 2 : top + height - 2, left + 2 : left + width - 2] = False
    assert ((picture == 255).all(axis=-1) == ring).all()
