"""Pictures: heat maps on the original photos, side by side, on one honest scale.

A map is scaled up bilinearly from its grid to the part of the photo that the network saw (section 3.2 of
arXiv 1901.00536). One scale serves all maps of a picture and starts at 0: the same contribution has the
same colour and opacity everywhere, nothing is transparent but 0, and what speaks against similarity gets the
other half of a diverging colour map. Work is done at the size of the picture, never at the photo's.
"""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from simmap.engine.errors import ConfigError, DecompositionError, OutputError
from simmap.engine.files import write_bytes
from simmap.engine.image import Geometry

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

# RGB at equal steps from 0 to the whole of the scale. Both halves darken as they grow, so that their order
# survives a grey print, but not so far that they sink into a dark photo.
WARM = ((255, 225, 80), (255, 175, 20), (255, 105, 0), (240, 40, 0), (205, 0, 10))
COOL = ((140, 225, 255), (60, 175, 255), (20, 120, 250), (15, 70, 230), (15, 30, 190))
STEPS = 1024  # of the colour table on each side of 0, more than 8 bits can show
# Opacity grows with the contribution, a little faster at first: small ones stay visible, 0 stays clear.
OPACITY_POWER = 0.7
# The photo's own colours give way to grey sooner than the heat covers them: red heat on a red tulip would
# not be seen, and the same contribution looks the same whatever the hue below it.
FADE_POWER = 3
STRIP = 1 << 18  # pixels that are coloured at a time, so that a large picture needs little more memory

INK, FAINT, PAPER = (38, 38, 42), (104, 104, 112), (255, 255, 255)
PADDING = (205, 205, 208)
LIGHT, DARK = 232, 64  # grounds of the legend: a light photo and a dark one
DIMMED = 0.4  # of the light outside what the network saw

# Pixels where a panel is 360 high; they grow with the panels and shrink to what can still be read.
MARGIN, GAP, ROW_GAP, HEADING_GAP, BAR, BAR_LENGTH, COLUMN = 24, 14, 18, 6, 18, 264, 110
HEADING, ROW_TITLE, TITLE, CAPTION, SMALL = 25, 18, 16, 15, 13
LEAST_UNIT = 0.9
MINUS = "\N{MINUS SIGN}"

WIDEST = 2.2  # a panel's width over its height
NARROWEST = 0.55  # of a column over panel_height, since a column holds titles too; never below COLUMN
THINNEST = 1 / 15  # of a side over panel_height: a photo of 1 x 1000 pixels is drawn as a band, not a hair

FORMATS = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 90],
}


@dataclass(frozen=True, eq=False)
class Panel:
    """One photo of a picture, plain or under its map.

    Attributes:
        pixels: uint8 (h, w, 3) RGB, the original photo.
        map: (H, W) contributions, or None for the plain photo.
        geometry: where the network's input lies on the photo; needed with a map. A plain photo that has
            one is drawn as large as with a map, padding included.
        title: a line above the photo, shortened in the middle if it is too long.
        caption: a line below it, likewise.
        boxes: (x0, y0, x1, y1) in photo pixels, drawn as outlines; what lies outside the photo shows on
            padding.

    Raises:
        DecompositionError: a wrong type or shape, NaN or infinity, a map without a geometry, or the
            geometry of another photo.
    """

    pixels: Pixels
    map: npt.NDArray[np.floating[Any]] | None = None
    geometry: Geometry | None = None
    title: str = ""
    caption: str = ""
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise DecompositionError(
                f"a panel's pixels are {self.pixels.dtype} {shape}, must be uint8 (h, w, 3) and not empty"
            )
        if self.map is not None:
            _check_map(self.map)
            if self.geometry is None:
                raise DecompositionError("a panel with a map has no geometry; give that of its photo")
        if self.geometry is not None:
            expected = (self.geometry.photo_height, self.geometry.photo_width)
            if expected != shape[:2]:
                raise DecompositionError(
                    f"a panel's pixels have shape {shape}, must be {(*expected, 3)} as its geometry says"
                )
            _check_box("the field of a geometry", self.geometry.field)
        for box in self.boxes:
            _check_box("a box", box)

    @property
    def canvas(self) -> Box:
        """(x0, y0, x1, y1) in photo pixels: the photo, all that the network saw, and the boxes."""
        height, width = self.pixels.shape[:2]
        fields = () if self.geometry is None else (self.geometry.field,)
        x0, y0, x1, y1 = zip((0.0, 0.0, float(width), float(height)), *fields, *self.boxes, strict=True)
        return min(x0), min(y0), max(x1), max(y1)


