"""Lengths and lines of text at the size of a picture."""

import numpy as np

from ..types import Pixels, Rgb
from .text import draw_text, plain_text, shortened, text_width

INK, FAINT, PAPER = (38, 38, 42), (96, 96, 104), (255, 255, 255)
# Sizes of text, in pixels where the picture is READ_AT wide: wider ones are read scaled down to that.
HEADING, ROW_TITLE, TITLE, CAPTION, SMALL = 23, 18, 15, 14, 13
READ_AT = 1000
LEAST_UNIT = 0.9  # a narrow picture is not scaled up, so its text must not be smaller
LINE = 1.6  # of a line over its text


class Layout:
    """Lengths and lines of text of a picture ``width`` pixels wide."""

    def __init__(self, width: int) -> None:
        self.unit = max(width / READ_AT, LEAST_UNIT)

    def px(self, length: float) -> int:
        """Pixels of a length that is meant for a picture ``READ_AT`` pixels wide."""
        return max(round(length * self.unit), 1)

    def line(self, text: str, size: int, width: int, colour: Rgb) -> Pixels:
        """One line on white, (LINE size, width, 3), shortened in the middle to fit."""
        pixels = self.px(size)
        band = np.full((self.px(LINE * size), width, 3), PAPER, np.uint8)
        draw_text(band, shortened(plain_text(text), pixels, width), (0, self.px(1.12 * size)), pixels, colour)
        return band

    def paragraph(self, text: str, size: int, width: int, colour: Rgb) -> Pixels:
        """Text on white, (n LINE size, width, 3), on as many lines as it needs."""
        lines: list[str] = []
        for word in plain_text(text).split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and text_width(longer, self.px(size)) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return np.concatenate([self.line(line, size, width, colour) for line in lines or [""]])


def padded(picture: Pixels, height: int, width: int) -> Pixels:
    """The picture in the upper left corner of white paper."""
    below, beside = height - picture.shape[0], width - picture.shape[1]
    return np.pad(picture, ((0, below), (0, beside), (0, 0)), constant_values=255)
