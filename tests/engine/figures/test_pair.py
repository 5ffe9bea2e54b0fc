"""The picture of a pair: its words, its scale, and lines from a cell to its best matches."""

import numpy as np
import pytest
from scenes import pair

from simmap.engine.figures import layout
from simmap.engine.figures import pair as module
from simmap.engine.figures.links import Link
from simmap.engine.figures.pair import PairFigure, caption_of
from simmap.engine.options import Options
from simmap.engine.results import Pair

SMALL = Options(panel_height=120)


def words_of(shown: PairFigure) -> list[str]:
    """What the picture says, in its order."""
    with pytest.MonkeyPatch.context() as patch:
        written: list[str] = []
        patch.setattr(layout, "shortened", lambda line, size, width: line)
        patch.setattr(layout, "draw_text", lambda _, line, *rest: written.append(line))
        shown.picture()
    return written


def links_of(shown: PairFigure) -> list[Link]:
    kept: list[Link] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "draw_links", lambda _, links, unit: kept.extend(links))
        shown.picture()
    return kept


def test_words_of_a_pair() -> None:
    shown = pair()
    words = words_of(PairFigure(shown, None, Options()))
    a, b = shown.maps
    assert words[0] == f"cosine similarity {shown.score:.3f}"
    assert words[1:5] == [
        "left/00.jpg",
        f"the map sums to {a.sum():.3f}",
        "right/00.jpg",
        f"the map sums to {b.sum():.3f}",
    ]
    assert a.sum() == pytest.approx(shown.score, abs=1e-5)


def test_words_of_a_pair_with_a_bias() -> None:
    shown = pair(bias=True)
    words = " ".join(words_of(PairFigure(shown, None, Options(panel_height=800))))
    assert f"no place owns {shown.residuals[0]:.3f}" in words and f"{shown.residuals[1]:.3f}" in words
    assert "inside: half of the map's sum" in words
    assert shown.maps[0].sum() + shown.residuals[0] == pytest.approx(shown.score, abs=1e-5)


def test_words_of_an_influence_picture_have_no_shares_of_a_score() -> None:
    shown = pair()
    words = words_of(PairFigure(shown, None, Options(), "influence"))
    for values, caption in zip(shown.influence, (words[2], words[4]), strict=True):
        up, down = values[values > 0].sum(), -values[values < 0].sum()
        assert caption == f"raise the score: +{up:.3f}, lower it: \N{MINUS SIGN}{down:.3f}"
        assert up == pytest.approx(down, abs=1e-6)  # no rest: it sums to 0
    text = " ".join(words)
    assert "red to yellow raises the score" in text and "blue, hatched: lowers the score" in text
    assert "inside" not in text and "sums to" not in text


def test_data_of_a_region_sums_the_cells_by_the_share_that_it_covers() -> None:
    shown = pair()
    # 160 x 90 pixels and 4 x 5 cells: half of the first cell, in the first row.
    report = PairFigure(shown, boxes=((0, 0, 16, 22.5),)).data()
    assert report["region"]["contribution"] == pytest.approx(shown.maps[0][0, 0] / 2, abs=1e-7)
    assert report["region"]["influence"] == pytest.approx(shown.influence[0][0, 0] / 2, abs=1e-7)
    own = shown.images[0].map_against(shown.images[0])
    for values, influence in zip(shown.maps[:1], report["influence"][:1], strict=True):
        np.testing.assert_allclose(influence, values - shown.score * own, atol=1e-6)


def test_a_region_is_outlined_on_the_first_photo_only() -> None:
    shown = pair()
    bare, outlined = (PairFigure(shown, None, SMALL, boxes=b).picture() for b in ((), ((20, 20, 80, 40),)))
    changed = np.flatnonzero((bare != outlined).any(axis=(0, 2)))
    assert len(changed) > 0 and changed.max() < bare.shape[1] / 2 + 30


def test_words_of_a_point_count_from_one() -> None:
    words = words_of(PairFigure(pair(), (1, 2), Options()))
    assert "row 2, column 3" in words
    assert f"the map sums to {pair().point(0, 1, 2).sum():.4f}" in words