def shared_scale(maps: Iterable[npt.NDArray[np.floating[Any]] | None]) -> float:
    """The largest contribution, for or against, of all maps (H, W) of one picture; 1 if all are zero.

    Raises:
        DecompositionError: a map is not (H, W), is empty, or has NaN or infinite values.
    """
    largest = 0.0
    for values in maps:
        if values is not None:
            _check_map(values)
            largest = max(largest, float(np.abs(values).max()))
    return largest or 1.0


def overlay(
    panel: Panel, *, scale: float, height: int, width: int | None = None, opacity: float = 0.6
) -> Pixels:
    """The photo under its map, at the size of the picture.

    Args:
        panel: the photo and its map.
        scale: the contribution that gets the full colour; larger ones get it too.
        height, width: pixels of the result, which shows ``panel.canvas``; without a width, the size that
            the panel has in a grid of that ``panel_height``: in the canvas's shape, lower for a panorama.
        opacity: of the heat at full scale, in (0, 1].

    Returns:
        uint8 RGB (height, width, 3). Outside what the network saw the photo is dimmed; padding that the
        network saw outside the photo is grey under the heat; borders inside the picture are outlined.

    Raises:
        DecompositionError: the scale is not a positive number.
        ConfigError: the size or the opacity cannot be.
    """
    _check_options(scale, opacity, height, "height")
    if width is None:
        height, width = _size(panel, height)
    _check_options(scale, opacity, width, "width")
    view = _View(panel.canvas, height, width)
    whole = (0, 0, width, height)
    photo_height, photo_width = panel.pixels.shape[:2]
    photo = left, top, right, bottom = view.rectangle((0, 0, photo_width, photo_height))
    picture = np.empty((height, width, 3), np.uint8)
    if photo != whole:
        picture[:] = PADDING
    picture[top:bottom, left:right] = _resize(panel.pixels, bottom - top, right - left)
    if panel.map is not None and panel.geometry is not None:
        field = x0, y0, x1, y1 = view.rectangle(panel.geometry.field)
        shares = np.asarray(panel.map / scale, np.float32)
        values = cv2.resize(shares, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        heated = _heat(picture[y0:y1, x0:x1], np.asarray(values, np.float32), opacity)
        if field != whole:
            picture = np.rint(picture * np.float32(DIMMED)).astype(np.uint8)
        picture[y0:y1, x0:x1] = heated
        if field != whole:
            _outline(picture, field, 1)
        if photo not in (whole, field):
            _outline(picture, photo, 1)
    for box in panel.boxes:
        _outline(picture, view.rectangle(box), max(2, round(height / 150)))
    return picture


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
        _check_options(value, opacity, panel_height, "panel_height")
    layout = _Layout(max(panel_height / 360, LEAST_UNIT))
    sizes = [[_size(panel, panel_height) for panel in row] for row in rows]
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


def write_picture(path: str | Path, pixels: Pixels, *, force: bool) -> None:
    """Write uint8 RGB (h, w, 3) as PNG, JPEG or WebP, by the suffix and atomically.

    Raises:
        OutputError: another suffix, a file that exists without ``force``, a picture too large for the
            format, or a file that cannot be written.
    """
    check_format(path)
    suffix = Path(path).suffix.lower()
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), FORMATS[suffix])
    except cv2.error:  # some releases of OpenCV raise, others return false
        done = False
    if not done:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise OutputError(
            f"{path}: a picture of {size} pixels is too large for {suffix}; end the name with .png"
        )
    write_bytes(path, data.tobytes(), force=force)


