"""PNG, WebP, TIFF and BMP: their kinds, and what is refused."""

import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from encoded import chunk, encode, png, refused, smooth, tiff
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from simmap.engine.errors import ImageError
from simmap.engine.images import pillow
from simmap.engine.images.decode import load


def test_a_palette_with_transparency():
    palette = np.array([[10, 20, 30], [200, 100, 50]], np.uint8)
    extra = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", b"\0\x80")
    pixels = load(png(2, 1, b"\0\0\1", colour=3, extra=extra)).pixels
    assert np.array_equal(pixels[0], palette)


@pytest.mark.parametrize("extra", [0, 2])
def test_alpha_of_a_tiff_is_dropped_not_blended(extra):
    rgba = np.dstack([smooth(), np.full((40, 56), 3, np.uint8)])
    assert np.array_equal(load(tiff(rgba, t338=extra)).pixels, smooth())


# Pillow does not know the big-endian kind of BigTIFF.
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tiff_by_hand(order, big):
    assert np.array_equal(load(tiff(smooth(), order, big)).pixels, smooth())
    grey = smooth()[..., 0].copy()
    assert np.array_equal(load(tiff(grey, order, big)).pixels[..., 2], grey)


@pytest.mark.parametrize("height", [3, -3])
def test_bmp_from_the_bottom_and_from_the_top(height):
    rows = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3)
    stored = rows if height < 0 else rows[::-1]
    header = struct.pack("<2sIIIIiiHHIIIIII", b"BM", 90, 0, 54, 40, 4, height, 1, 24, 0, 36, 0, 0, 0, 0)
    pixels = load(header + stored[..., ::-1].tobytes()).pixels
    assert np.array_equal(pixels, rows)


def test_a_tiff_whose_directory_comes_before_its_cut_pixels():
    whole = tiff(smooth())
    refused(tiff(smooth(), t274=1).replace(struct.pack("<I", 40 * 56 * 3), b"\xff\xff\xff\x7f"), "cut off")
    refused(whole[:-30], "cut off")


