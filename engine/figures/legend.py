"""The legend of one scale: its colours on two grounds, its numbers, and what the lines enclose."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..decompose import View
from ..types import Pixels
from .contours import SHARES, WIDTH
from .heat import apply_heat
from .layout import FAINT, INK, PAPER, SMALL, Layout, padded
from .lines import draw_lines
from .scale import tick_text
from .text import draw_text, text_width

GROUNDS = {"on light photos": 232, "on dark photos": 40}  # greys of the bar's two halves
# Height of the bar's one half, lengths and a gap, in units of the layout.
BAR, BAR_LENGTH, SWATCH, SPACE = 17, 260, 34, 8
MEANINGS: dict[View, str] = {
    "contribution": "contribution to the cosine per cell",
    "influence": "influence on the cosine per cell: red to yellow raises the score",
}
NEGATIVE: dict[View, str] = {
    "contribution": "blue, hatched: against similarity",
    "influence": "blue, hatched: lowers the score",
}
SWATCH_GROUND = (92, 92, 92)


@dataclass(frozen=True)
class Legend:
    """What the colours and lines of one scale mean.

    Attributes:
        scale: the contribution that gets the full colour.
        negative: whether something speaks against, so that the bar has a blue half.
        clipped: whether there are contributions beyond the scale.
        of: which maps the scale is of; empty where a picture has one scale.
        total: what the contours enclose shares of; empty without contours.
        notes: further lines.
        view: what the maps show.
    """

    scale: float
    negative: bool
    clipped: bool = False
    of: str = ""
    total: str = ""
    notes: Sequence[str] = ()
    view: View = "contribution"

    def draw(self, layout: Layout, width: int, opacity: float) -> Pixels:
        """The legend on white, uint8 RGB (height, width, 3)."""
        bands = [_bar(layout, self, width, opacity), _ticks(layout, self, width)]
        meaning = MEANINGS[self.view] + (f", {self.of}" if self.of else "")
        bands.append(layout.paragraph(meaning, SMALL, width, FAINT))
        if self.negative:
            bands.append(layout.paragraph(NEGATIVE[self.view], SMALL, width, FAINT))
        if self.total:
            for share in reversed(SHARES):
                part = "half" if share == 0.5 else f"{share:.0%}".replace("%", " %")
                bands.append(_key(layout, share, f"inside: {part} of {self.total}", width))
        bands += [layout.paragraph(note, SMALL, width, FAINT) for note in self.notes]
        return np.concatenate(bands)


def bar_length(layout: Layout, width: int) -> int:
    """Pixels of the colour bar in a legend ``width`` pixels wide, beside the names of its grounds."""
    words = max(text_width(word, layout.px(SMALL)) for word in GROUNDS) + layout.px(SPACE)
    return max(min(layout.px(BAR_LENGTH), width - words), layout.px(BAR_LENGTH) // 4)


def _bar(layout: Layout, legend: Legend, width: int, opacity: float) -> Pixels:
    length, high = bar_length(layout, width), layout.px(BAR)
    values = np.linspace(-1.0 if legend.negative else 0.0, 1, length, dtype=np.float32)[None].repeat(
        high, axis=0
    )
    halves = []
    for word, grey in GROUNDS.items():
        heat = apply_heat(np.full((high, length, 3), grey, np.uint8), values, opacity)
        half = padded(heat[:, :width], high, width)
        at = (length + layout.px(SPACE), round((high + 0.72 * layout.px(SMALL)) / 2))
        draw_text(half, word, at, layout.px(SMALL), FAINT)
        halves.append(half)
    return np.concatenate(halves)


def _ticks(layout: Layout, legend: Legend, width: int) -> Pixels:
    length, size = bar_length(layout, width), layout.px(SMALL)
    band = np.full((layout.px(SMALL + 11), width, 3), PAPER, np.uint8)
    low = -legend.scale if legend.negative else 0.0
    for value in (low, (low + legend.scale) / 2, legend.scale):
        x = round((value - low) / (legend.scale - low) * (length - 1))
        cv2.line(band, (x, 0), (x, layout.px(5)), INK, max(1, round(layout.unit)))
        last = legend.clipped and abs(value) == legend.scale
        text = tick_text(value, signed=legend.negative, clipped=last)
        room = text_width(text, size)
        at = min(max(x - room // 2, 0), max(width - room, 0))
        draw_text(band, text, (at, layout.px(SMALL + 7)), size, INK)
    return band


def _key(layout: Layout, share: float, text: str, width: int) -> Pixels:
    swatch, indent = layout.px(SWATCH), layout.px(SWATCH + SPACE)
    words = layout.paragraph(text, SMALL, max(width - indent, 1), FAINT)
    band = np.full((len(words), width, 3), PAPER, np.uint8)
    band[:, indent:] = words[:, : max(width - indent, 0)]
    high = layout.px(SMALL + 3)
    band[layout.px(2) : high, :swatch] = SWATCH_GROUND
    middle = (layout.px(2) + high) / 2
    line = np.array([[layout.px(3), middle], [swatch - layout.px(3), middle]])
    draw_lines(band, [line], WIDTH[share] * layout.unit, closed=False, dashed=share != 0.5)
    return band
