"""Photos: what loads, what is refused and in which words, and where the input lies on the photo."""

import os
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import SAMPLES
from simmap.engine.contract import InputSpec
from simmap.engine.errors import ImageError
from simmap.engine.images.decode import load
from simmap.engine.images.geometry import Geometry
from simmap.engine.images.preprocess import preprocess

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


# --- what loads -----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("extra", [0, 2])
def test_alpha_of_a_tiff_is_dropped_not_blended(extra):
    rgba = np.dstack([smooth(), np.full((40, 56), 3, np.uint8)])
    assert np.array_equal(load(tiff(rgba, t338=extra)).pixels, smooth())


def test_a_palette_with_transparency():
    palette = np.array([[10, 20, 30], [200, 100, 50]], np.uint8)
    extra = chunk(b"PLTE", palette.tobytes()) + chunk(b"tRNS", b"\0\x80")
    pixels = load(png(2, 1, b"\0\0\1", colour=3, extra=extra)).pixels
    assert np.array_equal(pixels[0], palette)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_of_16_bits_the_upper_8_stay(suffix):
    wide = np.arange(65536, dtype=np.uint32).reshape(256, 256).astype(np.uint16)
    assert np.array_equal(load(encode(wide, suffix)).pixels[..., 0], wide >> 8)
    colour = np.dstack([wide, wide.T, wide[::-1]])
    tolerance = 1 if suffix == ".tiff" else 0
    assert np.abs(load(encode(colour, suffix)).pixels - (colour >> 8).astype(int)).max() <= tolerance


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
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


# --- orientation ----------------------------------------------------------------------------------

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
    refused(whole[:-2], "end-of-image")


# --- what is refused ------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    refused(tmp_path / "no.jpg", "no.jpg", "no such file")


def test_folder(tmp_path):
    refused(tmp_path, str(tmp_path), "is a folder")


def test_empty_file(tmp_path):
    (tmp_path / "empty.jpg").touch()
    refused(tmp_path / "empty.jpg", "empty.jpg", "is empty")
    refused(b"", "<bytes>", "is empty")


def test_permission(tmp_path, monkeypatch):
    path = tmp_path / "mine.png"
    path.write_bytes(encode(smooth(), ".png"))

    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    # By hand, since to the superuser every file is open.
    monkeypatch.setattr(Path, "open", deny)
    refused(path, "mine.png", "permission")


