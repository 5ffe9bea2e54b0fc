"""The picture of a class: its order, its rows, and how large its panels are."""

import numpy as np
import pytest
from scenes import class_maps, geometry, plain

from simmap.engine.analysis.classes import ClassMaps
from simmap.engine.decompose import View
from simmap.engine.figures import classes as module
from simmap.engine.figures.classes import ClassFigure
from simmap.engine.figures.grid import Grid, Row, grid
from simmap.engine.options import Options
from simmap.engine.results import Vector


def drawn(
    maps: ClassMaps, options: Options, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Row], Options, str]:
    """What the figure asks the grid for."""
    kept: list[tuple[list[Row], Options, str]] = []

    def spy(rows: list[Row], own: Options, *, heading: str, total: str, view: View) -> Grid:
        kept.append((rows, own, heading))
        return grid(rows, own, heading=heading, total=total, view=view)

    monkeypatch.setattr(module, "grid", spy)
    ClassFigure(maps, "name", options).picture()
    return kept[0]


def of(count: int) -> ClassMaps:
    photo = plain(8, 8)
    images = tuple(Vector(f"{at}.png", np.ones(2, np.float32), geometry(photo)) for at in range(count))
    return ClassMaps(
        images, (np.ones((2, 2)),) * count, tuple(at / 100 for at in range(count)), (photo,) * count
    )


def test_each_photo_is_under_its_own_map_the_most_typical_first(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = class_maps()
    rows, _, _ = drawn(maps, Options(panel_height=120), monkeypatch)
    panels = [panel for row in rows for (panel,) in row.stacks]
    for panel, at in zip(panels, (1, 2, 0), strict=True):
        assert panel.map is maps.maps[at]
        np.testing.assert_array_equal(panel.pixels, maps.sources[at])
    assert [len(row.stacks) for row in rows] == [2, 1]


@pytest.mark.parametrize(("count", "columns", "side"), [(2, 2, 800), (9, 3, 533), (60, 6, 266)])
def test_more_images_make_more_columns_of_smaller_panels(
    count: int, columns: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, options, _ = drawn(of(count), Options(panel_height=2000), monkeypatch)
    assert len(rows[0].stacks) == columns and options.panel_height == side
    assert sum(len(row.stacks) for row in rows) == count


def test_of_a_large_class_the_sixty_most_typical_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _, heading = drawn(of(62), Options(panel_height=120), monkeypatch)
    assert heading == "name (60 most typical of 62)"
    titles = [panel.title for row in rows for (panel,) in row.stacks]
    assert titles == [f"{at}.png" for at in range(61, 1, -1)]
