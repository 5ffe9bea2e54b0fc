"""Text as rows of boxes, so that reference pictures do not depend on a font, yet show every letter."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from simmap.engine.figures import layout, legend, text
from simmap.engine.types import Pixels, Rgb


def text_width(line: str, size: int) -> int:
    return len(line) * size // 2


def draw_text(picture: Pixels, line: str, origin: tuple[int, int], size: int, colour: Rgb) -> None:
    x, base = origin
    for at, letter in enumerate(line):
        left, high = x + at * size // 2, 3 + ord(letter) * 7 % max(size - 3, 1)
        if left >= 0 and not letter.isspace():
            picture[max(base - high, 0) : base, left : left + max(size // 2 - 2, 1)] = colour


@contextmanager
def text_as_boxes() -> Iterator[None]:
    with (
        mock.patch.object(layout, "draw_text", draw_text),
        mock.patch.object(layout, "text_width", text_width),
        mock.patch.object(legend, "draw_text", draw_text),
        mock.patch.object(legend, "text_width", text_width),
        mock.patch.object(text, "text_width", text_width),
    ):
        yield
