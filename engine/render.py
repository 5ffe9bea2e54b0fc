"""Pictures: heat maps on the original photos, side by side, on one honest scale.

A map is scaled up bilinearly from its grid to the part of the photo that the network saw (section 3.2 of
arXiv 1901.00536). One scale serves all maps of a picture and starts at 0: the same contribution has the
same colour and opacity everywhere, nothing is transparent but 0, and what speaks against similarity gets the
other half of a diverging colour map. Work is done at the size of the picture, never at the photo's.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from simmap.engine.errors import DecompositionError, OutputError
from simmap.engine.files import write_bytes
from simmap.engine.image import Geometry

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

# Colours at 0, 1/3, 2/3 and the whole of the scale.
WARM = np.array([(255, 237, 140), (254, 170, 60), (238, 50, 30), (150, 0, 38)], dtype=np.float32)
COOL = np.array([(190, 225, 255), (90, 160, 235), (35, 90, 200), (10, 35, 120)], dtype=np.float32)
# Opacity grows with the root of the contribution: small ones stay visible, 0 stays clear.
OPACITY_POWER = 0.5

INK, FAINT, PAPER, PADDING = (38, 38, 42), (110, 110, 118), (255, 255, 255), (198, 198, 202)
MARGIN, GAP, BAR = 24, 14, 14
HEADING, TEXT, SMALL = 24, 16, 13
DIMMED = 0.45  # of the light outside what the network saw
WIDEST = 2.2  # a panel's width over its height
FORMATS = {".png": [], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92], ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92],
           ".webp": [cv2.IMWRITE_WEBP_QUALITY, 90]}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Panel:
    """One photo of a picture, plain or under its map.

    Attributes:
        pixels: uint8 (h, w, 3) RGB, the original photo.
        map: (H, W) contributions, or None for the plain photo.
        geometry: where the network's input lies on the photo; needed with a map.
        title: a line above the photo, shortened in the middle if it is too long.
        caption: a line below it.
        boxes: (x0, y0, x1, y1) in photo pixels, drawn as outlines.
    """

    pixels: Pixels
    map: npt.NDArray[np.floating[Any]] | None = None
    geometry: Geometry | None = None
    title: str = ""
    caption: str = ""
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        """Check shapes and values (DecompositionError)."""
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise DecompositionError(
                f"pixels are {self.pixels.dtype} {self.pixels.shape}, must be uint8 (h, w, 3)"
            )
        if self.map is None:
            return
        if self.map.ndim != 2 or 0 in self.map.shape:
            raise DecompositionError(f"a map has shape {self.map.shape}, must be (H, W) and not empty")
        if not np.isfinite(self.map).all():
            raise DecompositionError("a map has NaN or infinite values, so there is nothing to draw")
        if self.geometry is None:
            raise DecompositionError("a panel with a map needs the geometry of its photo")

    @property
    def canvas(self) -> Box:
        """(x0, y0, x1, y1) in photo pixels: the photo and all that the network saw of it."""
        height, width = self.pixels.shape[:2]
        if self.geometry is None or self.map is None:
            return 0.0, 0.0, float(width), float(height)
        x0, y0, x1, y1 = self.geometry.field
        return min(0.0, x0), min(0.0, y0), max(float(width), x1), max(float(height), y1)


def shared_scale(maps: Iterable[npt.NDArray[np.floating[Any]] | None]) -> float:
    """The largest contribution, for or against, of all maps of one picture; 1 if all are zero."""
    return max((float(np.abs(m).max()) for m in maps if m is not None), default=0.0) or 1.0


def colours(values: npt.NDArray[Any], scale: float, opacity: float) -> tuple[Any, Any]:
    """Colour (..., 3) float32 RGB and opacity (..., 1) of contributions on a scale."""
    share = np.clip(np.asarray(values, dtype=np.float32) / np.float32(scale), -1, 1)
    strength = np.abs(share)
    position = strength * (len(WARM) - 1)
    low = np.minimum(position.astype(np.intp), len(WARM) - 2)
    between = (position - low)[..., None]
    ramp = np.where((share >= 0)[..., None, None], WARM, COOL)
    below = np.take_along_axis(ramp, low[..., None, None], axis=-2)[..., 0, :]
    above = np.take_along_axis(ramp, low[..., None, None] + 1, axis=-2)[..., 0, :]
    return below + (above - below) * between, opacity * strength[..., None] ** OPACITY_POWER


def overlay(panel: Panel, *, scale: float, height: int, width: int, opacity: float = 0.6) -> Pixels:
    """The photo under its map, at the size of the picture.

    Args:
        panel: the photo and its map.
        scale: the contribution that gets the full colour.
        height, width: pixels of the result, which shows ``panel.canvas``.
        opacity: of the heat at full scale.

    Returns:
        uint8 RGB (height, width, 3): outside what the network saw the photo is dimmed, and padding
        that the network saw outside the photo is grey.
    """
    view = _View(panel.canvas, height, width)
    photo_height, photo_width = panel.pixels.shape[:2]
    left, top, right, bottom = view.rectangle((0, 0, photo_width, photo_height))
    picture = np.full((height, width, 3), PADDING, np.uint8)
    picture[top:bottom, left:right] = _resize(panel.pixels, bottom - top, right - left)
    if panel.map is not None and panel.geometry is not None:
        x0, y0, x1, y1 = view.rectangle(panel.geometry.field)
        values = cv2.resize(panel.map.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
        colour, alpha = colours(values, scale, opacity)
        seen = picture[y0:y1, x0:x1].astype(np.float32)
        heated = np.rint(seen + (colour - seen) * alpha).astype(np.uint8)
        if (x0, y0, x1, y1) != (0, 0, width, height):
            picture = np.rint(picture * np.float32(DIMMED)).astype(np.uint8)
        picture[y0:y1, x0:x1] = heated
        inner = (x0, y0, x1, y1) != (0, 0, width, height)
        if inner:
            _outline(picture, (x0, y0, x1, y1), 1)
        if (left, top, right, bottom) != (0, 0, width, height):
            _outline(picture, (left, top, right, bottom), 1)
    for box in panel.boxes:
        _outline(picture, view.rectangle(box), 2)
    return picture


def grid(
    rows: Sequence[Sequence[Panel]],
    *,
    heading: str = "",
    scale: float | None = None,
    panel_height: int = 360,
    opacity: float = 0.6,
    row_titles: Sequence[str] = (),
) -> Pixels:
    """Photos and maps in rows and columns, with a heading and the legend of their one scale.

    Args:
        rows: panels; rows may have unlike lengths.
        heading: a line at the top, usually the score.
        scale: the contribution that gets the full colour; by default the largest in the picture.
        panel_height: pixels of a panel's height.
        opacity: of the heat at full scale.
        row_titles: a line above each row.

    Returns:
        uint8 RGB (height, width, 3).
    """
    maps = [panel.map for row in rows for panel in row]
    has_maps = any(m is not None for m in maps)
    scale = shared_scale(maps) if scale is None else scale
    sizes = [[_size(panel, panel_height) for panel in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    narrowest = round(0.55 * panel_height)
    widths = [max([narrowest, *(row[c][1] for row in sizes if c < len(row))]) for c in range(columns)]
    inner = sum(widths) + GAP * max(columns - 1, 0)
    legend = _legend(scale, any(m is not None and (m < 0).any() for m in maps), opacity) if has_maps else None
    inner = max(inner, legend.shape[1] if legend is not None else 0, 240)
    bands: list[Pixels] = []
    if heading:
        bands.append(_line(heading, HEADING, inner, INK))
    for index, (row, row_sizes) in enumerate(zip(rows, sizes, strict=True)):
        if index < len(row_titles) and row_titles[index]:
            bands.append(_line(row_titles[index], TEXT, inner, INK))
        if any(panel.title for panel in row):
            bands.append(_texts([p.title for p in row], widths, inner, INK))
        tallest = max((height for height, _ in row_sizes), default=0)
        band = np.full((tallest, inner, 3), PAPER, np.uint8)
        left = 0
        for panel, (height, width), slot in zip(row, row_sizes, widths, strict=False):
            picture = overlay(panel, scale=scale, height=height, width=width, opacity=opacity)
            y, x = (tallest - height) // 2, left + (slot - width) // 2
            band[y : y + height, x : x + width] = picture
            left += slot + GAP
        bands.append(band)
        if any(panel.caption for panel in row):
            bands.append(_texts([p.caption for p in row], widths, inner, FAINT))
        bands.append(np.full((GAP, inner, 3), PAPER, np.uint8))
    if legend is not None:
        bands.append(np.pad(legend, ((0, 0), (0, inner - legend.shape[1]), (0, 0)), constant_values=255))
    body = np.concatenate(bands) if bands else np.full((1, inner, 3), PAPER, np.uint8)
    return np.pad(body, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)


def stack(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures below one another on white; (h, w, 3) uint8 RGB."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate(
        [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures]
    )


def write_picture(path: str | Path, pixels: Pixels, *, force: bool) -> None:
    """Write uint8 RGB (h, w, 3) as PNG, JPEG or WebP, by the suffix and atomically.

    Raises:
        OutputError: another suffix, a file that exists without ``force``, or one that cannot be written.
    """
    check_format(path)
    suffix = Path(path).suffix.lower()
    done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), FORMATS[suffix])
    if not done:
        raise OutputError(f"{path}: a picture of {pixels.shape[1]} x {pixels.shape[0]} cannot be encoded")
    write_bytes(path, data.tobytes(), force=force)


def check_format(path: str | Path) -> None:
    """Refuse the name of a picture in a format that is not written, before any work is done for it.

    Raises:
        OutputError: the suffix is not one of ``FORMATS``.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise OutputError(f"{path}: pictures are written as {', '.join(FORMATS)}; end the name with one")


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
    """Height and width of a panel: the canvas's shape, no wider than ``WIDEST``."""
    x0, y0, x1, y1 = panel.canvas
    aspect = (x1 - x0) / (y1 - y0)
    if aspect > WIDEST:
        return max(round(panel_height * WIDEST / aspect), 1), round(panel_height * WIDEST)
    return panel_height, max(round(panel_height * aspect), 1)