def check_format(path: str | Path) -> None:
    """Refuse the name of a picture in a format that is not written, before any work is done for it.

    Raises:
        OutputError: the suffix is not one of ``FORMATS``.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: pictures are written as {', '.join(FORMATS)}; end the name with one")


# --- checks -------------------------------------------------------------------------------------


def _check_map(values: npt.NDArray[Any]) -> None:
    if values.ndim != 2 or 0 in values.shape:
        raise DecompositionError(f"a map has shape {values.shape}, must be (H, W) and not empty")
    if not np.isfinite(values).all():
        raise DecompositionError("a map has NaN or infinite values, so there is nothing to draw")


def _check_box(what: str, box: Sequence[float]) -> None:
    if len(box) != 4 or not all(map(math.isfinite, box)) or box[0] >= box[2] or box[1] >= box[3]:
        raise DecompositionError(f"{what} is {tuple(box)}, must be (x0, y0, x1, y1) with x0 < x1 and y0 < y1")


def _check_options(scale: float, opacity: float, side: int, name: str) -> None:
    if not (math.isfinite(scale) and scale > 0):
        raise DecompositionError(f"the scale of a picture is {scale}, must be a number above 0")
    if not 0 < opacity <= 1:
        raise ConfigError(f"opacity is {opacity}, must be above 0 and at most 1")
    if side < 1:
        raise ConfigError(f"{name} is {side}, must be at least 1 pixel")


# --- heat ---------------------------------------------------------------------------------------


def _heat(ground: Pixels, values: npt.NDArray[np.float32], opacity: float) -> Pixels:
    """``ground`` (h, w, 3) under the colours of ``values`` (h, w), contributions over the scale."""
    table = _heat_table(opacity)
    result = np.empty_like(ground)
    step = max(1, STRIP // ground.shape[1])
    for strip in (slice(y, y + step) for y in range(0, len(ground), step)):
        place = values[strip] * np.float32(STEPS)
        np.clip(place, -STEPS, STEPS, out=place)
        entry = table.take(np.rint(place, out=place).astype(np.int32) + STEPS, axis=0)
        photo = np.ascontiguousarray(ground[strip])
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None]
        heated = photo * entry[..., 0:1]
        heated += grey * entry[..., 1:2]
        heated += entry[..., 2:]
        result[strip] = np.rint(heated, out=heated)
    return result


@lru_cache(maxsize=4)
def _heat_table(opacity: float) -> npt.NDArray[np.float32]:
    """(2 STEPS + 1, 5): a pixel becomes photo * [0] + its grey * [1] + [2:], from against to for."""
    strength = np.abs(np.linspace(-1, 1, 2 * STEPS + 1))[:, None]
    half = strength[STEPS:, 0]
    warm, cool = (
        np.stack([np.interp(half, np.linspace(0, 1, len(ramp)), c) for c in np.transpose(ramp)], axis=-1)
        for ramp in (WARM, COOL)
    )
    colour = np.concatenate([cool[:0:-1], warm])
    alpha = opacity * strength**OPACITY_POWER
    fade = 1 - (1 - strength) ** FADE_POWER
    parts = ((1 - fade) * (1 - alpha), fade * (1 - alpha), colour * alpha)
    return np.concatenate(parts, axis=1).astype(np.float32)


class _View:
    """From photo pixels to the pixels of a panel."""

    def __init__(self, canvas: Box, height: int, width: int) -> None:
        self.x0, self.y0, x1, y1 = canvas
        self.height, self.width = height, width
        self.scale_x, self.scale_y = width / (x1 - self.x0), height / (y1 - self.y0)

    def rectangle(self, box: Box) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) of at least one pixel, inside the panel."""
        left = min(max(round((box[0] - self.x0) * self.scale_x), 0), self.width - 1)
        top = min(max(round((box[1] - self.y0) * self.scale_y), 0), self.height - 1)
        right = min(max(round((box[2] - self.x0) * self.scale_x), left + 1), self.width)
        bottom = min(max(round((box[3] - self.y0) * self.scale_y), top + 1), self.height)
        return left, top, right, bottom


