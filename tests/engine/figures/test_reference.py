"""Whole pictures against small reference images: photos, colours, lines, ticks and words in their places."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from make_reference import LEVELS, REFERENCE, drawn

from simmap.engine.types import Pixels

NAMES = sorted(path.stem for path in REFERENCE.glob("*.png"))
# Of a channel at half the size: the references' own rounding, and that of another processor. OpenCV 4.10 and
# 5.0 draw alike; a tick of one pixel is 100 darker than paper.
TOLERANCE = 12


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pixels]:
    return drawn(tmp_path_factory.mktemp("photos"))


def test_every_kind_of_picture_has_a_reference(pictures: dict[str, Pixels]) -> None:
    assert sorted(pictures) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_picture_looks_as_its_reference(name: str, pictures: dict[str, Pixels], tmp_path: Path) -> None:
    expected = cv2.imread(str(REFERENCE / f"{name}.png"))[..., ::-1].astype(int)
    picture = pictures[name].astype(int)
    assert picture.shape == expected.shape
    difference = abs(picture - expected)
    where = np.argwhere(difference.max(axis=-1) > TOLERANCE)
    assert where.size == 0, f"{len(where)} pixels differ, the first at {where[0]} (half size)"
    assert difference.mean() < LEVELS / 4


def test_the_tolerance_notices_a_tick_a_column_and_a_colour(pictures: dict[str, Pixels]) -> None:
    expected = cv2.imread(str(REFERENCE / "pair.png"))[..., ::-1].astype(int)
    picture = pictures["pair"].astype(int)
    dark = np.argwhere((picture[180:200, :60] < 150).all(axis=-1))
    assert len(dark)  # a tick below the bar
    without = picture.copy()
    without[180:200, :60] = 255
    assert abs(without - expected).max() > TOLERANCE
    assert abs(np.roll(picture, 1, axis=1) - expected).max() > TOLERANCE
