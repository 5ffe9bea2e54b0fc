"""Rows of stacks: where panels stand, their scale, their legend, and that text can be read."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from boxes import text_as_boxes
from hypothesis import given
from hypothesis import strategies as st
from scenes import noise, panel, plain

from simmap.engine.errors import ConfigError
from simmap.engine.figures import grid as grids
from simmap.engine.figures import text
from simmap.engine.figures.grid import Row, grid
from simmap.engine.figures.layout import ROW_TITLE, Layout
from simmap.engine.figures.legend import Legend
from simmap.engine.figures.panel import Panel, overlay
from simmap.engine.images.geometry import Geometry
from simmap.engine.options import Options
from simmap.engine.types import Pixels

PLAIN = Options(contours=False)


def inside(drawn: grids.Grid, at: int) -> Pixels:
    left, top, right, bottom = drawn.places[at]
    return drawn.pixels[top:bottom, left:right]


# --- places -------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(20, 80), st.integers(20, 80))


@given(
    st.lists(
        st.lists(st.lists(sizes, min_size=1, max_size=2), min_size=1, max_size=3), min_size=1, max_size=3
    )
)
def test_every_panel_stands_at_its_place_and_none_overlap(shapes: list[list[list[tuple[int, int]]]]) -> None:
    values = iter(range(10, 200))
    rows = [
        Row([[Panel(plain(*size, next(values))) for size in stack] for stack in row], "t") for row in shapes
    ]
    drawn = grid(rows, Options(panel_height=60))
    panels = [one for row in rows for stack in row.stacks for one in stack]
    assert len(drawn.places) == len(panels)
    for at, one in enumerate(panels):
        assert (inside(drawn, at) == one.pixels[0, 0]).all()
        # None of it lies elsewhere.
        assert (drawn.pixels == one.pixels[0, 0]).all(axis=-1).sum() == inside(drawn, at).size // 3


def test_a_row_of_unlike_photos_has_no_holes() -> None:
    stacks = [
        [Panel(plain(90, 160, 50)), Panel(plain(120, 90, 50))],
        [Panel(plain(90, 90, 50)), Panel(plain(100, 200, 50))],
    ]
    drawn = grid([Row(stacks)], Options(panel_height=200))
    (a, b, c, d) = drawn.places
    assert a[0] == b[0] and a[2] == b[2] and c[0] == d[0] and c[2] == d[2]
    gap = c[0] - a[2]
    assert 0 < gap < 20  # side by side
    assert b[1] - a[3] == d[1] - c[3] > 0
    assert b[3] == pytest.approx(d[3], abs=1)  # equally high
    assert b[3] - b[1] + a[3] - a[1] == pytest.approx(400, abs=1)


def test_size_depends_on_panel_height_and_not_on_the_photo() -> None:
    def shape(side: int, panel_height: int) -> tuple[int, ...]:
        shown = panel(plain(side, 2 * side), np.ones((7, 7)))
        return grid([Row([[shown], [shown]])], Options(panel_height=panel_height)).pixels.shape

    assert shape(20, 360) == shape(700, 360)
    small, large = shape(50, 400), shape(50, 800)
    assert np.array(large[:2]) / np.array(small[:2]) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (1, 1), (60, 900), (3, 20000)])
@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_extreme_shapes_stay_sensible(size: tuple[int, int], resize: str) -> None:
    shown = panel(noise(*size), np.ones((7, 7)), resize, title="name", caption="cosine")
    height, width = grid([Row([[shown], [shown]])], Options(panel_height=100)).pixels.shape[:2]
    # The panel, two lines for it, the legend with its key and a note, margins.
    assert height <= 100 + 280
    assert width <= 2 * 220 + 80


def test_rows_of_unlike_lengths_and_no_rows() -> None:
    one = Panel(plain(90, 90, 0))
    drawn = grid([Row([[one], [one]]), Row([]), Row([[one]])], PLAIN)
    assert len(drawn.places) == 3
    assert drawn.places[0][0] == drawn.places[2][0]
    assert drawn.places[2][1] - drawn.places[0][3] == round(grids.ROW_GAP * 0.9)  # no legend without a map
    assert grid([], PLAIN).pixels.shape[2] == 3


def test_a_title_stands_close_above_its_row() -> None:
    stacks = [[Panel(plain(90, 90, 0))]]
    plainly, titled = grid([Row(stacks)], PLAIN), grid([Row(stacks, "a title")], PLAIN)
    assert titled.places[0][1] - plainly.places[0][1] == round(1.6 * ROW_TITLE * 0.9)


# --- scale --------------------------------------------------------------------------------------


def drawn_alone(shown: Panel, scale: float, height: int, width: int) -> Pixels:
    return overlay(shown, scale=scale, height=height, width=width, contours=False)


def assert_scales(rows: list[Row], options: Options, scales: list[float]) -> None:
    drawn = grid(rows, options)
    panels = [one for row in rows for stack in row.stacks for one in stack]
    for at, (one, scale) in enumerate(zip(panels, scales, strict=True)):
        picture = inside(drawn, at)
        np.testing.assert_array_equal(picture, drawn_alone(one, scale, *picture.shape[:2]))


def maps(*largest: float, **more: object) -> list[Row]:
    shown = [panel(plain(40, 40, 120), np.array([[value, value / 3]]), **more) for value in largest]
    return [Row([[one]]) for one in shown]


def test_one_scale_serves_all_maps_and_is_the_largest() -> None:
    assert_scales(maps(0.02, 0.04, 0.013), PLAIN, [0.04] * 3)
    assert_scales(maps(0.02, -0.04), PLAIN, [0.04] * 2)


def test_a_given_scale_makes_pictures_comparable() -> None:
    assert_scales(maps(0.02), Options(contours=False, scale=0.5), [0.5])
    assert_scales(maps(0.8), Options(contours=False, scale=0.5), [0.5])


def test_scales_of_unlike_names_are_apart() -> None:
    rows = maps(0.02, 0.04, scale="a") + maps(0.01, scale="b")
    assert_scales(rows, PLAIN, [0.04, 0.04, 0.01])
    same = maps(0.02, 0.04) + maps(0.01)
    assert len(grid(rows, PLAIN).pixels) > len(grid(same, PLAIN).pixels)


def test_maps_that_set_no_scale_are_clipped_unless_they_are_alone() -> None:
    assert_scales(maps(0.9, sets_scale=False) + maps(0.02), PLAIN, [0.02, 0.02])
    assert_scales(maps(0.9, sets_scale=False), PLAIN, [0.9])


def test_invalid_scales_are_refused() -> None:
    for scale in (0.0, 1e-10, 1e308, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="must be a number from 1e-9 to 1e9"):
            Options(scale=scale)
    for scale in (1e-9, 1e9):
        assert grid(maps(-0.02, 0.04), Options(scale=scale)).pixels.any()


# --- legend -------------------------------------------------------------------------------------


def words_of(legends: list[Legend]) -> list[str]:
    """What a legend writes, line by line."""
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        from simmap.engine.figures import layout, legend

        for module in (layout, legend):
            patch.setattr(module, "draw_text", lambda _, line, *rest: written.append(line))
        for one in legends:
            one.draw(Layout(1000), 900, 0.6)
    return written


def legends_of(rows: list[Row], options: Options = PLAIN, total: str = "the score") -> list[str]:
    return words_of(list(grids._legends(rows, options, total).values()))


GROUNDS = ["on light photos", "on dark photos"]
MEANING = "contribution to the cosine per cell"


def test_legend_of_what_speaks_for() -> None:
    assert legends_of(maps(0.037)) == [*GROUNDS, "0", "0.0185", "0.037", MEANING]
    assert legends_of(maps(0.02, 0.037), Options(), "the sum")[-2:] == [
        "inside: half of the sum",
        "inside: 80 % of the sum",
    ]


def test_legend_of_what_speaks_against() -> None:
    against = legends_of(maps(-0.03), Options())
    assert against[2:] == [
        "\N{MINUS SIGN}0.03", "0", "+0.03", MEANING, "blue, hatched: against similarity",
        "inside: half of the positive contributions", "inside: 80 % of the positive contributions",
    ]  # fmt: skip


def test_legend_says_what_lies_beyond_it() -> None:
    assert legends_of(maps(0.9), Options(contours=False, scale=0.5)) == [
        *GROUNDS,
        "0",
        "0.25",
        "0.5 or more",
        MEANING,
    ]
    clipped = legends_of(maps(0.9, sets_scale=False) + maps(0.02))
    assert clipped[-3:] == ["0.02 or more", MEANING, "near duplicates of the query do not set the scale"]


def test_legend_says_what_lies_beyond_both_ends() -> None:
    minus = "\N{MINUS SIGN}"
    words = legends_of(maps(-0.9), Options(contours=False, scale=0.5))
    assert words[2:5] == [f"{minus}0.5 or less", "0", "+0.5 or more"]


def test_each_scale_has_a_legend_and_the_last_one_the_key_of_contours() -> None:
    both = legends_of(maps(0.02, scale="a") + maps(0.01, scale="b"), Options())
    assert both == [
        *GROUNDS, "0", "0.01", "0.02", f"{MEANING}, a",
        *GROUNDS, "0", "0.005", "0.01", f"{MEANING}, b",
        "inside: half of the score", "inside: 80 % of the score",
    ]  # fmt: skip


def test_legend_says_what_is_dimmed_and_what_is_padding() -> None:
    for resize, note in (
        ("crop", "dimmed: not seen by the network"),
        ("letterbox", "flat, outside the photo's outline: padding"),
    ):
        rows = [Row([[panel(plain(40, 80), np.ones((2, 2)), resize)]])]
        assert legends_of(rows)[-1] == note
    assert legends_of([Row([[panel(plain(40, 80), np.ones((2, 2)))]])])[-1] == MEANING


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("wide", [1000, 2000])
def test_ticks_stand_at_their_values(negative: bool, wide: int) -> None:
    legend, layout = Legend(0.04, negative), Layout(wide)
    with text_as_boxes():
        picture = legend.draw(layout, 900, 1.0)
    unit = wide // 1000
    bar, ticks = picture[: 34 * unit], picture[34 * unit : 39 * unit]
    length = 260 * unit
    columns = np.flatnonzero((ticks < 100).all(axis=(0, 2)))
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
    assert len(groups) == 3
    low = -1.0 if negative else 0.0
    for group, value in zip(groups, (low, (low + 1) / 2, 1.0), strict=True):
        at = round((value - low) / (1 - low) * (length - 1))
        assert at in group
        expected = overlay(
            panel(plain(9, 9, 40), np.full((1, 1), value)), scale=1.0, height=9, contours=False, opacity=1.0
        )
        colours = {tuple(pixel) for pixel in expected.reshape(-1, 3).tolist()}
        assert any(abs(np.array(colour) - bar[-1, at].astype(int)).max() <= 3 for colour in colours)
    assert (bar[:, length] == 255).all() and (bar[:, length - 1] != 255).any()


def test_the_legend_stands_below_the_query_where_there_is_room() -> None:
    query = Panel(plain(90, 160, 100))
    tall = [panel(plain(90, 160), np.ones((2, 2))), panel(plain(90, 160), np.ones((2, 2)))]
    short = [panel(plain(90, 160), np.ones((2, 2)))]
    below, beside = (grid([Row([[query], stack])], Options(panel_height=300)) for stack in (short, tall))
    assert (beside.pixels[beside.places[-1][3] + 5 :] == 255).all()
    left, _, right, bottom = beside.places[0]
    assert (beside.pixels[bottom + 12 :, left:right] != 255).any()
    assert (below.pixels[below.places[-1][3] + 20 :] != 255).any()


# --- text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 4, 6])
def test_text_can_be_read_where_the_picture_is_shown_1000_pixels_wide(count: int) -> None:
    one = Panel(plain(90, 90, 0), title="\N{FULL BLOCK}" * 3)
    with text_as_boxes():
        drawn = grid([Row([[one]] * count)], Options(panel_height=400))
    left, top, *_ = drawn.places[0]
    rows = np.flatnonzero((drawn.pixels[:top, left : left + 5] < 128).all(axis=-1).any(axis=1))
    letter = drawn.pixels[:, left:][:top]
    line = Layout(drawn.pixels.shape[1]).px(15)
    assert len(rows) and letter.size
    assert line / max(drawn.pixels.shape[1] / 1000, 0.9) == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize("font", ["built in", "of OpenCV 4"])
@pytest.mark.parametrize(
    "words",
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
    words: str, font: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if font == "of OpenCV 4":
        monkeypatch.delattr(cv2, "FontFace", raising=False)
    photo, texts = plain(90, 120, 0), ("title", "caption")
    usual = grid([Row([[Panel(photo, **dict.fromkeys(texts, "name"))]], "name")], PLAIN)
    other = grid([Row([[Panel(photo, **dict.fromkeys(texts, words))]], words)], PLAIN)
    assert other.pixels.shape == usual.pixels.shape and other.places == usual.places
    left, top, right, bottom = other.places[0]
    # Text stays in its own column, and none of it is lost.
    assert (other.pixels[:, right + 30 :] == 255).all() or (other.pixels[top:, right + 30 :] == 255).all()
    if words.strip():
        assert (other.pixels[:top, left:right] < 128).any()
        assert (other.pixels[bottom:, left:right] < 160).any()


def test_long_title_keeps_its_beginning_and_its_end() -> None:
    short = text.shortened("beginning-" + "x" * 3000 + "-0001.jpg", 16, 300)
    assert short.startswith("beginning-") and short.endswith("-0001.jpg") and "..." in short
    assert 240 < text.text_width(short, 16) <= 300
    assert text.shortened("short.jpg", 16, 300) == "short.jpg"


def test_long_heading_goes_onto_more_lines() -> None:
    rows = [Row([[Panel(plain(90, 90))]])]
    one, long = (grid(rows, PLAIN, heading=h).pixels for h in ("score 0.5", "cosine similarity " * 9))
    assert one.shape[1] == long.shape[1]
    assert len(long) > len(one) + 40


def test_contours_can_be_switched_off() -> None:
    rows = [Row([[panel(plain(60, 60), np.arange(16.0).reshape(4, 4))]])]
    with_, without = grid(rows, Options()), grid(rows, PLAIN)
    assert (inside(with_, 0) != inside(without, 0)).any()
    assert len(with_.pixels) > len(without.pixels)


# --- what the legend says -------------------------------------------------------------------------


def legend_of(values: list[list[float]], field: tuple[float, float, float, float] | None = None) -> Legend:
    shown = panel(plain(50, 100), np.array(values))
    if field is not None:
        shown = replace(shown, geometry=Geometry(50, 100, field))
    (legend,) = grids._legends([Row([[shown]])], Options(), "the score").values()
    return legend


def test_places_that_add_nothing_do_not_speak_against() -> None:
    nothing = legend_of([[0.0, 0.5], [1.0, 0.0]])
    assert not nothing.negative and nothing.total == "the score"
    against = legend_of([[-0.1, 0.5], [1.0, 0.0]])
    assert against.negative and against.total == "the positive contributions"


def test_a_value_at_the_scale_is_not_clipped() -> None:
    legend = legend_of([[0.25, 1.0]])
    assert (legend.scale, legend.clipped) == (1.0, False)


DIMMED, PADDING = "dimmed: not seen by the network", "flat, outside the photo's outline: padding"


@pytest.mark.parametrize(
    ("field", "notes"),
    [
        ((0.0, 0.0, 100.0, 50.0), []),
        ((1e-9, -1e-9, 100.0 - 1e-9, 50.0 + 1e-9), []),
        ((0.5, 0.0, 100.0, 50.0), [DIMMED]),
        ((0.0, 0.5, 100.0, 50.0), [DIMMED]),
        ((0.0, 0.0, 99.5, 50.0), [DIMMED]),
        ((0.0, 0.0, 100.0, 49.5), [DIMMED]),
        ((-0.5, 0.0, 100.0, 50.0), [PADDING]),
        ((0.0, -0.5, 100.0, 50.0), [PADDING]),
        ((0.0, 0.0, 100.5, 50.0), [PADDING]),
        ((0.0, 0.0, 100.0, 50.5), [PADDING]),
        ((10.0, -10.0, 90.0, 60.0), [DIMMED, PADDING]),
    ],
)
def test_the_legend_names_what_was_not_seen_and_what_is_padding(
    field: tuple[float, float, float, float], notes: list[str]
) -> None:
    assert legend_of([[1.0]], field).notes == notes
