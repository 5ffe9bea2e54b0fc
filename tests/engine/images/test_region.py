"""Regions: the share of each cell that boxes and masks cover, against counting points."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from simmap.engine.errors import ImageError
from simmap.engine.images.geometry import Geometry
from simmap.engine.images.region import load_mask, region_weights


def sampled_weights(
    geometry: Geometry, inside: Callable[[float, float], bool], cells: tuple[int, int]
) -> Any:
    """By counting: 40 x 40 points a cell, those beyond the photo moved to its nearest edge."""
    height, width = cells
    result = np.zeros(cells)
    for y, x in itertools.product(range(height), range(width)):
        x0, y0, x1, y1 = geometry.cell_box(y, x, height, width)
        for i, j in itertools.product(range(40), range(40)):
            px = min(max(x0 + (i + 0.5) / 40 * (x1 - x0), 0), geometry.photo_width - 1e-6)
            py = min(max(y0 + (j + 0.5) / 40 * (y1 - y0), 0), geometry.photo_height - 1e-6)
            result[y, x] += inside(px, py) / 1600
    return result


GEOMETRIES = [
    Geometry(60, 100, (0.0, 0.0, 100.0, 60.0)),
    Geometry(60, 100, (0.0, -20.0, 100.0, 80.0)),
    Geometry(60, 100, (25.0, 5.0, 75.0, 55.0)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "boxes", [[(20, 10, 40, 30)], [(0, 0, 50, 60), (30.5, 20.25, 60, 10)], [(90, 50, 40, 40), (26, 6, 5, 5)]]
)
def test_boxes_weigh_cells_by_their_union(geometry: Geometry, boxes: list[tuple[float, ...]]) -> None:
    found = region_weights(geometry, 4, 5, boxes=boxes)  # type: ignore[arg-type]
    expected = sampled_weights(
        geometry, lambda px, py: any(x <= px < x + w and y <= py < y + h for x, y, w, h in boxes), (4, 5)
    )
    np.testing.assert_allclose(found, expected, atol=0.04)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_mask_weighs_as_the_boxes_that_it_draws(geometry: Geometry) -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[10:40, 20:60] = 255
    by_box = region_weights(geometry, 7, 7, boxes=[(20, 10, 40, 30)])
    np.testing.assert_allclose(region_weights(geometry, 7, 7, mask=mask), by_box, atol=1e-5)
    both = region_weights(geometry, 7, 7, mask=mask, boxes=[(20, 10, 40, 30)])
    np.testing.assert_allclose(both, by_box, atol=1e-5)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_whole_photo_is_the_whole_map(geometry: Geometry) -> None:
    np.testing.assert_allclose(region_weights(geometry, 3, 7, boxes=[(0, 0, 100, 60)]), 1, atol=1e-6)
    np.testing.assert_allclose(region_weights(geometry, 3, 7, boxes=[(-5, -5, 500, 500)]), 1, atol=1e-6)
    np.testing.assert_allclose(region_weights(geometry, 3, 7, mask=np.ones((60, 100))), 1, atol=1e-6)


def test_boxes_on_the_grid_weigh_whole_cells() -> None:
    found = region_weights(GEOMETRIES[0], 6, 10, boxes=[(10, 20, 30, 10)])
    expected = np.zeros((6, 10))
    expected[2, 1:4] = 1
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "needs a box"),
        ({"boxes": [(0, 0, 0, 5)]}, "0,0,0,5 is empty"),
        ({"boxes": [(0, 0, float("nan"), 5)]}, "is empty"),
        ({"boxes": [(100, 0, 5, 5)]}, "off the photo, which is 100 wide and 60 high"),
        ({"mask": np.ones((100, 60))}, "the mask is 100 x 60, must be 60 x 100"),
        ({"mask": np.zeros((60, 100))}, "sees nothing of the region"),
    ],
)
def test_regions_that_cannot_be_are_named(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ImageError, match=told):
        region_weights(GEOMETRIES[0], 7, 7, **arguments)


def test_a_region_that_the_crop_cut_away_is_named() -> None:
    with pytest.raises(ImageError, match="sees nothing of the region"):
        region_weights(GEOMETRIES[2], 7, 7, boxes=[(0, 0, 10, 60)])


def test_boxes_and_a_mask_add_up() -> None:
    mask = np.zeros((60, 100), bool)
    mask[:30, :50] = True
    weights = region_weights(GEOMETRIES[0], 2, 2, boxes=[(25, 0, 25, 60), (50, 30, 0.5, 30)], mask=mask)
    # Half a column of pixels rounds to none.
    assert weights == pytest.approx(np.array([[1, 0], [0.5, 0]]))


def test_a_box_narrower_than_a_pixel_counts_its_share() -> None:
    weights = region_weights(GEOMETRIES[0], 1, 2, boxes=[(10, 0, 0.5, 60)])
    assert weights == pytest.approx(np.array([[0.01, 0]]))


def test_a_box_lower_than_a_pixel_counts_its_share() -> None:
    weights = region_weights(GEOMETRIES[0], 2, 1, boxes=[(0, 10, 100, 0.6)])
    assert weights == pytest.approx(np.array([[0.02], [0]]))


def test_a_box_that_ends_in_the_first_pixel_is_on_the_photo_and_one_before_it_is_off() -> None:
    # Half a pixel each way, of 60 x 100.
    weights = region_weights(GEOMETRIES[0], 1, 1, boxes=[(-5, -5, 5.5, 5.5)])
    assert weights == pytest.approx(np.array([[0.25 / 6000]]))
    last = region_weights(GEOMETRIES[0], 1, 1, boxes=[(99.5, 59.5, 9, 9)])
    assert last == pytest.approx(np.array([[0.25 / 6000]]))
    for box in [(-5, 0, 5, 5), (0, -5, 5, 5), (0, 60, 5, 5), (100, 0, 5, 5)]:
        with pytest.raises(ImageError, match="is off the photo"):
            region_weights(GEOMETRIES[0], 1, 1, boxes=[box])


def test_a_box_that_begins_within_the_first_pixel_counts_no_more_than_it_covers() -> None:
    weights = region_weights(GEOMETRIES[0], 1, 1, boxes=[(0.5, 0.25, 9.5, 9.75)])
    assert weights == pytest.approx(np.array([[9.5 * 9.75 / 6000]]))


def test_half_light_of_any_channel_is_inside_a_mask(tmp_path: Path) -> None:
    pixels = np.array([[[127, 127, 127], [128, 0, 0], [0, 0, 128], [0, 255, 0]]], np.uint8)
    cv2.imwrite(str(tmp_path / "mask.png"), pixels)
    assert load_mask(tmp_path / "mask.png").tolist() == [[False, True, True, True]]
    cv2.imwrite(str(tmp_path / "dark.png"), pixels[:, :1])
    with pytest.raises(ImageError, match=r"dark\.png: the mask is dark everywhere"):
        load_mask(tmp_path / "dark.png")