def _resize(pixels: Pixels, height: int, width: int) -> Pixels:
    smaller = height * width < pixels.shape[0] * pixels.shape[1]
    kernel = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cast(Pixels, cv2.resize(pixels, (width, height), interpolation=kernel))


def _outline(picture: Pixels, rectangle: tuple[int, int, int, int], thickness: int) -> None:
    """A light line with a dark one inside it, visible on any ground."""
    left, top, right, bottom = rectangle
    for inset, colour in ((0, (255, 255, 255)), (thickness, (25, 25, 28))):
        if right - left > 2 * inset and bottom - top > 2 * inset:
            cv2.rectangle(
                picture,
                (left + inset, top + inset),
                (right - 1 - inset, bottom - 1 - inset),
                colour,
                thickness,
            )


def _legend(scale: float, has_negative: bool, opacity: float) -> Pixels:
    """The colour bar with its ends, on a grey like a photo's."""
    length, pad = 260, 34
    low = -scale if has_negative else 0.0
    ramp = np.linspace(low, scale, length, dtype=np.float32)[None]
    colour, alpha = colours(ramp, scale, opacity)
    ground = np.float32(215)
    bar = np.rint(ground + (colour - ground) * alpha).astype(np.uint8)
    label = "contribution of a place to the cosine"
    width = max(length + 2 * pad, _text_width(label, SMALL) + pad)
    legend = np.full((BAR + 46, width, 3), PAPER, np.uint8)
    legend[2 : 2 + BAR, pad : pad + length] = bar
    digits = max(2, 1 - math.floor(math.log10(scale)))
    for value in (*((low, 0.0) if has_negative else (0.0,)), scale):
        x = pad + round((value - low) / (scale - low) * (length - 1))
        cv2.line(legend, (x, 2 + BAR), (x, 5 + BAR), INK, 1)
        text = f"{value:.{digits}f}" if value else "0"
        _text(legend, text, (x - _text_width(text, SMALL) // 2, BAR + 20), SMALL, INK)
    _text(legend, label, (pad, BAR + 40), SMALL, FAINT)
    return legend


def _line(text: str, size: int, width: int, colour: tuple[int, int, int]) -> Pixels:
    """One line of text on white."""
    band = np.full((round(size * 1.75), width, 3), PAPER, np.uint8)
    _text(band, _shortened(text, size, width), (0, round(size * 1.15)), size, colour)
    return band


def _texts(texts: Sequence[str], widths: Sequence[int], width: int, colour: tuple[int, int, int]) -> Pixels:
    """One line of texts, each over its column."""
    band = np.full((round(TEXT * 1.75), width, 3), PAPER, np.uint8)
    left = 0
    for text, slot in zip(texts, widths, strict=False):
        _text(band, _shortened(text, TEXT, slot), (left, round(TEXT * 1.2)), TEXT, colour)
        left += slot + GAP
    return band


def _shortened(text: str, size: int, width: int) -> str:
    """The text, with its middle left out until it fits."""
    text = " ".join(text.split())
    if _text_width(text, size) <= width:
        return text
    keep = len(text) - 1
    while keep > 2:
        head = (keep + 1) // 2
        short = f"{text[:head]}...{text[len(text) - (keep - head) :]}"
        if _text_width(short, size) <= width:
            return short
        keep = min(keep - 1, int(keep * width / _text_width(short, size)) + 1)
    return text[:1]


def _text_width(text: str, size: int) -> int:
    if hasattr(cv2, "FontFace"):
        return int(cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, 400)[2])
    return int(cv2.getTextSize(_ascii(text), cv2.FONT_HERSHEY_SIMPLEX, size / 32, 1)[0][0])


def _text(
    picture: Pixels, text: str, origin: tuple[int, int], size: int, colour: tuple[int, int, int]
) -> None:
    """Draw UTF-8 text; OpenCV 4 has no font for it and gets ASCII."""
    if hasattr(cv2, "FontFace"):
        cv2.putText(picture, text, origin, colour, cv2.FontFace("sans"), size, 400)
    else:
        face, scale = cv2.FONT_HERSHEY_SIMPLEX, size / 32
        cv2.putText(picture, _ascii(text), origin, face, scale, colour, 1, cv2.LINE_AA)


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode("ascii")
