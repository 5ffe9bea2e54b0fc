"""Encoded images, made by encoders and by hand, and what the tests of decoding share."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from simmap.engine.errors import ImageError
from simmap.engine.images.decode import load

SUFFIXES = (".jpg", ".png", ".webp", ".tiff", ".bmp")


LOSSLESS = {".webp": [cv2.IMWRITE_WEBP_QUALITY, 101], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 100]}


def smooth(height=40, width=56):
    """uint8 RGB without symmetries, smooth enough for JPEG."""
    y, x = np.mgrid[:height, :width]
    planes = (y * 255 // height, x * 255 // width, (x + 2 * y) * 255 // (width + 2 * height))
    return np.stack(planes, axis=-1).astype(np.uint8)


def encode(pixels, suffix, params=None):
    """Bytes of RGB or RGBA or grey ``pixels``."""
    if pixels.ndim == 3:
        order = [2, 1, 0, 3][: pixels.shape[2]]
        pixels = np.ascontiguousarray(pixels[..., order])
    ok, data = cv2.imencode(suffix, pixels, LOSSLESS.get(suffix, []) if params is None else params)
    assert ok
    return data.tobytes()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, raw, bits=8, colour=2, extra=b""):
    """A PNG by hand; ``raw`` are its filtered rows."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def exif(orientation, order="<"):
    """An EXIF block whose only tag is the orientation."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0)


def with_segment(jpeg, body, marker=0xE1):
    """``jpeg`` with one more segment right after its start."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[2:]


def tiff(pixels, order="<", big=False, **tags):
    """An uncompressed TIFF by hand; ``tags`` (t274=6) replace or add SHORT tags."""
    height, width = pixels.shape[:2]
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    head = 16 if big else 8
    entries = {
        256: width,
        257: height,
        258: pixels.dtype.itemsize * 8,
        259: 1,
        262: 1 if samples == 1 else 2,
        273: head,
        277: samples,
        278: height,
        279: len(body),
    }
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    # One value for all samples is not the letter of the standard, so BitsPerSample gets them all.
    bits = entries[258]
    entries[258] = head + len(body) if samples > 2 else bits | (bits << 16 if samples == 2 else 0)
    directory = head + len(body) + 2 * samples
    count, size = ("Q", "Q") if big else ("H", "I")
    out = struct.pack(order + count, len(entries))
    for tag, value in sorted(entries.items()):
        short = tag not in (256, 257, 273, 278, 279)
        number = samples if tag == 258 else 1
        if short and number == 1:
            packed = struct.pack(order + "HHH", value, 0, 0)
        elif tag == 258 and (samples == 2 or (big and samples <= 4)):
            packed = struct.pack(order + "HHHH", *[bits] * samples, *[0] * (4 - samples))
        else:
            packed = struct.pack(order + "I", value)
        out += struct.pack(order + "HH" + size, tag, 3 if short else 4, number)
        out += packed.ljust(8, b"\0")[: 8 if big else 4]
    out += struct.pack(order + size, 0)
    mark = {"<": b"II", ">": b"MM"}[order]
    if big:
        start = mark + struct.pack(order + "HHHQ", 43, 8, 0, directory)
    else:
        start = mark + struct.pack(order + "HI", 42, directory)
    return start + body + struct.pack(order + "H", bits) * samples + out


def riff(*chunks):
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def refused(source, *words, **options):
    """The one line that refuses ``source``, which holds ``words``."""
    with pytest.raises(ImageError) as caught:
        load(source, **options)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line


def oriented_file(suffix, orientation, order):
    plain = encode(smooth(), suffix)
    block = exif(orientation, order)
    if suffix == ".jpg":
        return with_segment(plain, b"Exif\0\0" + block)
    if suffix == ".png":
        return plain[:33] + chunk(b"eXIf", block) + plain[33:]
    if suffix == ".webp":
        canvas = struct.pack("<I", 8) + (55).to_bytes(3, "little") + (39).to_bytes(3, "little")
        (length,) = struct.unpack_from("<I", plain, 16)
        return riff((b"VP8X", canvas), (plain[12:16], plain[20 : 20 + length]), (b"EXIF", block))
    return tiff(smooth(), order, t274=orientation)
