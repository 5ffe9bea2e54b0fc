"""Lines of text in any script, by OpenCV."""

import unicodedata
from typing import Any

import cv2

from ..types import Pixels, Rgb

MINUS = "\N{MINUS SIGN}"


def plain_text(text: str) -> str:
    """One line of characters that are safe to draw.

    A file name may hold line breaks, control characters and, where it is not UTF-8, lone surrogates;
    with these last OpenCV 5 ends the process.
    """
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(character if character.isprintable() else "?" for character in text)


def shortened(text: str, size: int, width: int) -> str:
    """The text, with as much of its middle left out as does not fit into ``width`` pixels."""
    if text_width(text, size) <= width:
        return text
    # The most characters that fit, by bisection: names may be thousands of characters long.
    fits, low, high = "", 0, len(text) - 1
    while low <= high:
        keep = (low + high) // 2
        short = f"{text[: (keep + 1) // 2]}...{text[len(text) - keep // 2 :]}"
        if text_width(short, size) <= width:
            fits, low = short, keep + 1
        else:
            high = keep - 1
    return fits


def _face() -> Any:
    """OpenCV 5's built-in font with the most scripts, or None on OpenCV 4, which has no font for UTF-8."""
    if not hasattr(cv2, "FontFace"):
        return None
    face = cv2.FontFace("sans")
    face.set("uni")  # a build may lack it, then this fails and "sans" stays
    return face


def text_width(text: str, size: int) -> int:
    face = _face()
    if face is None:
        return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, size / 32, 1)[0][0])
    return int(cv2.getTextSize((0, 0), text, (0, 0), face, size, 400)[2])


def draw_text(picture: Pixels, text: str, origin: tuple[int, int], size: int, colour: Rgb) -> None:
    """Draw ``text`` from its lower left corner; what the font lacks becomes a question mark."""
    face = _face()
    if face is None:
        thickness = max(1, round(size / 20))
        hershey = cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, _ascii(text), origin, hershey, size / 32, colour, thickness, cv2.LINE_AA)
    else:
        cv2.putText(picture, text, origin, colour, face, size, 400)


def _ascii(text: str) -> str:
    return text.replace(MINUS, "-").encode("ascii", "replace").decode("ascii")
