"""From a file, bytes or an array to pixels, without trusting any of them."""

import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import ImageError, printable
from ..types import Pixels
from .photo import Photo, Source

try:
    import simplejpeg
except ImportError:
    simplejpeg = None
Format = Literal["JPEG", "PNG", "WebP", "TIFF", "BMP"]
DEFAULT_MAX_PIXELS = 200_000_000
_HEAD_BYTES = 18  # enough for _format_of
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def load(
    source: Source,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    name: str | None = None,
    short_side: int | None = None,
) -> Photo:
    """Decode an image: a path, the bytes of an encoded file, or an array.

    Files may be JPEG, PNG, WebP, TIFF or BMP; of an animation or a stack of pages the first counts.
    The EXIF orientation is applied. Grey becomes RGB; alpha is dropped, not blended. Of 16 bits the upper
    8 stay; a TIFF with several channels is rounded instead, which differs by at most 1.

    Args:
        source: a path, encoded bytes, or uint8 RGB (h, w, 3) or grey (h, w). An RGB array that lies
            contiguously in memory is not copied. A photo that is loaded already is given back.
        max_pixels: refuse files whose header declares more pixels; arrays are not limited.
        name: what errors call the image; None takes the path, ``<bytes>`` or ``<array>``.
        short_side: a JPEG may come at a half, a quarter or an eighth of its size, which is faster to decode,
            as long as its shorter side keeps this many pixels; None decodes all of it.

    Raises:
        ImageError: the file cannot be read, is of another format, is cut off or damaged, or declares
            too many pixels; the array is empty or of another type or shape.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        name = name or "<array>"
        return Photo(checked_pixels(source, printable(name)), name)
    if isinstance(source, bytes):
        name = name or "<bytes>"
        return _decode(source, max_pixels, name, short_side)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(
            f"{printable(name or '<image>')}: cannot load a {type(source).__name__}; "
            "give a path, the bytes of an image file or a uint8 array (h, w, 3)"
        )
    path = os.fsdecode(source)
    name = name or path
    return _decode(_read(path, printable(name)), max_pixels, name, short_side)


def checked_pixels(array: npt.NDArray[np.uint8], name: str) -> Pixels:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ImageError(
            f"{name}: is an array of {array.dtype} {array.shape}; give uint8 RGB (h, w, 3) or grey (h, w)"
        )
    if array.size == 0:
        raise ImageError(f"{name}: has no pixels (shape {array.shape}); give an image of at least 1 x 1")
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=-1)
    return np.ascontiguousarray(array)


def _read(path: str, name: str) -> bytes:
    try:
        # Opening a folder fails with another error on each system, so ask first.
        if Path(path).is_dir():
            raise ImageError(f"{name}: is a folder, not an image; give the path of a file in it")
        with Path(path).open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
            # Look before reading all: the file may be a film of many gigabytes.
            _require_format(head, name)
            return head + stream.read()
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check the path") from None
    except PermissionError:
        raise ImageError(f"{name}: may not be read; give this user the permission to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be read ({reason}); check the path and the disk") from None


def _format_of(head: bytes) -> Format | None:
    """The format by its first ``_HEAD_BYTES`` bytes."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # "BM" alone begins many a text; the size of the second header tells.
    if head.startswith(b"BM") and head[14:15] in (b"\x0c", b"(", b"4", b"8", b"@", b"l", b"|"):
        return "BMP" if head[15:18] == b"\0\0\0" else None
    return None


def _require_format(head: bytes, name: str) -> Format:
    if not head:
        raise ImageError(f"{name}: is empty; copy or download it again")
    found = _format_of(head)
    if found is None:
        raise ImageError(
            f"{name}: is not a JPEG, PNG, WebP, TIFF or BMP image; convert it to one of these formats"
        )
    return found


def _decode(data: bytes, max_pixels: int, given: str, short_side: int | None) -> Photo:
    name = printable(given)
    found = _require_format(data[:_HEAD_BYTES], name)
    try:
        header = _PARSERS[found](data)
    except _BadFileError as error:
        raise ImageError(f"{name}: {error}") from None
    except (struct.error, ValueError, IndexError, OverflowError):
        raise ImageError(
            f"{name}: is cut off or damaged in its {found} header; copy or download it again"
        ) from None
    width, height = header.width, header.height
    if width < 1 or height < 1:
        raise ImageError(f"{name}: declares {width} x {height} pixels, so has none; save it again")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: declares {width} x {height} pixels, more than the limit of {max_pixels}; "
            "raise max_pixels in the engine's options"
        )
    if header.length > len(data):
        raise ImageError(f"{name}: {_cut(f'a {found} shorter than its pixels')}")
    if header.patches:
        patched = bytearray(data)
        for position, value in header.patches:
            patched[position : position + len(value)] = value
        data = bytes(patched)
    factor = 1
    if short_side is not None and found == "JPEG":
        factor = max((f for f in _REDUCED if min(width, height) >= f * short_side), default=1)
    decoded = _turbo(data) if found == "JPEG" and factor == 1 else None
    if decoded is None:
        decoded = _opencv(data, _REDUCED.get(factor, cv2.IMREAD_COLOR))
    if decoded is None:
        raise ImageError(
            f"{name}: is a damaged {found} image, or of a kind of {found} that OpenCV cannot decode; "
            "copy it again, or save it as 8-bit PNG"
        )
    pixels = _oriented(decoded, header.orientation)
    if factor == 1:
        return Photo(pixels, given)
    # Orientations from 5 on exchange the sides.
    return Photo(pixels, given, (height, width) if header.orientation < 5 else (width, height))


