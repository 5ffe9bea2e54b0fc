"""Lines across two panels, from a place to what it matches."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..types import Pixels
from .lines import DARK, LIGHT, draw_lines

WIDEST, THINNEST = 2.6, 1.0  # of a link, in units of the layout
DOT = 1.6  # a dot's radius at the end of a link, over the link's width


@dataclass(frozen=True)
class Link:
    """A line between two places of a picture.

    Attributes:
        start, end: (x, y) in pixels of the picture.
        share: of the widest link's strength, in [0, 1].
    """

    start: tuple[float, float]
    end: tuple[float, float]
    share: float


def draw_links(picture: Pixels, links: Sequence[Link], unit: float) -> None:
    """Draw links onto a picture, the strongest on top."""
    links = sorted(links, key=lambda link: link.share)
    widths = [max(1.0, unit * (THINNEST + (WIDEST - THINNEST) * link.share)) for link in links]
    for link, width in zip(links, widths, strict=True):
        draw_lines(picture, [np.array([link.start, link.end])], width, closed=False)
    for link, width in zip(links, widths, strict=True):  # a link may cross another one's end
        centre = round(link.end[0]), round(link.end[1])
        for colour, radius in ((DARK, DOT * width + max(1.0, unit)), (LIGHT, DOT * width)):
            cv2.circle(picture, centre, round(radius), colour, -1, cv2.LINE_AA)