def test_other_failures_of_the_system(tmp_path):
    refused(str(tmp_path / ("x" * 5000)), "cannot be read")
    refused("nul\0.png", "cannot be read")


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such names")
def test_a_line_break_in_a_name_does_not_break_the_line(tmp_path):
    refused(tmp_path / "two\nlines.jpg", "two\\nlines.jpg")
    refused(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"), "\\udcff.jpg").encode()


@pytest.mark.parametrize(
    "data",
    [
        b"hello",
        b"BMW is a maker of cars, and this is a text.",
        b"BM a text with(brackets) in it",
        b"GIF89a" + bytes(50),
        b"RIFF\x10\0\0\0WAVEfmt " + bytes(20),
        b"%PDF-1.7 " + bytes(50),
        bytes(1000),
    ],
)
def test_not_an_image(tmp_path, data):
    (tmp_path / "thing").write_bytes(data)
    refused(tmp_path / "thing", "thing: is not a JPEG, PNG, WebP, TIFF or BMP image")
    refused(data, "is not a JPEG, PNG, WebP, TIFF or BMP image")


def test_other_formats_of_opencv_are_refused():
    refused(cv2.imencode(".ppm", smooth())[1].tobytes(), "is not a JPEG")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_anywhere(suffix, capfd):
    whole = encode(smooth(), suffix, [])
    for share in (0.05, 0.2, 0.5, 0.9, 0.99):
        refused(whole[: max(30, int(len(whole) * share))], "; copy ")
    for end in (1, 2, 4, 9):
        refused(whole[:-end], "cut off", "; copy ")
    assert capfd.readouterr() == ("", "")


def test_a_tiff_whose_directory_comes_before_its_cut_pixels(capfd):
    whole = tiff(smooth())
    refused(tiff(smooth(), t274=1).replace(struct.pack("<I", 40 * 56 * 3), b"\xff\xff\xff\x7f"), "cut off")
    refused(whole[:-30], "cut off or damaged in its TIFF header")
    assert capfd.readouterr().err == ""


def test_a_damaged_png_is_refused_by_its_checksum(capfd):
    whole = bytearray(encode(smooth(), ".png"))
    whole[len(whole) // 2] ^= 0xFF
    refused(bytes(whole), "checksum")
    assert capfd.readouterr().err == ""


def test_a_damaged_file_that_only_the_decoder_finds():
    plain = encode(smooth(), ".webp")
    refused(plain[:40] + bytes(len(plain) - 40), "damaged WebP")


def test_what_opencv_raises_is_an_image_error(monkeypatch):
    def fail(*_args):
        raise cv2.error("out of memory, over\nthree\nlines")

    monkeypatch.setattr(cv2, "imdecode", fail)
    refused(encode(smooth(), ".png"), "damaged PNG")


@pytest.mark.parametrize(
    ("dtype", "sample"), [(np.float32, 3), (np.float64, 3), (np.int16, 2), (np.uint32, 1), (np.int8, 2)]
)
def test_tiff_of_other_samples(dtype, sample, capfd):
    refused(tiff(np.ones((4, 5), dtype), t339=sample), "samples", "8 or 16 bits")
    assert capfd.readouterr().err == ""


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


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    def forbidden(*_args):
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", forbidden)
    for data in bombs(60000, 50000):
        refused(
            data, "60000 x 50000 pixels", "limit of 200000000", "raise max_pixels in the engine's options"
        )


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
            refused(data, f"declares {width} x {height} pixels")


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


FILES = [encode(smooth(9, 11), suffix, []) for suffix in SUFFIXES] + [
    oriented_file(suffix, 6, ">") for suffix in (".jpg", ".webp", ".tiff")
]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(FILES), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)
)
def test_any_damage_gives_pixels_or_one_line(data, changes):
    broken = bytearray(data)
    for place, value in changes:
        broken[int(place**3 * (len(data) - 1))] = value  # the cube: most of them in the header
    line = ""
    try:
        assert load(bytes(broken), max_pixels=100_000).pixels.ndim == 3
    except ImageError as error:
        line = str(error)
    assert "\n" not in line


