"""Pictures: honest colours, heat where the geometry says, sizes that follow the picture alone."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine import render
from simmap.engine.artifact import InputSpec
from simmap.engine.errors import DecompositionError, OutputError
from simmap.engine.image import Geometry, preprocess
from simmap.engine.render import Panel, grid, overlay

GREY = np.full((70, 140, 3), 120, np.uint8)
WHOLE = Geometry(70, 140, (0.0, 0.0, 140.0, 70.0))


def heat_of(panel: Panel, height: int, width: int, scale: float = 1.0) -> np.ndarray:
    """How far each pixel is from the grey photo."""
    drawn = overlay(panel, scale=scale, height=height, width=width)
    return np.abs(drawn.astype(int) - 120).sum(axis=2)


def test_a_zero_map_leaves_the_photo_as_it_is() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (70, 140, 3), dtype=np.uint8)
    drawn = overlay(Panel(photo, np.zeros((7, 7)), WHOLE), scale=1.0, height=70, width=140)
    np.testing.assert_array_equal(drawn, photo)


def test_the_same_contribution_has_the_same_colour_in_every_panel() -> None:
    first = overlay(Panel(GREY, np.full((7, 7), 0.02), WHOLE), scale=0.1, height=70, width=140)
    mixed = np.full((4, 4), 0.1)
    mixed[:2, :] = 0.02
    second = overlay(Panel(GREY, mixed, WHOLE), scale=0.1, height=70, width=140)
    np.testing.assert_array_equal(first[5, 5], second[5, 5])
    assert not np.array_equal(second[5, 5], second[-5, -5])


def test_more_contribution_is_never_less_heat_and_signs_have_their_own_hue() -> None:
    values = np.linspace(0, 1, 101)
    for sign in (1, -1):
        colour, alpha = render.colours(sign * values, 1.0, 0.6)
        away = np.abs((colour - 128) * alpha).sum(axis=1)
        assert alpha[0] == 0 and (np.diff(alpha[:, 0]) > 0).all()
        assert away[-1] > 2 * away[10]
    warm, _ = render.colours(np.array([1.0]), 1.0, 0.6)
    cool, _ = render.colours(np.array([-1.0]), 1.0, 0.6)
    assert warm[0, 0] > warm[0, 2] and cool[0, 2] > cool[0, 0]
    beyond, _ = render.colours(np.array([7.0]), 1.0, 0.6)
    np.testing.assert_array_equal(beyond, warm)


def test_one_scale_serves_all_maps_and_is_never_zero() -> None:
    assert render.shared_scale([np.array([[0.1]]), None, np.array([[-0.3, 0.2]])]) == pytest.approx(0.3)
    assert render.shared_scale([np.zeros((2, 2))]) == 1.0
    weak = np.full((2, 2), 0.01)
    strong = np.full((2, 2), 0.5)
    both = grid([[Panel(GREY, weak, WHOLE), Panel(GREY, strong, WHOLE)]], panel_height=70)
    alone = grid([[Panel(GREY, weak, WHOLE), Panel(GREY, weak, WHOLE)]], panel_height=70)
    assert not np.array_equal(both[:70], alone[:70])


@pytest.mark.parametrize("shape", [(7, 7), (3, 9), (1, 48), (16, 8)])
def test_upscaling_is_bilinear_between_the_centres_of_cells(shape: tuple[int, int]) -> None:
    height, width = 96, 192
    values = np.random.default_rng(1).random(shape)
    _, expected_alpha = render.colours(naive_bilinear(values, height, width), 1.0, 1.0)
    black = Panel(
        np.zeros((height, width, 3), np.uint8), values, Geometry(height, width, (0, 0, width, height))
    )
    colour, _ = render.colours(naive_bilinear(values, height, width), 1.0, 1.0)
    drawn = overlay(black, scale=1.0, height=height, width=width, opacity=1.0)
    np.testing.assert_allclose(drawn, colour * expected_alpha, atol=1.5)


def naive_bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """By the definition: a pixel's centre lies between the centres of four cells."""
    result = np.zeros((height, width))
    rows, columns = values.shape
    for y in range(height):
        for x in range(width):
            cy = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            cx = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            y0, x0 = int(cy), int(cx)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            fy, fx = cy - y0, cx - x0
            top = values[y0, x0] * (1 - fx) + values[y0, x1] * fx
            result[y, x] = top * (1 - fy) + (values[y1, x0] * (1 - fx) + values[y1, x1] * fx) * fy
    return result


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("sides", [(300, 500), (500, 300), (400, 400)])
def test_the_hottest_place_is_drawn_where_the_network_saw_it(resize: str, sides: tuple[int, int]) -> None:
    # given a photo, and a map with one hot cell
    photo = np.full((*sides, 3), 120, np.uint8)
    _, geometry = preprocess(photo, InputSpec(height=224, width=224, resize=resize))  # type: ignore[arg-type]
    values = np.zeros((7, 7))
    values[2, 4] = 1.0
    panel = Panel(photo, values, geometry)
    x0, y0, x1, y1 = panel.canvas
    height, width = round(y1 - y0), round(x1 - x0)
    # when it is drawn at full size
    drawn = overlay(panel, scale=1.0, height=height, width=width)
    # then the reddest place is the middle of that cell, in photo pixels
    redness = drawn[..., 0].astype(float) - drawn[..., 2]
    hottest = np.argwhere(redness == redness.max()).mean(axis=0) + np.array([y0, x0])
    box = geometry.cell_box(2, 4, 7, 7)
    assert hottest[0] == pytest.approx((box[1] + box[3]) / 2, abs=3)
    assert hottest[1] == pytest.approx((box[0] + box[2]) / 2, abs=3)


