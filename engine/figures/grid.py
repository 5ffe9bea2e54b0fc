"""Pictures: heat maps on the original photos, side by side, on one honest scale.

A map is scaled up bilinearly from its grid to the part of the photo that the network saw (section 3.2 of
arXiv 1901.00536). One scale serves all maps of a picture and starts at 0: the same contribution has the
same colour everywhere, and what speaks against similarity gets the other half of a diverging colour map.
Work is done at the size of the picture, never at the photo's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np

from ..decompose import View
from ..options import Options
from ..types import Pixels
from .layout import CAPTION, FAINT, HEADING, INK, PAPER, ROW_TITLE, TITLE, Layout, padded
from .legend import Legend
from .panel import Panel, overlay, stack_sizes
from .scale import check_scale, shared_scale

# In units of the layout.
MARGIN, GAP, ROW_GAP, HEADING_GAP, COLUMN = 22, 12, 14, 6, 100
LEAST_WIDTH = 400  # of a picture: its legend's
BESIDE = 150  # the least width of a legend that stands below a short stack

Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True)
class Row:
    """Stacks of panels side by side.

    Attributes:
        stacks: each of panels of one width above one another.
        title: a line above the row.
    """

    stacks: Sequence[Sequence[Panel]]
    title: str = ""


@dataclass(frozen=True, eq=False)
class Grid:
    """A drawn grid.

    Attributes:
        pixels: uint8 RGB (height, width, 3).
        places: (left, top, right, bottom) in the picture of each panel: rows, then stacks, then downwards.
    """

    pixels: Pixels
    places: tuple[Rectangle, ...]


def grid(
    rows: Sequence[Row],
    options: Options,
    *,
    heading: str = "",
    total: str = "the score",
    view: View = "contribution",
) -> Grid:
    """Photos and maps in rows of stacks, with a heading and the legend of each scale.

    A row's stacks are equally high and as wide as their photos make them, so that photos of unlike shapes
    leave no holes. Text grows with the picture's width. A legend stands below the first stack of the first
    row of its scale where the others are higher and leave it room, else below the last row of its scale.

    Args:
        rows: of stacks; may have unlike lengths.
        options: ``panel_height``, ``opacity``, ``scale`` and ``contours`` count.
        heading: text at the top, usually the score, on as many lines as it needs.
        total: what a map sums to, in the words of the legend.
        view: what the maps show. ``influence`` has no contours, since it is no share of a score.

    Raises:
        DecompositionError: the scale is not a positive number.
    """
    if view == "influence":
        options = replace(options, contours=False)
    legends = _legends(rows, options, total, view)
    sized = [[stack_sizes(stack, options.panel_height) for stack in row.stacks] for row in rows]
    layout = Layout(max((sum(width for _, width in row) for row in sized), default=0))
    gap, margin = layout.px(GAP), layout.px(MARGIN)
    widths = [[max(width, layout.px(COLUMN)) for _, width in row] for row in sized]
    width = max([layout.px(LEAST_WIDTH), *(sum(row) + gap * (len(row) - 1) for row in widths)])
    bands: list[Pixels] = []
    places: list[Rectangle] = []

    def add(band: Pixels, below: int = 0) -> None:
        bands.append(padded(band, len(band) + layout.px(below) * bool(below), width))

    if heading:
        add(layout.paragraph(heading, HEADING, width, INK), HEADING_GAP)
    pending = dict(legends)
    for at, (row, sizes, columns) in enumerate(zip(rows, sized, widths, strict=True)):
        if row.title:
            add(layout.line(row.title, ROW_TITLE, width, INK))
        cells, inner = _cells(row, [own for own, _ in sizes], columns, layout, legends, options)
        left, top = margin, margin + sum(map(len, bands))
        for column, boxes in zip(columns, inner, strict=True):
            places += [(left + x0, top + y0, left + x1, top + y1) for x0, y0, x1, y1 in boxes]
            left += column + gap
        tallest = max(map(len, cells), default=0)
        names = {panel.scale: None for stack in row.stacks for panel in stack if panel.scale in pending}
        if cells and columns[0] >= layout.px(BESIDE):
            drawn = [pending[name].draw(layout, columns[0], options.opacity) for name in names]
            if len(cells[0]) + sum(len(one) + gap for one in drawn) <= tallest:
                space = np.full((gap, columns[0], 3), PAPER, np.uint8)
                cells[0] = np.concatenate([cells[0], *(part for one in drawn for part in (space, one))])
                pending = {name: legend for name, legend in pending.items() if name not in names}
        if cells:
            cells = [padded(cell, tallest, cell.shape[1] + gap) for cell in cells]
            add(np.concatenate(cells, axis=1)[:, :-gap], ROW_GAP)
        later = {panel.scale for other in rows[at + 1 :] for stack in other.stacks for panel in stack}
        below = [pending.pop(name) for name in names if name in pending and name not in later]
        if below:
            add(_side_by_side(below, layout, width, options.opacity), ROW_GAP)
    body = np.concatenate(bands) if bands else np.full((1, width, 3), PAPER, np.uint8)
    pixels = np.pad(body, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
    return Grid(pixels, tuple(places))


def stack_pictures(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures uint8 RGB (h, w, 3) below one another on white."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([padded(picture, len(picture), width) for picture in pictures])


def _side_by_side(legends: Sequence[Legend], layout: Layout, width: int, opacity: float) -> Pixels:
    share = (width + layout.px(GAP)) // len(legends) - layout.px(GAP)
    if share < layout.px(BESIDE):
        return np.concatenate([legend.draw(layout, width, opacity) for legend in legends])
    drawn = [legend.draw(layout, share, opacity) for legend in legends]
    tallest = max(map(len, drawn))
    return np.concatenate([padded(one, tallest, share + layout.px(GAP)) for one in drawn], axis=1)[:, :width]


def _cells(
    row: Row,
    sizes: Sequence[Sequence[tuple[int, int]]],
    columns: Sequence[int],
    layout: Layout,
    legends: Mapping[str, Legend],
    options: Options,
) -> tuple[list[Pixels], list[list[Rectangle]]]:
    """Each stack of a row with its text, and where its panels lie on it."""
    titled = [any(panel and panel.title for panel in level) for level in zip_longest(*row.stacks)]
    cells, places = [], []
    for stack, own, column in zip(row.stacks, sizes, columns, strict=True):
        parts: list[Pixels] = []
        boxes: list[Rectangle] = []
        for level, (panel, (high, wide)) in enumerate(zip(stack, own, strict=True)):
            if titled[level]:
                parts.append(layout.line(panel.title, TITLE, column, INK))
            elif level and not stack[level - 1].caption:
                parts.append(np.full((layout.px(GAP), column, 3), PAPER, np.uint8))
            top = sum(map(len, parts))
            boxes.append((0, top, wide, top + high))
            scale = legends[panel.scale].scale if panel.map is not None else 1.0
            picture = overlay(
                panel,
                scale=scale,
                height=high,
                width=wide,
                opacity=options.opacity,
                contours=options.contours,
            )
            parts.append(padded(picture, high, column))
            if panel.caption:
                # Between panels one line, so that those below it stay level with their neighbours.
                text = layout.paragraph if level == len(stack) - 1 else layout.line
                parts.append(text(panel.caption, CAPTION, column, FAINT))
        cells.append(np.concatenate(parts))
        places.append(boxes)
    return cells, places


def _legends(
    rows: Sequence[Row], options: Options, sums_to: str, view: View = "contribution"
) -> dict[str, Legend]:
    """The legend of each scale that a map has, by its name."""
    scales: dict[str, list[Panel]] = {}
    for panel in (panel for row in rows for stack in row.stacks for panel in stack if panel.map is not None):
        scales.setdefault(panel.scale, []).append(panel)
    legends = {}
    negative = any((panel.map < 0).any() for own in scales.values() for panel in own if panel.map is not None)
    for name, panels in scales.items():
        maps = [panel.map for panel in panels if panel.map is not None]
        counted = [panel.map for panel in panels if panel.sets_scale]
        scale = shared_scale(counted or maps) if options.scale is None else options.scale
        check_scale(scale)
        clipped = any((np.abs(values) > scale).any() for values in maps)
        notes = ["near duplicates of the query do not set the scale"] if clipped and not options.scale else []
        total = ""
        if name == list(scales)[-1]:  # what all legends have in common stands in the last one
            notes += _notes([panel for own in scales.values() for panel in own])
            if options.contours:
                total = "the positive contributions" if negative else sums_to
        against = any((values < 0).any() for values in maps)
        legends[name] = Legend(scale, against, clipped, name, total, notes, view)
    return legends


def _notes(panels: Sequence[Panel]) -> list[str]:
    """What the legend says of dimmed photos and of padding, if any panel shows them."""
    unseen = padding = 0.0
    for panel in panels:
        if panel.geometry is not None:
            x0, y0, x1, y1 = panel.geometry.field
            height, width = panel.pixels.shape[:2]
            unseen = max(unseen, x0, y0, width - x1, height - y1)
            padding = max(padding, -x0, -y0, x1 - width, y1 - height)
    # The edges of a field may be off by a rounding.
    notes = [
        (unseen, "dimmed: not seen by the network"),
        (padding, "flat, outside the photo's outline: padding"),
    ]
    return [text for pixels, text in notes if pixels > 1e-6]