def test_opencv_is_silent_and_its_log_level_comes_back():
    log = getattr(cv2.utils, "logging", cv2)
    silent, warning = 0, 3
    before = log.getLogLevel()
    try:
        log.setLogLevel(warning)
        data = encode(smooth(200, 200), ".png")
        threads = [threading.Thread(target=lambda: [load(data) for _ in range(20)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.getLogLevel() == warning
        with decode._quiet():
            with decode._quiet():
                assert log.getLogLevel() == silent
            assert log.getLogLevel() == silent
        assert log.getLogLevel() == warning
    finally:
        log.setLogLevel(before)


# --- geometry -------------------------------------------------------------------------------------

SIDES = st.integers(1, 300)
SPECS = st.builds(
    InputSpec,
    height=st.integers(1, 96),
    width=st.integers(1, 96),
    colour=st.sampled_from(["rgb", "bgr"]),
    resize=st.sampled_from(["squash", "crop", "letterbox"]),
    kernel=st.sampled_from(["area", "linear", "cubic"]),
    crop_fraction=st.floats(0.1, 1),
)
FAST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FAST
@given(SIDES, SIDES, SPECS)
def test_input_has_the_shape_asked_for_and_the_field_its_bounds(height, width, spec):
    tensor, geometry = preprocess(np.zeros((height, width, 3), np.uint8), spec)
    assert tensor.shape == (spec.height, spec.width, 3)
    assert tensor.dtype == np.uint8
    assert tensor.flags.c_contiguous
    assert (geometry.photo_height, geometry.photo_width) == (height, width)
    x0, y0, x1, y1 = geometry.field
    assert x0 < x1
    assert y0 < y1
    if spec.resize == "squash":
        assert geometry.field == (0, 0, width, height)
    elif spec.resize == "crop":
        assert x0 >= 0
        assert y0 >= 0
        assert x1 <= width + 1e-9
        assert y1 <= height + 1e-9
    else:
        assert x0 <= 0
        assert y0 <= 0
        assert x1 >= width - 1e-9
        assert y1 >= height - 1e-9
    # Centred, to within the one pixel of the input that an odd border leaves over.
    assert abs(x0 + x1 - width) <= (x1 - x0) / spec.width + 1e-6
    assert abs(y0 + y1 - height) <= (y1 - y0) / spec.height + 1e-6


@FAST
@given(SIDES, SIDES, SPECS, st.integers(1, 20), st.integers(1, 20))
def test_cells_tile_the_field_and_cell_at_inverts_their_centres(height, width, spec, rows, columns):
    _, geometry = preprocess(np.zeros((height, width, 3), np.uint8), spec)
    boxes = [[geometry.cell_box(y, x, rows, columns) for x in range(columns)] for y in range(rows)]
    assert boxes[0][0][:2] == geometry.field[:2]
    assert boxes[-1][-1][2:] == geometry.field[2:]
    for y in range(rows):
        for x in range(columns):
            x0, y0, x1, y1 = boxes[y][x]
            assert x0 < x1
            assert y0 < y1
            if x:
                assert boxes[y][x - 1][2] == x0
            if y:
                assert boxes[y - 1][x][3] == y0
            px, py = (x0 + x1) / 2, (y0 + y1) / 2
            if 0 <= px < width and 0 <= py < height:
                assert geometry.cell_at(px, py, rows, columns) == (y, x)
            else:
                with pytest.raises(ImageError, match="outside the photo"):
                    geometry.cell_at(px, py, rows, columns)


def test_every_pixel_of_a_photo_lies_in_some_cell():
    geometry = Geometry(3, 5, (0.0, 0.0, 5.0, 3.0))
    assert [geometry.cell_at(px, 0, 3, 5)[1] for px in range(5)] == [0, 1, 2, 3, 4]
    assert [geometry.cell_at(0, py, 3, 5)[0] for py in range(3)] == [0, 1, 2]
    # Just inside, where a difference of floats rounds up to the whole field.
    geometry = Geometry(3, 5, (-1000.0, -1000.0, 5.0, 3.0))
    assert geometry.cell_at(np.nextafter(5, 0), np.nextafter(3, 0), 7, 9) == (6, 8)


@pytest.mark.parametrize(
    "place", [(-1, 0), (0, -0.1), (20, 0), (0, 10), (float("nan"), 0), (float("inf"), 0)]
)
def test_places_outside_the_photo(place):
    geometry = Geometry(10, 20, (-5.0, -5.0, 25.0, 25.0))
    with pytest.raises(ImageError, match=r"^pixel .* is outside the photo; .*20 .*10$"):
        geometry.cell_at(*place, 7, 7)


def test_places_that_the_crop_cut_away():
    _, geometry = preprocess(smooth(100, 200), InputSpec(50, 50, resize="crop", crop_fraction=1))
    assert geometry.field == (50, 0, 150, 100)
    assert geometry.cell_at(50, 0, 5, 5) == (0, 0)
    for px in (49, 150):
        with pytest.raises(ImageError, match=r"the part that the network sees; give x from 50\.0 to 150\.0"):
            geometry.cell_at(px, 50, 5, 5)


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (3, 0), (0, 4)])
def test_cells_outside_the_map(cell):
    with pytest.raises(ImageError, match="outside the map of 3 x 4"):
        Geometry(9, 9, (0.0, 0.0, 9.0, 9.0)).cell_box(*cell, 3, 4)


@pytest.mark.parametrize("kernel", ["area", "linear", "cubic"])
@pytest.mark.parametrize(
    ("resize", "fraction"), [("squash", 1), ("crop", 1), ("crop", 0.875), ("crop", 0.4), ("letterbox", 1)]
)
@pytest.mark.parametrize("shape", [(301, 403), (403, 301), (40, 57), (57, 40), (60, 600), (600, 60)])
@pytest.mark.parametrize("target", [(64, 64), (48, 96)])
def test_a_square_of_the_photo_lands_where_the_geometry_says(kernel, resize, fraction, shape, target):
    spec = InputSpec(*target, resize=resize, kernel=kernel, crop_fraction=fraction, mean=(0, 0, 0))
    _, geometry = preprocess(np.zeros((*shape, 3), np.uint8), spec)
    x0, y0, x1, y1 = geometry.field
    # Off the centre of what is seen, so that a mirrored or shifted field shows.
    left, right = max(0.0, x0), min(float(shape[1]), x1)
    top, bottom = max(0.0, y0), min(float(shape[0]), y1)
    box_x0, box_x1 = round(left + 0.5 * (right - left)), round(left + 0.95 * (right - left))
    box_y0, box_y1 = round(top + 0.1 * (bottom - top)), round(top + 0.6 * (bottom - top))
    photo = np.zeros((*shape, 3), np.uint8)
    photo[box_y0:box_y1, box_x0:box_x1] = 255
    tensor, again = preprocess(photo, spec)
    assert again == geometry
    light = tensor[..., 0].astype(float) / 255
    columns, rows = light.max(axis=0), light.max(axis=1)
    expected = (
        (box_x0 - x0) / (x1 - x0) * target[1],
        (box_x1 - x0) / (x1 - x0) * target[1],
        (box_y0 - y0) / (y1 - y0) * target[0],
        (box_y1 - y0) / (y1 - y0) * target[0],
    )
    # "linear" and "cubic" look at one photo pixel in several, so they know an edge less well.
    for profile, low, high in ((columns, *expected[:2]), (rows, *expected[2:])):
        lit = np.flatnonzero(profile > 0.5)
        assert abs(lit[0] - low) <= 1
        assert abs(lit[-1] + 1 - high) <= 1
        centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / profile.sum()
        assert abs(centre - (low + high) / 2) <= (0.25 if kernel == "area" else 0.6)


@pytest.mark.parametrize("shape", [(120, 90), (90, 120), (77, 131)])
@pytest.mark.parametrize("fraction", [1, 0.875, 0.5])
def test_crop_is_the_centre_of_the_resized_photo(shape, fraction):
    spec = InputSpec(48, 32, resize="crop", kernel="linear", crop_fraction=fraction)
    photo = smooth(*shape)
    scale = max(48 / shape[0], 32 / shape[1]) / fraction
    h, w = round(shape[0] * scale), round(shape[1] * scale)
    resized = cv2.resize(photo, (w, h), interpolation=cv2.INTER_LINEAR)
    top, left = (h - 48) // 2, (w - 32) // 2
    tensor, _ = preprocess(photo, spec)
    assert np.array_equal(tensor, resized[top : top + 48, left : left + 32])


def test_crop_of_all_of_a_photo_of_the_same_shape_is_the_photo():
    tensor, geometry = preprocess(smooth(48, 32), InputSpec(48, 32, resize="crop", crop_fraction=1))
    assert np.array_equal(tensor, smooth(48, 32))
    assert geometry.field == (0, 0, 32, 48)


@pytest.mark.parametrize("colour", ["rgb", "bgr"])
@pytest.mark.parametrize("shape", [(100, 50), (50, 100)])
def test_letterbox_borders_have_the_mean_in_the_networks_order(colour, shape):
    spec = InputSpec(40, 40, colour=colour, resize="letterbox", mean=(0.485, -1.0, 7.0))
    tensor, _ = preprocess(np.full((*shape, 3), 9, np.uint8), spec)
    inside = np.zeros((40, 40), bool)
    inside[:, 10:30] = True
    if shape[1] > shape[0]:
        inside = inside.T
    assert (tensor[~inside] == (124, 0, 255)).all()
    assert (tensor[inside] == 9).all()


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_colour_order(resize):
    spec = InputSpec(20, 24, resize=resize)
    photo = np.full((60, 72, 3), (1, 2, 3), np.uint8)
    assert (preprocess(photo, spec)[0] == (1, 2, 3)).all()
    assert (preprocess(photo, replace(spec, colour="bgr"))[0] == (3, 2, 1)).all()


def test_kernels_are_those_of_opencv():
    photo = np.random.default_rng(0).integers(0, 256, (90, 110, 3), np.uint8)
    kernels = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
    for kernel, flag in kernels.items():
        tensor, _ = preprocess(photo, InputSpec(30, 50, kernel=kernel))
        assert np.array_equal(tensor, cv2.resize(photo, (50, 30), interpolation=flag))


@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
def test_another_size_than_the_specs(resize):
    spec = InputSpec(20, 24, resize=resize)
    ours, geometry = preprocess(smooth(), spec, size=(33, 17))
    theirs, same = preprocess(smooth(), replace(spec, height=33, width=17))
    assert ours.shape == (33, 17, 3)
    assert np.array_equal(ours, theirs)
    assert geometry == same


@pytest.mark.parametrize("kernel", ["area", "linear", "cubic"])
@pytest.mark.parametrize("resize", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 10000), (10000, 1), (1, 100000), (100000, 2), (2, 99999)])
def test_very_thin_photos(monkeypatch, kernel, resize, shape):
    largest = []
    real = cv2.resize

    def watched(pixels, size, **options):
        largest.append(size[0] * size[1])
        return real(pixels, size, **options)

    monkeypatch.setattr(cv2, "resize", watched)
    photo = np.zeros((*shape, 3), np.uint8)
    photo[shape[0] // 2 :, shape[1] // 2 :] = 200
    tensor, geometry = preprocess(photo, InputSpec(224, 200, resize=resize, kernel=kernel, mean=(0, 0, 0)))
    assert tensor.shape == (224, 200, 3)
    # Less than 200 where two rows are averaged.
    assert tensor.max() >= 90
    assert max(largest) <= 100 * 224 * 200
    x0, y0, x1, y1 = geometry.field
    assert abs(x0 + x1 - shape[1]) <= (x1 - x0) / 200 + 1e-6
    assert abs(y0 + y1 - shape[0]) <= (y1 - y0) / 224 + 1e-6
    if resize == "crop":  # the smaller scale of the two, the same along both sides
        assert (x1 - x0) / 200 == pytest.approx((y1 - y0) / 224, rel=0.01)


# --- reduced decoding ---------------------------------------------------------------------------


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


def test_a_geometry_fits_the_photo_at_another_size():
    whole = preprocess(smooth(400, 600), InputSpec(64, 64, resize="crop"))[1]
    half = preprocess(smooth(200, 300), InputSpec(64, 64, resize="crop"))[1].resized(400, 600)
    assert (half.photo_height, half.photo_width) == (400, 600)
    assert half.field == pytest.approx(whole.field, abs=2)


# --- the extra turbo ----------------------------------------------------------------------------


def by_opencv(data):
    """What OpenCV makes of a JPEG, before its orientation."""
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return np.ascontiguousarray(decoded[..., ::-1])


@pytest.fixture
def only_turbo(monkeypatch):
    """OpenCV decodes nothing."""
    pytest.importorskip("simplejpeg")
    monkeypatch.setattr(decode, "_opencv", lambda data, flag: None)


SAMPLINGS = [getattr(cv2, name) for name in dir(cv2) if name.startswith("IMWRITE_JPEG_SAMPLING_FACTOR_4")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    quality=st.integers(5, 100),
    sampling=st.sampled_from(SAMPLINGS),
    flags=st.tuples(st.booleans(), st.booleans(), st.integers(0, 3)),
    grey=st.booleans(),
)
def test_turbo_gives_the_pixels_that_opencv_gives(only_turbo, height, width, quality, sampling, flags, grey):
    pixels = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 3), np.uint8)
    pixels = cv2.GaussianBlur(pixels, (5, 5), 0)
    progressive, optimised, restart = flags
    settings = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling),
        *(cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_OPTIMIZE, int(optimised)),
        *(cv2.IMWRITE_JPEG_RST_INTERVAL, restart),
    ]
    data = encode(pixels[..., 0] if grey else pixels, ".jpg", settings)
    np.testing.assert_array_equal(load(data).pixels, by_opencv(data))


def test_turbo_decodes_photos_and_turns_them(only_turbo):
    for path in sorted(SAMPLES.glob("*.jpg")):
        np.testing.assert_array_equal(load(path).pixels, by_opencv(path.read_bytes()))
    plain = encode(smooth(), ".jpg")
    turned = load(with_segment(plain, b"Exif\0\0" + exif(6)))
    np.testing.assert_array_equal(turned.pixels, np.rot90(load(plain).pixels, -1))


def test_what_turbo_refuses_is_left_to_opencv():
    pytest.importorskip("simplejpeg")
    # given a photo whose middle is damaged, which OpenCV decodes all the same
    data = sorted(SAMPLES.glob("*.jpg"))[0].read_bytes()
    middle = len(data) // 2
    data = data[:middle] + b"\xff\xd5" + data[middle + 40 :]
    assert decode._turbo(data) is None
    np.testing.assert_array_equal(load(data).pixels, by_opencv(data))
