"""EXIF orientation, in every format that has one."""

import struct

import numpy as np
import pytest
from encoded import chunk, encode, exif, oriented_file, smooth, tiff, with_segment

from simmap.engine.images.decode import load

# What is stored is the upright picture seen through the inverse; these lead from stored to upright.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_exif_orientation(suffix, orientation, order):
    upright = UPRIGHT[orientation](load(encode(smooth(), suffix)).pixels)
    pixels = load(oriented_file(suffix, orientation, order)).pixels
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, upright)


def test_exif_of_a_webp_with_the_prefix_that_some_writers_add():
    whole = oriented_file(".webp", 6, "<")
    chunks = whole[12:].replace(exif(6), b"Exif\0\0" + exif(6))
    chunks = chunks.replace(b"EXIF" + struct.pack("<I", 26), b"EXIF" + struct.pack("<I", 32))
    prefixed = b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks
    assert np.array_equal(load(prefixed).pixels, load(whole).pixels)


@pytest.mark.parametrize("block", [b"", b"II*\0", exif(0), exif(9), exif(6)[:12], b"MM\0*\xff\xff\xff\xff"])
def test_senseless_exif_does_not_cost_the_picture(block):
    plain = encode(smooth(), ".jpg")
    pixels = load(with_segment(plain, b"Exif\0\0" + block)).pixels
    assert np.array_equal(pixels, load(plain).pixels)


@pytest.mark.parametrize("block", [exif(0), exif(9), exif(6)[:12]])
def test_senseless_exif_of_a_png_and_a_webp(block):
    plain = encode(smooth(), ".png")
    assert np.array_equal(load(plain[:33] + chunk(b"eXIf", block) + plain[33:]).pixels, smooth())


def test_the_orientation_of_a_png_may_stand_behind_its_pixels():
    plain = encode(smooth(), ".png")
    late = plain[:-12] + chunk(b"eXIf", exif(6)) + plain[-12:]
    assert np.array_equal(load(late).pixels, UPRIGHT[6](smooth()))


def test_orientations_outside_exif_do_not_count():
    """Pillow would take one from XMP too."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    plain = encode(smooth(), ".jpg")
    jpeg = with_segment(with_segment(plain, b"http://ns.adobe.com/xap/1.0/\0" + xmp), b"Exif\0\0" + exif(1))
    assert load(jpeg).pixels.shape == (40, 56, 3)
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    plain = encode(smooth(), ".png")
    assert np.array_equal(load(plain[:33] + text + plain[33:]).pixels, smooth())


def test_a_tiff_of_a_senseless_orientation_stays_as_it_is():
    for orientation in (0, 9, 700):
        assert np.array_equal(load(tiff(smooth(), t274=orientation)).pixels, smooth())