def _turbo(data: bytes) -> Pixels | None:
    """A JPEG by libjpeg-turbo without OpenCV around it: the same pixels, sooner (see the extra ``turbo``).

    Returns:
        None where the extra is missing, and for what it refuses and OpenCV may take: damage, CMYK.
    """
    if simplejpeg is None:
        return None
    try:
        return cast(Pixels, simplejpeg.decode_jpeg(data, "RGB"))
    except ValueError:
        return None


def _opencv(data: bytes, flag: int) -> Pixels | None:
    """An encoded image in RGB; None where it cannot be decoded."""
    try:
        with _quiet():
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    return None if decoded is None else cast(Pixels, cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_before = 0


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence OpenCV's own log, which would write beside the one line of our error.

    The level is one for the process: threads that decode at the same time share one change, and the
    last one out puts it back.
    """
    global _quiet_depth, _quiet_before
    # Older releases, 4.9 for one, have the two functions at their top.
    log: Any = getattr(cv2.utils, "logging", cv2)
    if not hasattr(log, "setLogLevel"):
        yield
        return
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_before = log.getLogLevel()
            log.setLogLevel(0)  # LOG_LEVEL_SILENT
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                log.setLogLevel(_quiet_before)


def _oriented(pixels: Pixels, orientation: int) -> Pixels:
    """Apply the EXIF orientation 1 to 8; 5 to 8 also exchange height and width."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


class _BadFileError(Exception):
    """What is wrong with a file, and the mend, without the file's name."""


def _cut(where: str) -> _BadFileError:
    return _BadFileError(f"is cut off ({where}); copy or download it again")


@dataclass(frozen=True)
class _Header:
    """What a file says of itself.

    Attributes:
        width, height: pixels as stored, before the orientation is applied.
        orientation: of EXIF, 1 to 8.
        length: bytes that the file must have at least.
        patches: (position, bytes) to write over the file's copy before it is decoded.
    """

    width: int
    height: int
    orientation: int = 1
    length: int = 0
    patches: tuple[tuple[int, bytes], ...] = ()


_MARKER = re.compile(rb"\xff[^\x00\xff]")  # FF 00 is data of a scan, FF FF is filling


def _parse_jpeg(data: bytes) -> _Header:
    """Walk the segments to the end-of-image marker, over the thumbnails that APPn segments hold."""
    position, size, orientation, scanning = 2, None, 1, False
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            raise _cut("a JPEG without its end-of-image marker")
        position, marker = match.end(), data[match.end() - 1]
        if marker == 0xD9:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # without a length; D0 to D7 restart a scan
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and size is None:
            size = cast(tuple[int, int], struct.unpack_from(">HH", data, position + 3))
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(data[position + 8 : position + length])
        elif marker == 0xDA:
            scanning = True
        position += length
    if size is None or not scanning:
        raise _cut("a JPEG without an image in it")
    return _Header(size[1], size[0], orientation)


def _parse_png(data: bytes) -> _Header:
    """Walk the chunks to IEND; a wrong checksum is caught here, where libpng would print it."""
    position, orientation, size = 8, 1, None
    while True:
        if position + 12 > len(data):
            raise _cut("a PNG without its IEND chunk")
        (length,) = struct.unpack_from(">I", data, position)
        kind = data[position + 4 : position + 8]
        end = position + 8 + length
        if size is None:
            if kind != b"IHDR":
                raise _BadFileError("is a PNG that does not begin with IHDR; save it again as PNG")
            size = struct.unpack_from(">II", data, position + 8)
        if end + 4 > len(data):
            raise _cut("a PNG without its IEND chunk")
        # An upper-case first letter: a chunk without which there is no picture.
        if kind[:1].isupper():
            (checksum,) = struct.unpack_from(">I", data, end)
            if zlib.crc32(memoryview(data)[position + 4 : end]) != checksum:
                raise _BadFileError("is a damaged PNG (a wrong checksum); copy or download it again")
        if kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : end])
        if kind == b"IEND":
            return _Header(size[0], size[1], orientation)
        position = end + 4