def test_a_damaged_png_is_refused_by_its_checksum():
    whole = bytearray(encode(smooth(), ".png"))
    whole[len(whole) // 2] ^= 0xFF
    refused(bytes(whole), "checksum")


def test_a_damaged_file_that_only_the_decoder_finds():
    plain = encode(smooth(), ".webp")
    refused(plain[:40] + bytes(len(plain) - 40), "damaged WebP")


@pytest.mark.parametrize(
    ("dtype", "sample"), [(np.float32, 3), (np.float64, 3), (np.int16, 2), (np.uint32, 1), (np.int8, 2)]
)
def test_a_tiff_of_signed_floating_or_wide_samples_is_refused(dtype, sample):
    refused(tiff(np.ones((4, 5), dtype), t339=sample), "TIFF", "; ", "save it ")


def test_the_sample_format_of_a_tiff_is_named():
    for dtype, sample in ((np.float32, 3), (np.int16, 2), (np.int8, 2)):
        refused(tiff(np.ones((4, 5), dtype), t339=sample), "signed or floating samples", "8 or 16 bits")


def test_premultiplied_alpha_of_a_tiff_is_divided_out():
    rgba = np.dstack([smooth() // 4, np.full((40, 56), 64, np.uint8)])
    pixels = load(tiff(rgba, t338=1)).pixels
    assert np.abs(pixels.astype(int) - smooth()).max() <= 4


def test_white_may_be_0_in_a_tiff():
    grey = smooth()[..., 0].copy()
    assert np.array_equal(load(tiff(grey, t262=0)).pixels[..., 0], 255 - grey)
    wide = grey.astype(np.uint16) * 257
    assert np.array_equal(load(tiff(wide, t262=0)).pixels[..., 0], 255 - grey)


def saved(image, form, **options):
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


MODES = ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", MODES)
def test_tiffs_of_every_mode_and_compression(mode, compression):
    image = Image.fromarray(smooth()).convert(mode)
    pixels = load(saved(image, "TIFF", compression=compression)).pixels
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(pixels - expected).max() <= (3 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("form", ["PNG", "WebP", "TIFF"])
def test_of_several_frames_or_pages_the_first_counts(form):
    first, second = Image.fromarray(smooth()), Image.fromarray(255 - smooth())
    options = {"lossless": True} if form == "WebP" else {}
    data = saved(first, form, save_all=True, append_images=[second], **options)
    assert np.array_equal(load(data).pixels, smooth())


def bmp(bits, compression, rows, masks=b"", colours=b"", width=4, height=3):
    """A BMP by hand; ``masks`` stand behind its header as those of bit fields do."""
    offset = 54 + len(masks) + len(colours)
    start = struct.pack("<2sIII", b"BM", offset + len(rows), 0, offset)
    header = struct.pack("<IiiHHIIIIII", 40, width, height, 1, bits, compression, len(rows), 0, 0, 0, 0)
    return start + header + masks + colours + rows


@settings(max_examples=200)
@given(
    st.sampled_from([16, 32]),
    st.lists(st.tuples(st.integers(0, 31), st.integers(1, 10)), min_size=3, max_size=3),
    st.integers(0, 2**32 - 1),
)
@example(16, [(10, 5), (5, 5), (0, 5)], 1)
@example(16, [(11, 5), (5, 6), (0, 5)], 2)
@example(32, [(16, 8), (8, 8), (0, 8)], 3)
@example(32, [(0, 8), (8, 8), (16, 8)], 4)
@example(32, [(20, 10), (10, 10), (0, 10)], 5)
def test_bit_fields_of_a_bmp_are_read_right_or_refused(bits, fields, seed):
    masks = [((1 << length) - 1) << low & (2**bits - 1) for low, length in fields]
    values = np.random.default_rng(seed).integers(0, 2**bits, (3, 4), np.uint64)
    rows = values.astype(f"<u{bits // 8}").tobytes()
    try:
        pixels = load(bmp(bits, 3, rows, struct.pack("<III", *masks))).pixels
    except ImageError:
        return
    for channel, ((low, _), mask) in enumerate(zip(fields, masks, strict=True)):
        expected = ((values & np.uint64(mask)) >> np.uint64(low)) / (mask >> low) * 255
        assert np.abs(pixels[::-1, :, channel] - expected).max() <= 1


def test_a_bmp_of_the_usual_bit_fields_loads():
    rows = bytes(range(48))
    for bits, masks in (
        (16, (0x7C00, 0x3E0, 0x1F)),
        (16, (0xF800, 0x7E0, 0x1F)),
        (32, (0xFF0000, 0xFF00, 0xFF)),
    ):
        assert load(bmp(bits, 3, rows[: 12 * bits // 8], struct.pack("<III", *masks))).pixels.shape == (
            3,
            4,
            3,
        )


def test_a_bmp_whose_last_bytes_are_missing_is_cut_off():
    rows, colours = bytes(12), bytes(64)
    assert load(bmp(4, 0, rows, colours=colours)).pixels.shape == (3, 4, 3)
    # The last bytes only fill up a row.
    refused(bmp(4, 0, rows, colours=colours)[:-1], "is cut off")


def test_a_png_whose_checksums_are_wrong_or_whose_pixels_are_missing_is_refused():
    rows = b"\0" + bytes(12)
    whole = png(4, 3, rows * 3)
    assert load(whole).pixels.shape == (3, 4, 3)
    refused(png(4, 3, rows * 2), "; copy ")
    for at in range(8, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        refused(bytes(damaged), "; copy ")


@pytest.mark.parametrize("compression", [1, 8])
def test_a_tiff_that_lacks_a_strip_is_refused(compression):
    image = Image.fromarray(smooth())
    data = saved(
        image, "TIFF", compression={1: None, 8: "tiff_adobe_deflate"}[compression], tiffinfo={278: 8}
    )
    assert np.array_equal(load(data).pixels, smooth())
    entry = data.index(struct.pack("<HHI", 273, 4, 5))
    fewer = data[: entry + 4] + struct.pack("<I", 4) + data[entry + 8 :]
    refused(fewer, "; copy ")


def directory(entries, body=b""):
    """A TIFF of (tag, type, packed value) in the order given, whose only strip or tile is ``body``."""
    out = b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        out += struct.pack("<HHI", tag, kind, 1) + value.ljust(4, b"\0")
    return out + bytes(4)


LONG, SIGNED_BYTE, SIGNED_LONG, FLOAT = 4, 6, 9, 11
LARGE = 30000


def long(value):
    return struct.pack("<I", value)


def sized(body, *sides, tile=None):
    """A TIFF in grey, deflated, of 10 x 10 pixels but for what ``sides`` add or ``tile`` says."""
    pieces = (273, 279) if tile is None else (324, 325)
    plain = [(256, LONG, long(10)), (257, LONG, long(10))] if not sides else list(sides)
    rest = [(258, 3, long(8)), (259, 3, long(8)), (262, 3, long(1)), (277, 3, long(1))]
    rest += [(pieces[0], LONG, long(8)), (pieces[1], LONG, long(len(body)))]
    rest += [(278, LONG, long(LARGE))] if tile is None else [(322, *tile), (323, *tile)]
    return directory(plain + sorted(rest), body)


BOMB = zlib.compress(bytes(LARGE * 2000))
BOMBS = {
    "duplicates, the small first": sized(
        BOMB, *((tag, LONG, long(side)) for tag in (256, 257) for side in (10, LARGE))
    ),
    "duplicates, the large first": sized(
        BOMB, *((tag, LONG, long(side)) for tag in (256, 257) for side in (LARGE, 10))
    ),
    "signed": sized(BOMB, (256, SIGNED_LONG, long(LARGE)), (257, SIGNED_LONG, long(LARGE))),
    "negative": sized(BOMB, (256, SIGNED_LONG, long(2**32 - 10)), (257, SIGNED_LONG, long(2**32 - 10))),
    "floating": sized(BOMB, (256, FLOAT, struct.pack("<f", LARGE)), (257, FLOAT, struct.pack("<f", LARGE))),
    "a small signed byte, then a large size": sized(
        BOMB, *((tag, *size) for tag in (256, 257) for size in ((SIGNED_BYTE, b"\x0a"), (LONG, long(LARGE))))
    ),
    "a tile": sized(BOMB, tile=(LONG, long(LARGE))),
    "a signed tile": sized(BOMB, tile=(SIGNED_LONG, long(LARGE))),
    "a floating tile": sized(BOMB, tile=(FLOAT, struct.pack("<f", LARGE))),
    "rows of a strip": sized(BOMB),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_a_tiff_never_takes_more_memory_than_its_size_allows(data):
    program = f"""
import resource, sys
from simmap.engine.errors import ImageError
from simmap.engine.images.decode import load
data = sys.stdin.buffer.read()
load({tiff(smooth(2, 2))!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    shape = load(data).pixels.shape
    assert shape == (10, 10, 3), shape
except ImageError as error:
    assert "\\n" not in str(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30_000  # KiB


def test_sizes_above_the_limit_of_pillow_itself_are_allowed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for form in ("PNG", "TIFF", "BMP"):
        assert np.array_equal(load(saved(Image.fromarray(smooth()), form)).pixels, smooth())
    compressed = saved(Image.fromarray(smooth()), "TIFF", compression="tiff_lzw")
    assert np.array_equal(load(compressed).pixels, smooth())
    for orientation in range(1, 9):
        turned = saved(Image.fromarray(smooth()), "TIFF", compression="tiff_lzw", tiffinfo={274: orientation})
        assert load(turned).pixels.shape[:2] == ((40, 56) if orientation < 5 else (56, 40))


def test_large_images_are_converted_a_strip_at_a_time(monkeypatch):
    monkeypatch.setattr(pillow, "_STRIP", 3 * 56)
    assert np.array_equal(load(encode(smooth(), ".png")).pixels, smooth())
    wide = smooth()[..., 0].astype(np.uint16) << 8
    assert np.array_equal(load(tiff(wide)).pixels[..., 1], smooth()[..., 0])


@pytest.mark.parametrize("tag", [258, 262, 277])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_with_a_tag_that_cannot_be_read_is_refused(tag, order, big):
    data = bytearray(tiff(smooth()[..., 0], order, big))
    at = data.rindex(struct.pack(order + "HH", tag, 3))
    data[at + 2 : at + 4] = struct.pack(order + "H", 99)  # a type that there is not
    refused(bytes(data), "damaged TIFF")


@pytest.mark.parametrize("height", [1, 2, 3])
def test_a_png_of_few_rows_that_lacks_the_end_of_its_pixels_is_cut_off(height):
    rows = b"".join(b"\0" + bytes([40 + row] * 12) for row in range(height))
    assert load(png(4, height, rows)).pixels.shape == (height, 4, 3)
    for missing in (1, 5, 13):
        refused(png(4, height, rows[:-missing]), "cut off")
    # Black to the last row is whole.
    assert not load(png(4, height, bytes(13 * height))).pixels.any()


def test_a_tile_may_be_larger_than_the_image():
    tile = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = sized(zlib.compress(tile.tobytes()), tile=(LONG, long(16)))
    for limit in ({}, {"max_pixels": 100}):
        np.testing.assert_array_equal(load(data, **limit).pixels, np.stack([tile[:10, :10]] * 3, axis=-1))


def test_a_tiff_of_planes_of_which_one_alone_is_there_is_cut_off():
    assert load(tiff(smooth(), t284=1)).pixels.shape == (40, 56, 3)
    refused(tiff(smooth(), t284=2), "is cut off")


def test_a_tile_that_lies_beyond_the_end_of_the_file_is_cut_off():
    whole = sized(zlib.compress(bytes(256)), tile=(LONG, long(16)))
    counts = whole.index(struct.pack("<HHI", 325, LONG, 1)) + 8
    assert load(whole).pixels.shape == (10, 10, 3)
    refused(whole[:counts] + long(len(whole)) + whole[counts + 4 :], "is cut off")