def test_data_of_a_point_counts_from_zero_and_names_the_five_best_matches() -> None:
    shown = pair()
    report = PairFigure(shown, (1, 2)).data()["point"]
    values = shown.point(0, 1, 2)
    expected = sorted(np.ndindex(values.shape), key=lambda cell: -values[cell])[:5]
    assert report["cell"] == [1, 2]
    assert report["matches"] == [list(cell) for cell in expected]
    np.testing.assert_array_equal(report["map"], values)


def test_lines_run_from_the_cell_to_its_matches_wider_for_more() -> None:
    shown = pair()
    figure = PairFigure(shown, (1, 2), SMALL)
    links = links_of(figure)
    values = shown.point(0, 1, 2)
    best = figure.data()["point"]["matches"]
    assert len(links) == 5
    assert len({link.start for link in links}) == 1
    for link, (y, x) in zip(links, best, strict=True):
        assert link.share == pytest.approx(values[y, x] / values.max())
    # Panels are 120 high: 213 and 90 wide, with 5 x 4 cells each; between places only the scale counts.
    for one, (y1, x1) in zip(links, best, strict=True):
        for two, (y2, x2) in zip(links, best, strict=True):
            assert one.end[0] - two.end[0] == pytest.approx((x1 - x2) * 90 / 5, abs=1e-6)
            assert one.end[1] - two.end[1] == pytest.approx((y1 - y2) * 120 / 4, abs=1e-6)
    (sx, sy), (ex, ey) = links[0].start, links[0].end
    y, x = best[0]
    left_of_second = ex - (x + 0.5) * 18
    left_of_first = sx - 2.5 * 213 / 5
    assert left_of_second - left_of_first == pytest.approx(213 + round(12 * 0.9), abs=1)
    assert ey - (y + 0.5) * 30 == pytest.approx(sy - 1.5 * 30, abs=1e-6)


def test_what_speaks_against_gets_no_line() -> None:
    shown = pair()
    first, second = shown.images
    turned = type(second)(
        second.path,
        second.embedding,
        second.geometry,
        np.where(np.arange(20).reshape(4, 5, 1) < 2, 1, -1) * second.parts,
        None,
    )
    figure = PairFigure(Pair((first, turned), shown.photos), (0, 0), SMALL)
    assert sorted(figure.data()["point"]["matches"]) == [[0, 0], [0, 1]]
    assert len(links_of(figure)) == 2


def test_a_fixed_scale_is_of_the_pair_and_not_of_the_point() -> None:
    words = words_of(PairFigure(pair(), (1, 2), Options(panel_height=120, scale=0.5)))
    assert "contribution to the cosine per cell, with the marked cell" in " ".join(words)
    free = PairFigure(pair(), (1, 2), SMALL).picture()
    fixed = PairFigure(pair(), (1, 2), Options(panel_height=120, scale=0.5)).picture()
    assert free.shape == fixed.shape
    lower = slice(len(free) * 6 // 10, None)
    np.testing.assert_array_equal(free[lower], fixed[lower])
    assert (free != fixed).any()


@pytest.mark.parametrize(
    ("total", "residual", "score", "caption"),
    [
        (0.8, None, 0.8, "the map sums to 0.800"),
        (0.6, 0.2, 0.8, "the map sums to 0.600 (75% of the score), no place owns 0.200"),
        (0.32, 0.48, 0.8, "the map sums to 0.320 (only 40% of the score), no place owns 0.480"),
        (-0.3, -0.3, -0.6, "the map sums to -0.300 (50% of the score), no place owns -0.300"),
        (0.9, -0.3, 0.6, "the map sums to 0.900 (150% of the score), no place owns -0.300"),
        (0.3, -0.28, 0.02, "the map sums to 0.300 (the score is near 0), no place owns -0.280"),
    ],
)
def test_a_caption_says_which_share_of_the_score_a_map_carries(
    total: float, residual: float | None, score: float, caption: str
) -> None:
    assert caption_of(total, residual, score) == caption
