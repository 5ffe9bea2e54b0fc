"""PNG, WebP, TIFF and BMP by Pillow."""

from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import ImageError
from ..types import Pixels
from .orientation import exif_orientation
from .quiet import quiet
from .read import Format
from .refusal import check_size, cut_off, undecodable

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

# Not through ``Image.open``, which imports more of them than it is asked for and has a limit of its own.
_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
}
_STRIP = 1 << 20  # pixels that are converted at a time
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def decode_pillow(data: bytes, form: Format, name: str, max_pixels: int) -> tuple[Pixels, int]:
    """The pixels of an image file, and the EXIF orientation that they still need.

    libtiff, inside Pillow, prints on file descriptor 2 what it finds in a damaged compressed TIFF. Only the
    process can silence that, by pointing the descriptor elsewhere.

    Raises:
        ImageError: as for ``load``.
    """
    with quiet():
        try:
            image = _open(BytesIO(data), form)
            check_size(name, *image.size, max_pixels)
            if form == "PNG":
                _check_png(data, name)
            elif form == "BMP":
                _check_bmp(image, data, name)
            shift, inverted = _check_tiff(image, data, name, max_pixels) if form == "TIFF" else (8, False)
            size = image.size
            image.load()
            if image.size != size:
                raise undecodable(name, form)
            if form == "PNG" and _ends_in(image, 0):
                _check_png_rows(data, name)
            pixels = _rgb(image, shift)
        except ImageError:
            raise
        # The file comes from outside, and Pillow raises whatever its parts raise: some ten types are known.
        except Exception:
            raise undecodable(name, form) from None
    if inverted:
        np.subtract(255, pixels, out=pixels)
    # Pillow turns TIFFs itself, and JPEGs come with an orientation of their own.
    block = image.info.get("exif") if form in ("PNG", "WebP") else None
    return pixels, exif_orientation(block) if isinstance(block, bytes) else 1


def _open(stream: BytesIO, form: Format) -> "ImageFile":
    module, plugin = _PLUGINS[form]
    image: ImageFile = getattr(import_module(module), plugin)(stream)
    return image


def _check_png(data: bytes, name: str) -> None:
    """Hold all checksums against the data: Pillow decodes without those of the pixels, and without an end."""
    stream = BytesIO(data)
    image = _open(stream, "PNG")
    try:
        image.verify()
    except SyntaxError:
        raise ImageError(
            f"{name}: is a damaged PNG (a chunk or its checksum is wrong); copy or download it again"
        ) from None
    except OSError:
        raise cut_off(name) from None
    # It has read the length and the name of the last chunk, not its checksum.
    if not data.startswith(_PNG_END, stream.tell() - 8):
        raise cut_off(name)


def _check_png_rows(data: bytes, name: str) -> None:
    """Refuse pixels that end too soon, without an error in the compressed data: Pillow leaves them 0.

    Decoded onto another ground, rows that are 0 in truth stay so.
    """
    from PIL import Image

    image = _open(BytesIO(data), "PNG")
    image.im = Image.new(image.mode, image.size, 1).im
    image.load()
    if _ends_in(image, 1):
        raise cut_off(name)


def _ends_in(image: "ImageFile", ground: int) -> bool:
    """Whether one of the last two rows, of which one comes last in any file, shows nothing but the ground."""
    from PIL import Image

    width, height = image.size
    row = Image.new(image.mode, (width, 1), ground).tobytes()
    lasts = range(max(0, height - 2), height)
    return any(image.crop((0, y, width, y + 1)).tobytes() == row for y in lasts)


def _check_bmp(image: Any, data: bytes, name: str) -> None:
    ((codec, _, offset, arguments),) = image.tile
    if codec == "raw" and offset + arguments[1] * image.height > len(data):
        raise cut_off(name)


# TIFF tags.
_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANES, _SAMPLE_FORMAT = 258, 262, 274, 277, 284, 339
_LAYOUT = {_BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _SAMPLE_FORMAT}  # without them samples mean something else
_PIECES = ((273, 279), (324, 325))  # offsets and byte counts: of strips, of tiles
_TILE_SIDES = (322, 323)
_SMALL_TILE = 1 << 22  # pixels


def _check_tiff(image: Any, data: bytes, name: str, max_pixels: int) -> tuple[int, bool]:
    """Refuse what Pillow or libtiff would misread, or take more memory for than the size allows.

    Returns:
        how many bits of a 16-bit sample go, and whether white is 0 in such samples.
    """
    from PIL import Image

    tags = image.tag_v2
    # Pillow leaves out a tag that it cannot read, and takes its default.
    if _LAYOUT & _tags_at(data, tags.offset) - set(tags):
        raise undecodable(name, "TIFF")
    bits = max(tags.get(_BITS, (1,)))
    if bits > 16 or image.mode in ("I", "F") or set(tags.get(_SAMPLE_FORMAT, (1,))) - {1}:
        raise ImageError(
            f"{name}: is a TIFF of {bits}-bit, signed or floating samples; "
            "save it with 8 or 16 bits, unsigned"
        )
    # Where the directory ends too soon, Pillow takes what it has, and "next" still points to this one.
    if tags.next == tags.offset:
        raise cut_off(name)
    for offsets, counts in _PIECES:
        if any(o + c > len(data) for o, c in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False)):
            raise cut_off(name)
    if all(side in tags for side in _TILE_SIDES):
        # libtiff takes memory for a whole tile, even where the image is a corner of it.
        width, height = (tags[side] for side in _TILE_SIDES)
        check_size(name, width, height, max(max_pixels, _SMALL_TILE))
    # Pieces that are missing would be black.
    bands = len(image.getbands()) if tags.get(_PLANES) == 2 else 1
    covered = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), _, _ in image.tile)
    if image.tile[0][0] == "raw" and covered < image.width * image.height * bands:
        raise cut_off(name)
    # XMP may hold another orientation than the tag, which Pillow would apply.
    image.info.pop("xmp", None)
    # With memory at hand Pillow does not ask for its own limit, which is below the usual one of ours.
    turned = tags.get(_ORIENTATION) in (5, 6, 7, 8)
    image.im = Image.new(image.mode, image.size[::-1] if turned else image.size, None).im
    return bits - 8, image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0


def _tags_at(data: bytes, directory: int) -> set[int]:
    """The tags of a TIFF's directory, whether their values can be read or not."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    big = int.from_bytes(data[2:4], order) == 43
    start, size = (8, 20) if big else (2, 12)
    count = int.from_bytes(data[directory : directory + start], order)
    entries = data[directory + start : directory + start + size * count]
    return {int.from_bytes(entries[at : at + 2], order) for at in range(0, len(entries), size)}


def _rgb(image: "ImageFile", shift: int) -> Pixels:
    """uint8 (h, w, 3), a strip at a time, so that no second copy of the whole image is made."""
    width, height = image.size
    # Else Pillow looks for a colour that could stand for transparent pixels.
    image.info.pop("transparency", None)
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        strip: Any = image.crop((0, top, width, min(top + rows, height)))
        if strip.mode.startswith("I;16"):
            pixels[top : top + rows] = (np.asarray(strip) >> shift)[..., None]
            continue
        if strip.mode == "La":
            strip = strip.convert("LA")
        pixels[top : top + rows] = np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
    return pixels
