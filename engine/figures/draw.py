"""Pictures: heat maps on the original photos, side by side, on one honest scale.

A map is scaled up bilinearly from its grid to the part of the photo that the network saw (section 3.2 of
arXiv 1901.00536). One scale serves all maps of a picture and starts at 0: the same contribution has the
same colour and opacity everywhere, nothing is transparent but 0, and what speaks against similarity gets the
other half of a diverging colour map. Work is done at the size of the picture, never at the photo's.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from ..types import Pixels, Rgb
from .heat import apply_heat
from .panel import Panel, check_options, overlay, panel_size, shared_scale
from .text import MINUS, draw_text, plain_text, shortened, text_width

INK, FAINT, PAPER = (38, 38, 42), (104, 104, 112), (255, 255, 255)
LIGHT, DARK = 232, 64  # grounds of the legend: a light photo and a dark one
# Pixels where a panel is 360 high; they grow with the panels and shrink to what can still be read.
MARGIN, GAP, ROW_GAP, HEADING_GAP, BAR, BAR_LENGTH, COLUMN = 24, 14, 18, 6, 18, 264, 110
HEADING, ROW_TITLE, TITLE, CAPTION, SMALL = 25, 18, 16, 15, 13
LEAST_UNIT = 0.9
NARROWEST = 0.55  # of a column over panel_height, since a column holds titles too; never below COLUMN


def grid(
    rows: Sequence[Sequence[Panel]],
    *,
    heading: str = "",
    scale: float | None = None,
    panel_height: int = 360,
    opacity: float = 0.6,
    row_titles: Sequence[str] = (),
    row_scales: Sequence[str] = (),
) -> Pixels:
    """Photos and maps in rows and columns, with a heading and the legend of their scale.

    A panel wider than ``WIDEST`` times its height gets lower instead, and none gets thinner than a band;
    text grows with ``panel_height``. The photos' own sizes do not matter.

    Args:
        rows: panels; rows may have unlike lengths.
        heading: text at the top, usually the score, on as many lines as it needs.
        scale: the contribution that gets the full colour; by default the largest in the picture.
        panel_height: pixels of a panel's height.
        opacity: of the heat at full scale, in (0, 1].
        row_titles: a line above each row; may be fewer than the rows, or empty.
        row_scales: a name for each row's scale. Rows of one name share it, and each name has a legend;
            by default all rows share one. For maps whose cells do not compare, such as those of a region
            and of a whole image.

    Returns:
        uint8 RGB (height, width, 3).

    Raises:
        DecompositionError: the scale is not a positive number.
        ConfigError: the panel height or the opacity cannot be.
    """
    panels = [panel for row in rows for panel in row]
    maps = [panel.map for panel in panels if panel.map is not None]
    names = list(row_scales) or [""] * len(rows)
    scales = {
        name: shared_scale(p.map for row, own in zip(rows, names, strict=True) if own == name for p in row)
        if scale is None
        else scale
        for name in names
    }
    for value in scales.values():
        check_options(value, opacity, panel_height, "panel_height")
    layout = _Layout(max(panel_height / 360, LEAST_UNIT))
    sizes = [[panel_size(panel, panel_height) for panel in row] for row in rows]
    least = max(round(NARROWEST * panel_height), layout.px(COLUMN))
    columns = [
        max([least, *(row[c][1] for row in sizes if c < len(row))])
        for c in range(max(map(len, rows), default=0))
    ]
    gap = layout.px(GAP)
    width = max(sum(columns) + gap * (len(columns) - 1), layout.px(BAR_LENGTH))
    bands: list[Pixels] = []
    if heading:
        text = layout.paragraph(heading, HEADING, width, INK)
        bands.append(_padded(text, len(text) + layout.px(HEADING_GAP), width))
    for index, (row, row_sizes) in enumerate(zip(rows, sizes, strict=True)):
        if index < len(row_titles) and row_titles[index]:
            bands.append(layout.line(row_titles[index], ROW_TITLE, width, INK))
        titled = any(panel.title for panel in row)
        cells = []
        for panel, (high, wide), column in zip(row, row_sizes, columns, strict=False):
            picture = overlay(panel, scale=scales[names[index]], height=high, width=wide, opacity=opacity)
            parts = [layout.line(panel.title, TITLE, column, INK)] if titled else []
            parts.append(_padded(picture, high, column))
            if panel.caption:
                parts.append(layout.line(panel.caption, CAPTION, column, FAINT))
            cells.append(np.concatenate(parts))
        tallest = max((len(cell) for cell in cells), default=0)
        cells = [_padded(cell, tallest, cell.shape[1] + gap) for cell in cells]
        if cells:
            bands.append(
                _padded(np.concatenate(cells, axis=1)[:, :-gap], tallest + layout.px(ROW_GAP), width)
            )
    if maps:
        negative = any((values < 0).any() for values in maps)
        for name, value in scales.items():
            told = "contribution to the cosine per cell" + (f", {name}" if name else "")
            bands.append(_legend(layout, value, negative, opacity, width, told))
        if notes := _notes(panels):
            bands.append(layout.paragraph(notes, SMALL, width, FAINT))
    body = np.concatenate(bands) if bands else np.full((1, width, 3), PAPER, np.uint8)
    margin = layout.px(MARGIN)
    return np.pad(body, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)


def stack(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures uint8 RGB (h, w, 3) below one another on white."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([_padded(picture, len(picture), width) for picture in pictures])


def _padded(picture: Pixels, height: int, width: int) -> Pixels:
    """The picture in the upper left corner of white paper."""
    below, beside = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, below), (0, beside), (0, 0)), constant_values=255)


def _notes(panels: Sequence[Panel]) -> str:
    """What the legend says of dimmed photos and of padding, if any panel shows them."""
    unseen = padding = 0.0
    for panel in panels:
        if panel.map is not None and panel.geometry is not None:
            x0, y0, x1, y1 = panel.geometry.field
            height, width = panel.pixels.shape[:2]
            unseen = max(unseen, x0, y0, width - x1, height - y1)
            padding = max(padding, -x0, -y0, x1 - width, y1 - height)
    # The edges of a field may be off by a rounding.
    told = [(unseen, "dimmed: not seen by the network"), (padding, "grey: padding")]
    return "; ".join(text for pixels, text in told if pixels > 1e-6)


def _legend(
    layout: "_Layout", scale: float, has_negative: bool, opacity: float, width: int, told: str
) -> Pixels:
    """The colour bar, on a light and on a dark ground as photos are, with its ticks and its meaning."""
    length, high = layout.px(BAR_LENGTH), layout.px(BAR)
    low = -scale if has_negative else 0.0
    values = np.linspace(low / scale, 1, length, dtype=np.float32)[None].repeat(high, axis=0)
    ground = np.full((high, length, 3), LIGHT, np.uint8)
    ground[high // 2 :] = DARK
    bar = _padded(apply_heat(ground, values, opacity), high, width)
    ticks = np.full((layout.px(SMALL + 9), width, 3), PAPER, np.uint8)
    for value in (low, 0.0, scale) if has_negative else (0.0, scale):
        x = round((value - low) / (scale - low) * (length - 1))
        cv2.line(ticks, (x, 0), (x, layout.px(4)), INK, 1)
        number = f"{value:+.2g}" if has_negative else f"{value:.2g}"
        text = number.replace("-", MINUS) if value else "0"
        room = text_width(text, layout.px(SMALL))
        at = min(max(x - room // 2, 0), length - room)
        draw_text(ticks, text, (at, layout.px(SMALL + 6)), layout.px(SMALL), INK)
    return np.concatenate([bar, ticks, layout.paragraph(told, SMALL, width, FAINT)])


class _Layout:
    """Lengths and lines of text at the size of a picture."""

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def px(self, length: float) -> int:
        """Pixels of a length that is meant for panels of height 360."""
        return max(round(length * self.unit), 1)

    def line(self, text: str, size: int, width: int, colour: Rgb) -> Pixels:
        """One line on white, (1.6 size, width, 3), shortened in the middle to fit."""
        pixels = self.px(size)
        band = np.full((self.px(1.6 * size), width, 3), PAPER, np.uint8)
        draw_text(band, shortened(plain_text(text), pixels, width), (0, self.px(1.12 * size)), pixels, colour)
        return band

    def paragraph(self, text: str, size: int, width: int, colour: Rgb) -> Pixels:
        """Text on white, (n 1.6 size, width, 3), on as many lines as it needs."""
        lines: list[str] = []
        for word in plain_text(text).split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and text_width(longer, self.px(size)) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return np.concatenate([self.line(line, size, width, colour) for line in lines or [""]])
