"""The measure of an index's recall: of what it asks, and what an exact index gets."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from index_common import ENGINE

from simmap.engine import StoreError, find_images, measure_recall, update_index
from simmap.engine.images.geometry import Geometry
from simmap.engine.index import recall as measure
from simmap.engine.index.embedded import Index
from simmap.engine.index.recall import _region
from simmap.engine.results import Embedded
from simmap.engine.types import Array


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 7), (5, 2)])
def test_regions_are_rectangles_of_up_to_half_the_map_anywhere_on_it(height: int, width: int) -> None:
    # given an image of which each place adds one feature, so that a query tells its cells
    size = height * width
    parts = np.eye(size, dtype=np.float32).reshape(height, width, size)
    image = Embedded("x", np.ones(size, np.float32), Geometry(9, 9, (0, 0, 9, 9)), parts, None)
    rng = np.random.default_rng(0)
    shapes, covered = set(), np.zeros((height, width), bool)
    for _ in range(400):
        query = _region(image, rng)
        assert query is not None
        inside = query.reshape(height, width) > 0
        rows, columns = inside.any(axis=1), inside.any(axis=0)
        np.testing.assert_array_equal(inside, rows[:, None] & columns)
        for side in (rows, columns):
            assert np.count_nonzero(np.diff(side.astype(int), prepend=0) == 1) == 1
        np.testing.assert_allclose(query[inside.ravel()], 1 / np.sqrt(size), rtol=1e-6)
        shapes.add((int(rows.sum()), int(columns.sum())))
        covered |= inside
    assert covered.all()
    halves = (height + 1) // 2, (width + 1) // 2
    assert shapes == {(a + 1, b + 1) for a in range(halves[0]) for b in range(halves[1])}


def test_an_image_of_which_nothing_counts_has_no_region() -> None:
    parts = np.zeros((3, 3, 2), np.float32)
    image = Embedded("x", np.ones(2, np.float32), Geometry(9, 9, (0, 0, 9, 9)), parts, None)
    assert _region(image, np.random.default_rng(0)) is None


def test_an_exact_index_finds_all_and_photos_that_are_gone_do_not_ask(made: Index, photos: Path) -> None:
    target = Index.create(made.path.parent / "other", ENGINE, photos)
    images = find_images(photos)
    told: list[tuple[int, int]] = []
    for count in (4, 60):  # fewer than ten results, and more
        update_index(target, ENGINE, images[:count])
        told.clear()
        recall = measure_recall(ENGINE, target, queries=3, on_progress=lambda *counts: told.append(counts))
        assert recall == (1.0, 1.0, 3, len(target)) and told == [(len(target), len(target))]
    for item in images[2:]:
        Path(item.path).unlink()
    assert measure_recall(ENGINE, target, queries=3).queries == 2
    for item in images[:2]:
        Path(item.path).unlink()
    with pytest.raises(StoreError, match="none of its photos can be read"):
        measure_recall(ENGINE, target)


class Late(Index):
    """An index that misses the five best."""

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        return [hits[5:] for hits in super().search(queries, k + 5, exclude=exclude)]


@pytest.mark.parametrize("batch", [7, 1000])
def test_an_index_that_misses_five_of_ten_has_a_recall_of_a_half(
    made: Index, photos: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(measure, "BATCH", batch)
    path = made.path.parent / "other"
    update_index(Index.create(path, ENGINE, photos), ENGINE, find_images(photos))
    told: list[tuple[int, int]] = []
    recall = measure_recall(ENGINE, Late(path), queries=4, on_progress=lambda *counts: told.append(counts))
    assert recall == (0.5, 0.5, 4, 60)
    assert told == [(min(end, 60), 60) for end in range(batch, 60 + batch, batch)]
