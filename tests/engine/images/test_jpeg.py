"""JPEG: OpenCV's pixels, reduced sizes, and what is refused as cut off."""

import subprocess
import sys
import time
from io import BytesIO

import cv2
import numpy as np
import pytest
from encoded import encode, exif, refused, smooth, with_segment
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common import SAMPLES
from simmap.engine.images.decode import load


def test_only_the_photo_counts_not_its_thumbnail():
    plain = encode(smooth(), ".jpg")
    thumbnail = encode(smooth(8, 8), ".jpg")
    whole = with_segment(plain, b"Exif\0\0" + exif(6) + thumbnail)
    assert load(whole).pixels.shape == (56, 40, 3)
    # The thumbnail's end-of-image marker must not pass for the photo's.
    for cut in (len(whole) - 2, len(whole) // 2 + len(thumbnail) // 2, 60):
        refused(whole[:cut], "cut off")


def test_bytes_after_a_jpeg_are_ignored():
    plain = encode(smooth(), ".jpg")
    for rest in (b"\0" * 99, plain, b"\xff\xd8\xff"):
        assert np.array_equal(load(plain + rest).pixels, load(plain).pixels)


@pytest.mark.parametrize("params", [[cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]])
def test_jpegs_of_several_scans_and_with_restart_markers(params):
    whole = encode(smooth(), ".jpg", params)
    assert load(whole).pixels.shape == (40, 56, 3)
    refused(whole[:-2], "is cut off")


@pytest.mark.parametrize(
    ("short_side", "factor"), [(None, 1), (1300, 1), (600, 2), (599, 2), (301, 2), (300, 4), (150, 8), (1, 8)]
)
def test_a_jpeg_is_reduced_while_its_shorter_side_stays_long_enough(tmp_path, short_side, factor):
    pixels = cv2.resize(cv2.imread(str(SAMPLES / "building.jpg")), (1737, 1200), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "a.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    photo = load(tmp_path / "a.jpg", short_side=short_side)
    assert photo.pixels.shape == (-(-1200 // factor), -(-1737 // factor), 3)
    assert photo.size == (None if factor == 1 else (1200, 1737))
    whole = load(tmp_path / "a.jpg").pixels
    height, width = photo.pixels.shape[:2]
    same = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    assert np.abs(photo.pixels.astype(float) - same).mean() < 8
    assert load(tmp_path / "a.png", short_side=short_side).size is None


def test_a_turned_jpeg_that_was_reduced_keeps_its_turned_size():
    turned = with_segment(encode(smooth(800, 1000), ".jpg"), b"Exif\0\0" + exif(6))
    photo = load(turned, short_side=100)
    assert photo.size == (1000, 800) and photo.pixels.shape == (125, 100, 3)
    upright = np.rot90(smooth(800, 1000), -1)[4::8, 4::8]
    assert np.abs(photo.pixels.astype(float) - upright).mean() < 4
    for orientation in range(1, 9):
        turned = with_segment(encode(smooth(800, 1000), ".jpg"), b"Exif\0\0" + exif(orientation))
        assert load(turned, short_side=100).size == (
            (800, 1000) if orientation in (1, 2, 3, 4) else (1000, 800)
        )


def by_opencv(data):
    """What OpenCV makes of a JPEG, before its orientation."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.ascontiguousarray(decoded[..., ::-1])


SAMPLINGS = [getattr(cv2, name) for name in dir(cv2) if name.startswith("IMWRITE_JPEG_SAMPLING_FACTOR_4")]


@settings(max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(5, 100),
    sampling=st.sampled_from(SAMPLINGS),
    flags=st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)),
    grey=st.booleans(),
)
def test_the_pixels_are_those_that_opencv_gives(height, width, quality, sampling, flags, grey):
    pixels = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels, (5, 5), 0)
    progressive, optimised, restart = flags
    parameters = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling),
        *(cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_OPTIMIZE, int(optimised)),
        *(cv2.IMWRITE_JPEG_RST_INTERVAL, restart),
    ]
    data = encode(pixels[..., 0] if grey else pixels, ".jpg", parameters)
    np.testing.assert_array_equal(load(data).pixels, by_opencv(data))


def test_photos_are_decoded_as_by_opencv_and_turned():
    for path in sorted(SAMPLES.glob("*.jpg")):
        np.testing.assert_array_equal(load(path).pixels, by_opencv(path.read_bytes()))
    plain = encode(smooth(), ".jpg")
    turned = load(with_segment(plain, b"Exif\0\0" + exif(6)))
    np.testing.assert_array_equal(turned.pixels, np.rot90(load(plain).pixels, -1))


@pytest.mark.parametrize("short_side", [150, 300, 600])
def test_reduced_pixels_are_those_that_opencv_gives(short_side):
    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    large = encode(cv2.resize(smooth(), (1737, 1200)), ".jpg")
    reduced = cv2.imdecode(np.frombuffer(large, np.uint8), flags[1200 // short_side])[..., ::-1]
    np.testing.assert_array_equal(load(large, short_side=short_side).pixels, reduced)


@pytest.mark.parametrize("inverted", [True, False])
def test_cmyk_is_converted_as_by_opencv(inverted):
    stream = BytesIO()
    Image.fromarray(smooth()).convert("CMYK").save(stream, "JPEG", quality=95)
    data = stream.getvalue()
    if not inverted:  # without Adobe's segment
        start = data.index(b"\xff\xee")
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    np.testing.assert_array_equal(load(data).pixels, by_opencv(data))


def photo(progressive):
    stream = BytesIO()
    Image.open(SAMPLES / "building.jpg").save(stream, "JPEG", progressive=progressive)
    return stream.getvalue()


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.52, 0.9, 0.99])
@pytest.mark.parametrize("short_side", [None, 50])
def test_a_part_of_a_jpeg_with_an_end_marker_is_cut_off(progressive, share, short_side):
    whole = photo(progressive)
    assert load(whole, short_side=short_side)
    part = whole[: int(len(whole) * share)]
    if progressive:
        # A progressive file that ends between two scans is whole, though coarse.
        part = part[: part.rindex(b"\xff\xda") + 40]
    refused(part + b"\xff\xd9", "is cut off", short_side=short_side)
    refused(part, "is cut off", short_side=short_side)


def test_damage_that_libjpeg_only_warns_of_is_refused():
    data = (SAMPLES / "building.jpg").read_bytes()
    middle = len(data) // 2
    for damaged in (
        data[:middle] + b"\xff\xd5" + data[middle + 40 :],
        data[:middle] + b"\xff\xff\xc0\0\x05" + data[middle:],
        data[:20] + b"ab" + data[20:],
    ):
        refused(damaged, "; copy ")


@pytest.mark.parametrize("padding", [b"\0", b"\0" * 500, b"\xff" * 9, b"abc" * 99])
def test_bytes_before_the_end_marker_do_not_matter(padding):
    """As many a webcam writes them."""
    whole = photo(progressive=False)
    padded = load(whole[:-2] + padding + whole[-2:])
    np.testing.assert_array_equal(padded.pixels, load(whole).pixels)


@pytest.mark.parametrize("factors", [0x31, 0x24, 0x42])
def test_subsamplings_that_simplejpeg_has_no_name_for_are_decoded_by_pillow(factors):
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    data = bytearray(
        encode(np.full((8, 8, 3), 90, np.uint8), ".jpg", [cv2.IMWRITE_JPEG_QUALITY, 90, *sampling])
    )
    data[data.index(b"\xff\xc0") + 11] = factors
    scan = data.index(b"\xff\xda") + 14
    # A block of luma and its two of chroma; further blocks of luma differ by nothing and end.
    bits = f"{int.from_bytes(data[scan:-2], 'big'):024b}"
    bits = bits[:16] + "001010" * ((factors >> 4) * (factors & 15) - 1) + bits[16:]
    bits += "1" * (-len(bits) % 8)
    data[scan:-2] = int(bits, 2).to_bytes(len(bits) // 8, "big")
    np.testing.assert_array_equal(load(bytes(data)).pixels, by_opencv(bytes(data)))
    refused(bytes(data), "8 x 8 pixels", max_pixels=63)


def test_a_jpeg_without_exif_is_decoded_without_importing_pillow():
    program = """
import sys
from simmap.engine.images.decode import load
data = sys.stdin.buffer.read()
assert load(data).pixels.shape == (40, 56, 3)
print([name for name in sys.modules if name.split(".")[0] == "PIL"])
"""
    for data, expected in ((encode(smooth(), ".jpg"), b"[]"), (encode(smooth(), ".png"), b"PIL.")):
        done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
        assert expected in done.stdout


def test_a_small_file_of_many_scans_is_refused_at_once():
    stream = BytesIO()
    Image.new("L", (3000, 3000), 90).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    assert load(whole).pixels.shape == (3000, 3000, 3)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    start = time.process_time()
    refused(whole[:-2] + last * 3000 + whole[-2:], "too many scans", "3000 x 3000")
    assert time.process_time() - start < 2
    # A film behind a photo, as phones write it, is no scan.
    film = np.random.default_rng(0).bytes(20_000_000)
    assert load(whole + film).pixels.shape == (3000, 3000, 3)


@pytest.mark.parametrize(
    "jpeg",
    [
        with_segment(encode(smooth(), ".jpg"), b"Exif\0\0 in a comment", 0xFE),
        # Pillow reads no header that has a colour profile without its number.
        with_segment(with_segment(encode(smooth(), ".jpg"), b"Exif\0\0" + exif(6)), b"ICC_PROFILE\0", 0xE2),
    ],
    ids=["comment", "unreadable"],
)
def test_a_jpeg_whose_orientation_cannot_be_found_stays_as_it_is(jpeg):
    np.testing.assert_array_equal(load(jpeg).pixels, load(encode(smooth(), ".jpg")).pixels)