def _size(panel: Panel, panel_height: int) -> tuple[int, int]:
    """Height and width of a panel in a grid: the canvas's shape within ``WIDEST`` and ``THINNEST``."""
    x0, y0, x1, y1 = panel.canvas
    aspect = (x1 - x0) / (y1 - y0)
    least = max(round(THINNEST * panel_height), 1)
    if aspect > WIDEST:
        return max(round(panel_height * WIDEST / aspect), least), round(panel_height * WIDEST)
    return panel_height, max(round(panel_height * aspect), least)


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    # INTER_AREA averages only while no side grows, so sides that shrink go first, alone.
    low, narrow = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    if (low, narrow) != pixels.shape[:2]:
        pixels = cast(Pixels, cv2.resize(pixels, (narrow, low), interpolation=cv2.INTER_AREA))
    if (low, narrow) != (height, width):
        pixels = cast(Pixels, cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR))
    return pixels


def _outline(picture: Pixels, rectangle: tuple[int, int, int, int], thickness: int) -> None:
    """A light line with a dark one inside it, visible on any ground."""
    left, top, right, bottom = rectangle
    for colour in ((255, 255, 255), (25, 25, 28)):
        # Nested frames one pixel wide: a wider cv2.rectangle would reach outside the rectangle.
        for _ in range(thickness):
            if right <= left or bottom <= top:
                return
            cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 1)
            left, top, right, bottom = left + 1, top + 1, right - 1, bottom - 1


# --- page ---------------------------------------------------------------------------------------


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
    bar = _padded(_heat(ground, values, opacity), high, width)
    ticks = np.full((layout.px(SMALL + 9), width, 3), PAPER, np.uint8)
    for value in (low, 0.0, scale) if has_negative else (0.0, scale):
        x = round((value - low) / (scale - low) * (length - 1))
        cv2.line(ticks, (x, 0), (x, layout.px(4)), INK, 1)
        number = f"{value:+.2g}" if has_negative else f"{value:.2g}"
        text = number.replace("-", MINUS) if value else "0"
        room = _text_width(text, layout.px(SMALL))
        at = min(max(x - room // 2, 0), length - room)
        _text(ticks, text, (at, layout.px(SMALL + 6)), layout.px(SMALL), INK)
    return np.concatenate([bar, ticks, layout.paragraph(told, SMALL, width, FAINT)])


class _Layout:
    """Lengths and lines of text at the size of a picture."""

    def __init__(self, unit: float) -> None:
        self.unit = unit

    def px(self, length: float) -> int:
        """Pixels of a length that is meant for panels of height 360."""
        return max(round(length * self.unit), 1)

    def line(self, text: str, size: int, width: int, colour: Colour) -> Pixels:
        """One line on white, (1.6 size, width, 3), shortened in the middle to fit."""
        pixels = self.px(size)
        band = np.full((self.px(1.6 * size), width, 3), PAPER, np.uint8)
        _text(band, _shortened(_plain(text), pixels, width), (0, self.px(1.12 * size)), pixels, colour)
        return band

    def paragraph(self, text: str, size: int, width: int, colour: Colour) -> Pixels:
        """Text on white, (n 1.6 size, width, 3), on as many lines as it needs."""
        lines: list[str] = []
        for word in _plain(text).split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and _text_width(longer, self.px(size)) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return np.concatenate([self.line(line, size, width, colour) for line in lines or [""]])


# --- text ---------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """One line of characters that are safe to draw.

    A file name may hold line breaks, control characters and, where it is not UTF-8, lone surrogates;
    with these last OpenCV 5 ends the process.
    """
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    return "".join(character if character.isprintable() else "?" for character in text)


def _shortened(text: str, size: int, width: int) -> str:
    """The text, with as much of its middle left out as does not fit into ``width`` pixels."""
    if _text_width(text, size) <= width:
        return text
    # The most characters that fit, by bisection: names may be thousands of characters long.
    fits, low, high = "", 0, len(text) - 1
    while low <= high:
        keep = (low + high) // 2
        short = f"{text[: (keep + 1) // 2]}...{text[len(text) - keep // 2 :]}"
        if _text_width(short, size) <= width:
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


def _text_width(text: str, size: int) -> int:
    face = _face()
    if face is None:
        return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, size / 32, 1)[0][0])
    return int(cv2.getTextSize((0, 0), text, (0, 0), face, size, 400)[2])


def _text(picture: Pixels, text: str, origin: tuple[int, int], size: int, colour: Colour) -> None:
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