def _parse_webp(data: bytes) -> _Header:
    (length,) = struct.unpack_from("<I", data, 4)
    if length + 8 > len(data):
        raise _cut("a WebP shorter than it says")
    position, orientation, size = 12, 1, None
    while position + 8 <= length + 8:
        kind = data[position : position + 4]
        (length_here,) = struct.unpack_from("<I", data, position + 4)
        start = position + 8
        # VP8X comes first and declares the canvas, which then counts.
        if size is None and kind == b"VP8X":
            wide, high = (int.from_bytes(data[start + at : start + at + 3], "little") for at in (4, 7))
            size = (wide + 1, high + 1)
        elif size is None and kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, start + 1)
            size = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
        elif size is None and kind == b"VP8 ":
            wide, high = struct.unpack_from("<HH", data, start + 6)
            size = (wide & 0x3FFF, high & 0x3FFF)
        elif kind == b"EXIF":
            orientation = _exif_orientation(data[start : start + length_here].removeprefix(b"Exif\0\0"))
        position = start + length_here + length_here % 2
    if size is None:
        raise _cut("a WebP without an image in it")
    return _Header(size[0], size[1], orientation)


def _parse_bmp(data: bytes) -> _Header:
    (offset, second) = struct.unpack_from("<II", data, 10)
    if second == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)  # negative: stored from the top
    row = (width * bits + 31) // 32 * 4
    # Only packed rows have a known length; the run-length kinds are left to the decoder.
    packed = compression in (0, 3, 6)
    return _Header(width, height, length=offset + row * height if packed else 0)


# TIFF tags that matter here.
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _EXTRA, _SAMPLES = 256, 257, 258, 274, 338, 339
_PIECES = ((273, 279), (324, 325))  # offsets and byte counts: of strips, of tiles
_WANTED = {_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _EXTRA, _SAMPLES, *_PIECES[0], *_PIECES[1]}


@dataclass(frozen=True)
class _Tag:
    values: npt.NDArray[np.unsignedinteger]
    position: int  # of the first value in the file


def _tags(data: bytes) -> tuple[Literal["<", ">"], dict[int, _Tag]]:
    """The byte order and the tags of whole numbers in the first directory of a TIFF or an EXIF block."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2) == (43,)
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    start += 8 if big else 2
    room, entry = (8, 20) if big else (4, 12)
    tags = {}
    for at in range(start, start + count * entry, entry):
        tag, kind, number = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
        item = {1: "u1", 3: "u2", 4: "u4", 16: "u8"}.get(kind)
        if tag not in _WANTED or item is None or number == 0:
            continue
        position = at + entry - room
        if number * int(item[1]) > room:
            (position,) = struct.unpack_from(order + ("Q" if big else "I"), data, position)
        values = np.frombuffer(data, np.dtype(order + item), count=number, offset=position)
        tags[tag] = _Tag(values, position)
    return order, tags


def _parse_tiff(data: bytes) -> _Header:
    order, tags = _tags(data)
    if _WIDTH not in tags or _HEIGHT not in tags:
        raise _BadFileError("is a TIFF without a size; save it again as TIFF or PNG")
    width, height = int(tags[_WIDTH].values[0]), int(tags[_HEIGHT].values[0])
    length = 0
    for offsets, counts in _PIECES:
        if offsets in tags and counts in tags:
            # Lists, since Python's integers do not overflow.
            pairs = zip(tags[offsets].values.tolist(), tags[counts].values.tolist(), strict=False)
            length = max(length, *(offset + count for offset, count in pairs))
    bits = int(tags[_BITS].values.max()) if _BITS in tags else 1
    if bits > 16 or (_SAMPLES in tags and not np.isin(tags[_SAMPLES].values, (1, 4)).all()):
        raise _BadFileError(
            f"is a TIFF of {bits}-bit, signed or floating samples; save it with 8 or 16 bits, unsigned"
        )
    # OpenCV turns some TIFFs itself and multiplies colours by an unassociated alpha (2). So it gets a
    # copy that says neither: orientation 1, and 0, "unspecified", for the extra channel.
    patches = []
    orientation = _orientation(tags)
    if orientation != 1:
        patches.append((tags[_ORIENTATION].position, struct.pack(order + "H", 1)))
    if _EXTRA in tags and 2 in tags[_EXTRA].values:
        patches.append((tags[_EXTRA].position, bytes(tags[_EXTRA].values.nbytes)))
    return _Header(width, height, orientation, length, tuple(patches))


def _orientation(tags: dict[int, _Tag]) -> int:
    """The orientation of a TIFF directory; 1 where it is absent or senseless."""
    if _ORIENTATION not in tags or tags[_ORIENTATION].values.itemsize != 2:
        return 1
    value = int(tags[_ORIENTATION].values[0])
    return value if 1 <= value <= 8 else 1


def _exif_orientation(block: bytes) -> int:
    """The orientation in an EXIF block; a block that makes no sense does not cost the picture."""
    try:
        return _orientation(_tags(block)[1])
    except (struct.error, ValueError, IndexError, OverflowError):
        return 1


_PARSERS = {
    "JPEG": _parse_jpeg,
    "PNG": _parse_png,
    "WebP": _parse_webp,
    "TIFF": _parse_tiff,
    "BMP": _parse_bmp,
}
