"""The pictures: where the heat lies, what its colour says, and that nothing about it depends on the panel."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmap.engine.contract import InputSpec
from simmap.engine.errors import ConfigError, DecompositionError, OutputError
from simmap.engine.figures import draw, heat, text
from simmap.engine.figures import panel as panels
from simmap.engine.figures.draw import grid
from simmap.engine.figures.files import write_picture
from simmap.engine.figures.panel import Panel, overlay, shared_scale
from simmap.engine.images.geometry import Geometry
from simmap.engine.images.preprocess import preprocess

Array = npt.NDArray[Any]


def plain(height: int, width: int, value: int = 255) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), value, np.uint8)


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def geometry(pixels: Array, resize: Any = "squash") -> Geometry:
    return preprocess(pixels, InputSpec(224, 224, resize=resize))[1]


def panel(pixels: npt.NDArray[np.uint8], values: Array, resize: Any = "squash", **more: Any) -> Panel:
    return Panel(pixels, values, geometry(pixels, resize), **more)


def one_cell(height: int, width: int, y: int, x: int, value: float = 1.0) -> Array:
    values = np.zeros((height, width))
    values[y, x] = value
    return values


def colour_of(value: float, scale: float, ground: int = 255) -> Array:
    picture = overlay(panel(plain(8, 8, ground), np.full((2, 2), value)), scale=scale, height=8)
    assert (picture == picture[0, 0]).all()
    return picture[0, 0].astype(int)


# --- colours ------------------------------------------------------------------------------------


def test_same_value_has_the_same_colour_in_every_panel() -> None:
    low, high = np.full((7, 7), 0.02), np.full((3, 5), 0.04)
    high[:, :2] = 0.02
    # The second map has a larger maximum and another grid; 0.02 must look as in the first.
    picture = grid([[panel(plain(90, 90, 120), low), panel(plain(50, 50, 120), high)]])
    top, left = draw.MARGIN, draw.MARGIN
    second = left + 360 + draw.GAP
    first_colour = picture[top + 100, left + 100]
    assert (first_colour != 120).any()
    np.testing.assert_array_equal(picture[top + 100, second + 20], first_colour)
    assert (picture[top + 100, second + 340] != first_colour).any()


def test_same_value_has_the_same_colour_on_unlike_hues_of_one_lightness() -> None:
    red, green = plain(9, 9), plain(9, 9)
    red[:], green[:] = (200, 0, 0), (0, 102, 0)  # luma 59.8 and 59.9
    pictures = [overlay(panel(p, np.ones((2, 2))), scale=1, height=9).astype(int) for p in (red, green)]
    assert abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize(("sign", "channel"), [(1, 1), (-1, 0)])
def test_colour_grows_with_the_value_from_zero_to_the_scale(sign: int, channel: int) -> None:
    shades = [colour_of(sign * v, 1.0)[channel] for v in np.linspace(0, 1, 21)]
    assert shades[0] == 255
    assert all(b < a for a, b in pairwise(shades))
    np.testing.assert_array_equal(colour_of(sign * 3.0, 1.0), colour_of(sign * 1.0, 1.0))


@pytest.mark.parametrize("ground", [0, 128, 255])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_for_is_warm_and_against_is_cool(ground: int, share: float) -> None:
    warm, cool = colour_of(share, 1.0, ground), colour_of(-share, 1.0, ground)
    assert warm[0] > warm[2] + 5
    assert cool[2] > cool[0] + 5


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_zero_map_leaves_what_the_network_saw_unchanged(resize: str) -> None:
    pixels = noise(60, 100)
    shown = panel(pixels, np.zeros((7, 7)), resize)
    x0, y0, x1, y1 = shown.canvas
    height, width = round(y1 - y0), round(x1 - x0)
    picture = overlay(shown, scale=1.0, height=height, width=width)
    field = np.round(shown.geometry.field).astype(int) if shown.geometry else None
    assert field is not None
    left, top = max(field[0], 0) + 2, max(field[1], 0) + 2
    right, bottom = min(field[2], 100) - 2, min(field[3], 60) - 2
    moved_x, moved_y = round(-x0), round(-y0)
    np.testing.assert_array_equal(
        picture[top + moved_y : bottom + moved_y, left + moved_x : right + moved_x],
        pixels[top:bottom, left:right],
    )


def test_opacity_is_that_of_the_full_scale() -> None:
    shown = panel(plain(8, 8, 0), np.ones((2, 2)))
    strong = overlay(shown, scale=1, height=8, opacity=1.0)[0, 0]
    np.testing.assert_array_equal(strong, heat.WARM[-1])
    half = overlay(shown, scale=1, height=8, opacity=0.5)[0, 0]
    np.testing.assert_allclose(half, np.array(heat.WARM[-1]) / 2, atol=1)


# --- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("size", [(300, 200), (200, 500)])
@pytest.mark.parametrize("cell", [(0, 3), (3, 3), (4, 1), (6, 6)])
def test_hottest_place_lies_where_the_geometry_says(
    resize: str, size: tuple[int, int], cell: tuple[int, int]
) -> None:
    shown = panel(plain(*size), one_cell(7, 7, *cell), resize)
    assert shown.geometry is not None
    picture = overlay(shown, scale=1.0, height=350, width=420)
    cold = overlay(panel(plain(*size), np.zeros((7, 7)), resize), scale=1.0, height=350, width=420)
    # On grounds as light as these green falls strictly as the value grows.
    fall = cold[..., 1].astype(int) - picture[..., 1]
    ys, xs = np.nonzero(fall == fall.max())
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
    values = rng.uniform(-1, 1, shape)
    height, width = 120, 200
    picture = overlay(panel(plain(30, 50), values), scale=1.0, height=height, width=width)
    for row, column in rng.integers(0, (height, width), (60, 2)):
        y = min(max((row + 0.5) / height * shape[0] - 0.5, 0), shape[0] - 1)
        x = min(max((column + 0.5) / width * shape[1] - 0.5, 0), shape[1] - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, shape[0] - 1), min(x0 + 1, shape[1] - 1)
        above = values[y0, x0] * (1 - (x - x0)) + values[y0, x1] * (x - x0)
        below = values[y1, x0] * (1 - (x - x0)) + values[y1, x1] * (x - x0)
        expected = colour_of(above * (1 - (y - y0)) + below * (y - y0), 1.0)
        assert abs(expected - picture[row, column]).max() <= 2


def test_crop_dims_and_outlines_what_the_network_did_not_see() -> None:
    picture = overlay(panel(plain(200, 400, 200), np.zeros((7, 7)), "crop"), scale=1.0, height=200, width=400)
    assert (picture[100, 5] == round(200 * panels.DIMMED)).all()
    assert (picture[100, 200] == 200).all()
    x0, _, x1, _ = geometry(plain(200, 400), "crop").field
    for edge in (round(x0), round(x1) - 1):
        assert (picture[100, edge] == 255).all()


def test_letterbox_shows_heat_in_the_padding() -> None:
    shown = panel(plain(100, 200), one_cell(7, 7, 0, 3), "letterbox")
    assert shown.canvas == pytest.approx((0, -50, 200, 150))
    picture = overlay(shown, scale=1.0, height=200, width=200)
    assert (picture[5, 5] == panels.PADDING).all()
    np.testing.assert_allclose(picture[5, 100], colour_of(1.0, 1.0, panels.PADDING[0]), atol=4)
    assert (picture[50, 20] == 255).all() and (picture[51, 20] < 60).all()  # the photo's outline


def test_boxes_are_outlined_and_never_moved_onto_the_photo() -> None:
    inside = overlay(Panel(plain(100, 100, 90), boxes=((20, 30, 60, 70),)), scale=1.0, height=100)
    changed = np.argwhere((inside != 90).any(axis=-1))
    np.testing.assert_array_equal([changed.min(axis=0), changed.max(axis=0)], [[30, 20], [69, 59]])
    assert (inside[50, 40] == 90).all()
    beyond = Panel(plain(100, 100, 90), boxes=((20, -50, 60, -20),))
    assert beyond.canvas == (0, -50, 100, 100)
    assert (overlay(beyond, scale=1.0, height=150)[50:] == 90).all()


def test_plain_photo_with_a_geometry_is_as_large_as_under_its_map() -> None:
    pixels = plain(100, 200)
    bare = Panel(pixels, None, geometry(pixels, "letterbox"))
    assert bare.canvas == panel(pixels, np.zeros((2, 2)), "letterbox").canvas


# --- scale --------------------------------------------------------------------------------------


def test_scale_is_shared_and_starts_at_zero() -> None:
    assert shared_scale([np.array([[0.1, -0.4]]), None, np.array([[0.3]])]) == pytest.approx(0.4)
    assert shared_scale([np.array([[0.2, 0.3]])]) == pytest.approx(0.3)
    assert shared_scale([np.zeros((2, 2))]) == 1.0
    assert shared_scale([]) == 1.0


def test_given_scale_makes_pictures_comparable() -> None:
    shown = panel(plain(90, 90), np.full((2, 2), 0.1))
    place = (draw.MARGIN + 50, draw.MARGIN + 50)
    np.testing.assert_array_equal(grid([[shown]], scale=0.4)[place], colour_of(0.1, 0.4))
    np.testing.assert_array_equal(grid([[shown]])[place], colour_of(0.1, 0.1))


def test_rows_of_one_scale_share_it_and_each_scale_has_its_legend() -> None:
    low, high = np.full((7, 7), 0.01), np.full((7, 7), 0.04)
    rows = [[panel(plain(360, 360, 120), values)] for values in (low, high, low)]
    one = grid(rows)
    named = grid(rows, row_scales=["whole", "whole", "region"])
    top, left, pitch = draw.MARGIN + 100, draw.MARGIN + 100, 360 + draw.ROW_GAP
    colours = [named[top + i * pitch, left] for i in range(3)]
    np.testing.assert_array_equal(colours[0], one[top, left])
    np.testing.assert_array_equal(colours[1], one[top + pitch, left])
    # The third row is drawn by its own largest value, as the second is by its.
    np.testing.assert_array_equal(colours[2], colours[1])
    assert len(named) > len(one)
    np.testing.assert_array_equal(grid(rows, row_scales=["", "", ""]), one)


def test_legend_has_a_cool_half_only_where_something_speaks_against() -> None:
    def cool(values: Array) -> bool:
        legend = grid([[panel(plain(90, 90), values)]])[draw.MARGIN + 361 :].astype(int)
        return bool((legend[..., 2] > legend[..., 0] + 60).any())

    assert cool(np.array([[0.1, -0.05]]))
    assert not cool(np.array([[0.1, 0.05]]))


@pytest.mark.parametrize("tiny", [1e-320, 1e-30, 1e30])
def test_scale_of_any_magnitude_is_drawn(tiny: float) -> None:
    picture = grid([[panel(plain(90, 90), np.full((2, 2), tiny))]])
    np.testing.assert_array_equal(picture[draw.MARGIN + 50, draw.MARGIN + 50], colour_of(1.0, 1.0))


# --- sizes and text -----------------------------------------------------------------------------


def test_size_depends_on_panel_height_and_not_on_the_photo() -> None:
    def shape(side: int, panel_height: int) -> tuple[int, ...]:
        return grid([[panel(plain(side, 2 * side), np.ones((7, 7)))]], panel_height=panel_height).shape

    assert shape(20, 360) == shape(700, 360)
    small, large = shape(50, 400), shape(50, 800)
    assert np.array(large[:2]) / np.array(small[:2]) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1), (20, 20), (60, 900), (3, 20000)])
@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_extreme_shapes_stay_sensible(size: tuple[int, int], resize: str) -> None:
    shown = panel(noise(*size), np.ones((7, 7)), resize, title="name", caption="cosine")
    picture = grid([[shown, shown]], panel_height=100)
    # The panel, two lines for it, the legend with a note, margins.
    assert picture.shape[0] <= 100 + 180
    assert picture.shape[1] <= 2 * panels.WIDEST * 100 + 80
    alone = overlay(shown, scale=1.0, height=100)
    assert 6 <= alone.shape[0] <= 100 and 6 <= alone.shape[1] <= 220


@given(st.integers(1, 600), st.integers(1, 600), st.sampled_from([48, 120]))
def test_size_is_bounded_for_any_photo(height: int, width: int, panel_height: int) -> None:
    shown = panel(plain(height, width), np.ones((7, 7)), title="a", caption="b")
    picture = grid([[shown]], panel_height=panel_height)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert picture.shape[0] <= panel_height + 180
    assert picture.shape[1] <= max(panel_height * panels.WIDEST, draw.BAR_LENGTH) + 2 * draw.MARGIN + 1


def test_many_panels_fit_side_by_side() -> None:
    shown = panel(plain(70, 140), np.ones((7, 7)), title="t")
    row_titles = ["one", "two"]
    picture = grid([[shown] * 10, [shown] * 3, []], panel_height=64, heading="h", row_titles=row_titles)
    assert 10 * 128 < picture.shape[1] < 10 * (128 + draw.GAP) + 2 * draw.MARGIN


def test_large_pictures_are_coloured_in_strips_without_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = panel(noise(50, 80), np.random.default_rng(2).uniform(-1, 1, (7, 7)))
    whole = overlay(shown, scale=1.0, height=100, width=160)
    monkeypatch.setattr(heat, "STRIP", 7 * 160 + 3)
    np.testing.assert_array_equal(overlay(shown, scale=1.0, height=100, width=160), whole)


def test_rows_of_unlike_lengths_and_plain_photos_alone() -> None:
    one = Panel(plain(90, 90, 0))
    picture = grid([[one, one], [], [one]])
    assert (picture[draw.MARGIN, draw.MARGIN + 360 + draw.GAP] == 0).all()
    below = draw.MARGIN + 360 + draw.ROW_GAP
    assert (picture[below, draw.MARGIN] == 0).all()
    assert (picture[below, draw.MARGIN + 360 + draw.GAP] == 255).all()
    assert len(picture) == below + 360 + draw.ROW_GAP + draw.MARGIN  # no legend without a map
    assert grid([]).shape[2] == 3


@pytest.mark.parametrize("font", ["built in", "of OpenCV 4"])
@pytest.mark.parametrize(
    "text",
    [
        "Größe.jpg",
        "写真.jpg",
        "صورة.jpg",
        "हिन्दी 🙂",
        "bad\udcff\ud800.jpg",
        "a\nb\tc\x00\x07d",
        "x" * 5000,
        " ",
    ],
)
def test_any_title_is_drawn_without_changing_the_size(
    text: str, font: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if font == "of OpenCV 4":
        monkeypatch.delattr(cv2, "FontFace", raising=False)
    photo, texts = plain(90, 120, 0), ("title", "caption")
    usual = grid([[Panel(photo, **dict.fromkeys(texts, "name"))]], row_titles=["name"])
    other = grid([[Panel(photo, **dict.fromkeys(texts, text))]], row_titles=[text])
    assert other.shape == usual.shape
    # Text stays in its own column, and none of it is lost.
    assert (other[:, -draw.MARGIN :] == 255).all()
    if text.strip():
        assert (other[draw.MARGIN : draw.MARGIN + 28] < 128).any()


def test_long_title_keeps_its_beginning_and_its_end() -> None:
    short = text.shortened("beginning-" + "x" * 3000 + "-0001.jpg", 16, 300)
    assert short.startswith("beginning-") and short.endswith("-0001.jpg") and "..." in short
    assert 240 < text.text_width(short, 16) <= 300
    assert text.shortened("short.jpg", 16, 300) == "short.jpg"


def test_long_heading_goes_onto_more_lines() -> None:
    one, long = (grid([[Panel(plain(90, 90))]], heading=h) for h in ("score 0.5", "cosine similarity " * 9))
    assert one.shape[1] == long.shape[1]
    assert len(long) > len(one) + 2 * draw.HEADING


# --- refusals -----------------------------------------------------------------------------------


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
    with pytest.raises(DecompositionError, match=says):
        shared_scale([values])


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


def test_bad_options_are_refused() -> None:
    shown = panel(plain(8, 8), np.zeros((2, 2)))
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DecompositionError, match="scale"):
            grid([[shown]], scale=scale)
    for opacity in (0.0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="opacity"):
            grid([[shown]], opacity=opacity)
    with pytest.raises(ConfigError, match="panel_height is 0"):
        grid([[shown]], panel_height=0)
    with pytest.raises(ConfigError, match="width is -1"):
        overlay(shown, scale=1.0, height=8, width=-1)


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg", ".jpeg", ".webp"])
def test_picture_round_trip(suffix: str, tmp_path: Path) -> None:
    smooth = np.stack(np.meshgrid(np.arange(64), np.arange(48)), axis=-1)
    pixels = np.concatenate([smooth, np.full((48, 64, 1), 200)], axis=-1).astype(np.uint8)
    path = tmp_path / f"å{suffix}"
    write_picture(path, pixels, force=False)
    back = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    tolerance = 0 if suffix.lower() == ".png" else 12
    np.testing.assert_allclose(back.astype(int), pixels, atol=tolerance)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_existing_picture_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        write_picture(path, plain(4, 4), force=False)
    assert path.read_bytes() == b"old"
    write_picture(path, plain(4, 4), force=True)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.txt"])
def test_unknown_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png, \.jpg, \.jpeg, \.webp"):
        write_picture(tmp_path / name, plain(4, 4), force=True)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        write_picture(tmp_path / "none" / "a.png", plain(4, 4), force=False)
    # The permissions of a folder do not bind the superuser, under whom tests may run.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputError, match="not writable"):
        write_picture(tmp_path / "a.png", plain(4, 4), force=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_picture_too_large_for_its_format_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"66000 pixels is too large"):
        write_picture(tmp_path / f"a{suffix}", plain(66000, 2), force=False)
    assert not list(tmp_path.iterdir())