def test_what_the_network_did_not_see_is_dimmed_and_padding_is_shown() -> None:
    photo = np.full((100, 300, 3), 120, np.uint8)
    _, crop = preprocess(photo, InputSpec(height=64, width=64, resize="crop", crop_fraction=1.0))
    drawn = overlay(Panel(photo, np.zeros((7, 7)), crop), scale=1, height=100, width=300)
    assert (drawn[50, 20] < 80).all() and (drawn[50, 150] == 120).all()
    _, boxed = preprocess(photo, InputSpec(height=64, width=64, resize="letterbox"))
    panel = Panel(photo, np.zeros((7, 7)), boxed)
    x0, y0, x1, y1 = panel.canvas
    assert (y1 - y0) == pytest.approx(300, abs=10) and (x1 - x0) == pytest.approx(300, abs=10)
    drawn = overlay(panel, scale=1, height=300, width=300)
    assert (drawn[10, 150] == render.PADDING).all() and (drawn[150, 150] == 120).all()


def test_boxes_are_outlined() -> None:
    plain = overlay(Panel(GREY), scale=1, height=70, width=140)
    boxed = overlay(Panel(GREY, boxes=((20, 10, 60, 40),)), scale=1, height=70, width=140)
    changed = np.argwhere((plain != boxed).any(axis=2))
    assert changed.min(axis=0) == pytest.approx([10, 20], abs=1)
    assert changed.max(axis=0) == pytest.approx([39, 59], abs=1)
    assert (boxed[25, 40] == plain[25, 40]).all()


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from([48, 120]))
def test_the_size_follows_the_panel_height_whatever_the_photo(height: int, width: int, panel: int) -> None:
    photo = np.zeros((height, width, 3), np.uint8)
    geometry = Geometry(height, width, (0.0, 0.0, float(width), float(height)))
    picture = grid([[Panel(photo, np.ones((7, 7)), geometry, title="a", caption="b")]], panel_height=panel)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert picture.shape[0] <= panel + 250
    assert picture.shape[1] <= max(panel * render.WIDEST, 330) + 2 * render.MARGIN


def test_titles_of_any_length_and_script_change_no_size() -> None:
    shapes = set()
    for title in ("a.jpg", "x" * 5000, "фото 写真 é.jpg", "line\nbreak", " "):
        shapes.add(grid([[Panel(GREY, title=title), Panel(GREY, title="b")]], panel_height=100).shape)
    assert len(shapes) == 1
    long = render._shortened("a_very_long_name_of_a_photo_from_a_camera_0001.jpg", 16, 150)
    assert long.startswith("a_very") and long.endswith(".jpg") and "..." in long


def test_many_panels_and_unlike_rows_fit() -> None:
    panel = Panel(GREY, np.ones((7, 7)), WHOLE, title="t")
    picture = grid([[panel] * 10, [panel] * 3, []], panel_height=64, heading="h", row_titles=["one", "two"])
    assert picture.shape[1] > 10 * 128


def test_the_legend_names_the_negative_end_only_where_there_is_one() -> None:
    positive = grid([[Panel(GREY, np.ones((7, 7)), WHOLE)]], panel_height=70)
    negative = grid([[Panel(GREY, -np.ones((7, 7)), WHOLE)]], panel_height=70)
    blue = [(p[-80:, :, 2].astype(int) - p[-80:, :, 0] > 40).any() for p in (positive, negative)]
    assert blue == [False, True]


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Panel(GREY.astype(float)), "must be uint8"),
        (lambda: Panel(GREY[..., 0]), r"must be uint8 \(h, w, 3\)"),
        (lambda: Panel(GREY, np.zeros(7), WHOLE), r"\(7,\), must be \(H, W\)"),
        (lambda: Panel(GREY, np.full((7, 7), np.nan), WHOLE), "NaN"),
        (lambda: Panel(GREY, np.zeros((7, 7))), "needs the geometry"),
    ],
)
def test_what_cannot_be_drawn_is_refused(build: "object", told: str) -> None:
    with pytest.raises(DecompositionError, match=told):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".PNG"])
def test_pictures_are_written_as_the_suffix_says(tmp_path: Path, suffix: str) -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :30] = (200, 30, 10)
    path = tmp_path / f"picture{suffix}"
    render.write_picture(path, picture, force=False)
    read = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    np.testing.assert_allclose(read[20, 10], (200, 30, 10), atol=6)
    with pytest.raises(OutputError, match="exists already"):
        render.write_picture(path, picture, force=False)


def test_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("picture.gif", "picture"):
        with pytest.raises(OutputError, match=r"\.png, \.jpg"):
            render.write_picture(tmp_path / name, GREY, force=False)
    assert list(tmp_path.iterdir()) == []
