"""The picture of searches: which maps set a scale, and how large its panels are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from scenes import searches

from simmap.engine.figures import found as module
from simmap.engine.figures.found import SearchFigure
from simmap.engine.figures.grid import Grid, Row, grid
from simmap.engine.index.search import Found
from simmap.engine.options import Options


def drawn(
    found: Sequence[Found], options: Options, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Row], Options]:
    """What the figure asks the grid for."""
    kept: list[tuple[list[Row], Options]] = []

    def spy(rows: list[Row], own: Options, **more: str) -> Grid:
        kept.append((rows, own))
        return grid(rows, own, **more)

    monkeypatch.setattr(module, "grid", spy)
    SearchFigure(found, "", options).picture()
    return kept[0]


def test_a_near_duplicate_of_the_query_sets_no_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = searches(tmp_path)
    scores = (1.0, 0.9901, 0.9899)
    hits = tuple(replace(hit, score=score) for hit, score in zip(whole.hits, scores, strict=True))
    (row,), _ = drawn([replace(whole, hits=hits)], Options(panel_height=120), monkeypatch)
    assert [[panel.sets_scale for panel in stack] for stack in row.stacks[1:]] == [[False] * 2] * 2 + [
        [True] * 2
    ]


def test_regions_and_whole_images_have_scales_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole, region), _ = drawn(searches(tmp_path), Options(panel_height=120), monkeypatch)
    assert {panel.scale for stack in whole.stacks[1:] for panel in stack} == {"of whole images"}
    assert [panel.scale for panel in region.stacks[1]] == ["of the region", "of results to the region"]


def test_region_is_outlined_on_each_picture_of_the_query_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = searches(tmp_path)
    (whole, region), _ = drawn(found, Options(panel_height=120), monkeypatch)
    assert all(panel.mask is None and not panel.boxes for stack in whole.stacks for panel in stack)
    for stack in region.stacks:
        assert stack[0].mask is found[1].mask
        assert stack[0].boxes == ((20, 10, 60, 30),)
        assert all(panel.mask is None and not panel.boxes for panel in stack[1:])


@pytest.mark.parametrize(("asked", "side"), [(300, 300), (1000, 450)])
def test_pictures_of_many_columns_have_smaller_panels(
    asked: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = searches(tmp_path)
    _, options = drawn([whole], Options(panel_height=asked), monkeypatch)
    assert options.panel_height == side  # 1800 over the query and three results
