"""Damaged image files, the same on every machine: formats, modes, depths, EXIF, then one injury each."""

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache
from io import BytesIO

import cv2
import numpy as np
from encoded import chunk, encode, oriented_file, png, smooth, tiff
from mutations import injured
from PIL import Image


def saved(image, form, **options):
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@cache
def whole_files() -> dict[str, bytes]:
    """Small files of many kinds, by a name that begins with their format."""
    noise = np.random.default_rng(0)
    colour = Image.fromarray(smooth(37, 53) // 2 + noise.integers(0, 128, (37, 53, 3), np.uint8))
    translucent = colour.copy()
    translucent.putalpha(Image.fromarray(noise.integers(0, 256, (37, 53), np.uint8)))
    modes = {mode: colour.convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr")}
    modes |= {"RGBA": translucent, "LA": translucent.convert("LA")}
    modes["I;16"] = Image.fromarray((np.arange(37 * 53).reshape(37, 53) * 33).astype(np.uint16))
    files = {f"JPEG of subsampling {kind}": saved(colour, "JPEG", subsampling=kind) for kind in range(3)}
    files |= {f"JPEG {mode}": saved(modes[mode], "JPEG") for mode in ("L", "CMYK")}
    files["JPEG progressive"] = saved(colour, "JPEG", progressive=True)
    files["JPEG with restarts"] = encode(smooth(37, 53), ".jpg", [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])
    files["JPEG with a profile"] = saved(colour, "JPEG", icc_profile=b"x" * 300)
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16"):
        files[f"PNG {mode}"] = saved(modes[mode], "PNG")
    for bits in (1, 2, 4):
        rows = b"".join(b"\0" + noise.bytes((53 * bits + 7) // 8) for _ in range(37))
        palette = chunk(b"PLTE", noise.bytes(3 << bits)) + chunk(b"tRNS", noise.bytes(1 << bits))
        files[f"PNG of {bits} bits"] = png(53, 37, rows, bits, 0)
        files[f"PNG of {bits} bits and a palette"] = png(53, 37, rows, bits, 3, palette)
    files["PNG of 16 bits"] = encode(smooth(37, 53).astype(np.uint16) * 257, ".png")
    files["PNG animated"] = saved(colour, "PNG", save_all=True, append_images=[modes["RGB"].rotate(180)])
    for mode in ("RGB", "RGBA", "L"):
        files[f"WebP {mode}"] = saved(modes[mode], "WebP")
        files[f"WebP {mode} lossless"] = saved(modes[mode], "WebP", lossless=True)
    files["WebP animated"] = saved(
        translucent, "WebP", save_all=True, append_images=[translucent.rotate(180)]
    )
    for mode, image in modes.items():
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            files[f"TIFF {mode} {compression}"] = saved(image, "TIFF", compression=compression)
    files["TIFF jpeg"] = saved(colour, "TIFF", compression="jpeg")
    files["TIFF group4"] = saved(modes["1"], "TIFF", compression="group4")
    for order in "<>":
        files[f"TIFF by hand {order}"] = tiff(smooth(37, 53), order)
        files[f"TIFF of 16 bits {order}"] = tiff(smooth(37, 53).astype(np.uint16) * 257, order)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        files[f"BMP {mode}"] = saved(modes[mode], "BMP")
    for suffix, form in ((".jpg", "JPEG"), (".png", "PNG"), (".webp", "WebP"), (".tiff", "TIFF")):
        for orientation in (3, 6):
            files[f"{form} of orientation {orientation}"] = oriented_file(suffix, orientation, ">")
    return files


def damaged(count: int, *, of: str = "") -> Iterator[tuple[str, bytes]]:
    """(what it is, bytes) of ``count`` damaged files whose names begin with ``of``."""
    names = sorted(name for name in whole_files() if name.startswith(of))
    for number in range(count):
        draw = random.Random(zlib.crc32(struct.pack("<I", number)))
        name = names[number % len(names)]
        data = whole_files()[name]
        yield f"{name} ({number})", injured(draw, data)
