"""What loads, what is refused and in which words, whatever the format."""

import struct

import cv2
import numpy as np
import pytest
from encoded import SUFFIXES, encode, png, refused, riff, smooth, tiff
from PIL import ImageFile

from simmap.engine.contract import InputSpec
from simmap.engine.errors import ImageError
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_format_loads_from_path_and_bytes(tmp_path, suffix):
    pixels = smooth()
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(encode(pixels, suffix))
    for source, name in ((path, str(path)), (str(path), str(path)), (path.read_bytes(), "<bytes>")):
        photo = load(source)
        assert photo.name == name
        assert photo.pixels.dtype == np.uint8
        assert photo.pixels.flags.c_contiguous
        tolerance = 6 if suffix == ".jpg" else 0
        assert np.abs(photo.pixels.astype(int) - pixels).max() <= tolerance


def test_the_name_may_be_given():
    assert load(encode(smooth(), ".png"), name="upload 7").name == "upload 7"
    refused(b"nonsense", "upload 7: ", name="upload 7")


@pytest.mark.parametrize("name", ["Übung 写真.png", "фото.png", "a b\tc.png"])
def test_file_names_beyond_ascii(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode(smooth(), ".png"))
    assert np.array_equal(load(path).pixels, smooth())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_grey_becomes_rgb(suffix):
    grey = smooth()[..., 1].copy()
    params = [cv2.IMWRITE_JPEG_QUALITY, 100] if suffix == ".jpg" else None
    pixels = load(encode(grey, suffix, params)).pixels
    assert pixels.shape == (*grey.shape, 3)
    assert np.abs(pixels.astype(int) - grey[..., None]).max() <= (3 if suffix == ".jpg" else 0)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", ".bmp"])
def test_alpha_is_dropped_not_blended(suffix):
    rgba = np.dstack([smooth(), np.full((40, 56), 3, np.uint8)])
    assert np.array_equal(load(encode(rgba, suffix)).pixels, smooth())


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_of_16_bits_the_upper_8_stay(suffix):
    wide = np.arange(65536, dtype=np.uint32).reshape(256, 256).astype(np.uint16)
    assert np.array_equal(load(encode(wide, suffix)).pixels[..., 0], wide >> 8)
    colour = np.dstack([wide, wide.T, wide[::-1]])
    assert np.array_equal(load(encode(colour, suffix)).pixels, colour >> 8)


def test_arrays():
    pixels = smooth()
    photo = load(pixels)
    assert photo.name == "<array>"
    assert np.array_equal(photo.pixels, pixels)
    grey = load(pixels[..., 0]).pixels
    assert np.array_equal(grey, np.repeat(pixels[..., :1], 3, axis=-1))
    flipped = load(pixels[:, ::-1]).pixels
    assert flipped.flags.c_contiguous
    assert np.array_equal(flipped, pixels[:, ::-1])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 3), np.float32), ("float32", "(4, 5, 3)")),
        (np.zeros((4, 5, 4), np.uint8), ("uint8", "(4, 5, 4)")),
        (np.zeros((1, 4, 5, 3), np.uint8), ("(1, 4, 5, 3)",)),
        (np.zeros(7, np.uint8), ("(7,)",)),
        (np.zeros((0, 5, 3), np.uint8), ("no pixels", "(0, 5, 3)")),
        (np.zeros((4, 0), np.uint8), ("no pixels", "(4, 0)")),
    ],
)
def test_arrays_that_are_no_images(array, words):
    refused(array, "<array>", *words)
    with pytest.raises(ImageError):
        preprocess(array, InputSpec(8, 8))


@pytest.mark.parametrize("thing", [None, 3, ["a.jpg"]])
def test_sources_that_are_none(thing):
    refused(thing, type(thing).__name__, "give a path")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("lenient", [False, True])
def test_cut_anywhere(suffix, lenient, monkeypatch):
    """Also in a process that tells Pillow to load what is cut off, as many a training script does."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    whole = encode(smooth(), suffix, [])
    for share in (0.05, 0.2, 0.5, 0.9, 0.99):
        refused(whole[: max(30, int(len(whole) * share))], "cut off", "; copy ")
    for end in (1, 2, 4, 9):
        refused(whole[:-end], "cut off", "; copy ")


def bombs(width, height):
    """Small files of each format that declare width x height pixels."""
    jpeg = bytearray(encode(smooth(), ".jpg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    flat = tiff(smooth(1, 1), t274=1)
    flat = flat.replace(struct.pack("<HHII", 256, 4, 1, 1), struct.pack("<HHII", 256, 4, 1, width))
    flat = flat.replace(struct.pack("<HHII", 257, 4, 1, 1), struct.pack("<HHII", 257, 4, 1, height))
    yield bytes(jpeg)
    yield png(width, height, b"\0" * 1000)
    yield flat
    yield struct.pack("<2sIIIIiiHHIIIIII", b"BM", 90, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    yield struct.pack("<2sIIIIHHHH", b"BM", 90, 0, 26, 12, width, height, 1, 24)
    if width and height:
        sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        yield riff((b"VP8X", bytes(4) + sides), (b"VP8L", b"/" + bytes(9)))


def test_too_many_pixels_are_refused_before_they_are_decoded():
    for data in bombs(60000, 50000):
        words = ("60000 x 50000 pixels", "limit of 200000000", "raise max_pixels in the engine's options")
        # Pillow has a limit of its own for WebP, and does not say the size that it refuses.
        refused(data, *(("WebP",) if data.startswith(b"RIFF") else words))
    for data in bombs(15000, 10000):
        # Allowed, but the file has not the data.
        refused(data, "cut off")


def test_webp_sizes_of_all_its_kinds():
    lossy, lossless = encode(smooth(), ".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]), encode(smooth(), ".webp")
    assert (lossy[12:16], lossless[12:16]) == (b"VP8 ", b"VP8L")
    for data in (lossy, lossless):
        refused(data, "declares 56 x 40 pixels", max_pixels=1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_limit_is_the_last_size_that_passes(suffix):
    data = encode(smooth(), suffix)
    assert load(data, max_pixels=40 * 56).pixels.shape == (40, 56, 3)
    refused(data, "declares 56 x 40 pixels, more than the limit of 2239", max_pixels=40 * 56 - 1)


def test_no_pixels():
    for width, height in ((0, 5), (5, 0)):
        for data in bombs(width, height):
            refused(data, "; ")
