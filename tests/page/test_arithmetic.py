"""The page's arithmetic in Node against the engine's."""

import io
import json
import math
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from common import ROOT
from simmap.engine import decompose
from simmap.engine.contract import InputSpec
from simmap.engine.figures.contours import cell_outlines
from simmap.engine.images.preprocess import preprocess
from simmap.engine.images.resize import resize

KERNELS = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
SIDES = st.integers(1, 90)
SEEDS = st.integers(0, 2**32 - 1)
Call = Callable[..., Any]


@pytest.fixture(scope="module")
def call(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Call a function of a module of the page, in one Node for all."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "package.json").write_text('{"type": "module"}')
    for path in (ROOT / "server" / "page").glob("*.js"):
        shutil.copy(path, folder)
    process = subprocess.Popen(
        [node, Path(__file__).with_name("calls.mjs"), folder],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def one(module: str, name: str, *values: Any) -> Any:
        line = json.dumps({"module": module, "name": name, "given": [plain(value) for value in values]})
        print(line, file=process.stdin, flush=True)
        return revived(json.loads(process.stdout.readline()))

    yield one
    process.stdin.close()
    process.wait()


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        name = {"float32": "Float32Array", "uint8": "Uint8Array"}[str(value.dtype)]
        return {"type": name, "data": b64encode(np.ascontiguousarray(value).tobytes()).decode()}
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return value


def revived(value: Any) -> Any:
    if isinstance(value, list):
        return [revived(inner) for inner in value]
    if isinstance(value, dict) and value.keys() == {"type", "data"}:
        kind = np.float32 if value["type"] == "Float32Array" else np.uint8
        return np.frombuffer(b64decode(value["data"]), kind)
    if isinstance(value, dict):
        return {name: revived(inner) for name, inner in value.items()}
    return value


def photo(seed: int, height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)


def source(pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"pixels": pixels, "height": pixels.shape[0], "width": pixels.shape[1]}


@pytest.mark.parametrize("kernel", KERNELS)
@given(SEEDS, SIDES, SIDES, SIDES, SIDES)
def test_photos_are_resized_to_the_pixels_of_opencv(
    call: Call, kernel: str, seed: int, height: int, width: int, to_height: int, to_width: int
) -> None:
    pixels = photo(seed, height, width)
    shown = call("resize.js", "resize", source(pixels), to_height, to_width, kernel)
    expected = resize(np.ascontiguousarray(pixels[..., :3]), to_height, to_width, KERNELS[kernel])
    difference = np.abs(shown.reshape(to_height, to_width, 4)[..., :3].astype(int) - expected)
    # Cubic weights are rounded by whichever instructions OpenCV takes.
    assert difference.max() <= (kernel == "cubic")


@pytest.mark.parametrize(
    "sizes", [(448, 448, 224, 224), (672, 896, 224, 224), (480, 640, 224, 224), (1080, 1920, 224, 224)]
)
def test_usual_photos_are_resized_to_the_pixels_of_opencv(call: Call, sizes: tuple[int, ...]) -> None:
    height, width, to_height, to_width = sizes
    pixels = photo(0, height, width)
    for kernel in ("area", "linear"):
        shown = call("resize.js", "resize", source(pixels), to_height, to_width, kernel)
        expected = resize(np.ascontiguousarray(pixels[..., :3]), to_height, to_width, KERNELS[kernel])
        assert np.array_equal(shown.reshape(to_height, to_width, 4)[..., :3], expected)


@given(
    SEEDS, SIDES, SIDES, st.sampled_from(["squash", "crop", "letterbox"]), st.sampled_from(["rgb", "bgr"]),
    st.sampled_from(["area", "linear"]), st.floats(0.2, 1), st.tuples(*3 * [st.floats(-0.5, 1.5)]),
    st.integers(1, 40), st.integers(1, 40),
)  # fmt: skip
def test_the_network_is_given_what_the_engine_gives_it(
    call: Call, seed: int, height: int, width: int, policy: Any, colour: Any, kernel: Any,
    fraction: float, mean: tuple[float, float, float], to_height: int, to_width: int,
) -> None:  # fmt: skip
    spec = InputSpec(to_height, to_width, False, colour, policy, kernel, fraction, mean)
    pixels = photo(seed, height, width)
    shown = call("prepare.js", "prepare", source(pixels), asdict(spec))
    expected, geometry = preprocess(np.ascontiguousarray(pixels[..., :3]), spec)
    assert np.array_equal(shown["pixels"].reshape(expected.shape), expected)
    field = shown["field"]
    corners = (field["x"], field["y"], field["x"] + field["width"], field["y"] + field["height"])
    assert corners == pytest.approx(geometry.field, rel=1e-12, abs=1e-9)


def test_a_very_thin_photo_is_cropped_without_resizing_all_of_it(call: Call) -> None:
    spec = InputSpec(16, 16, resize="crop")
    pixels = photo(1, 3, 40_000)
    shown = call("prepare.js", "prepare", source(pixels), asdict(spec))
    expected, geometry = preprocess(np.ascontiguousarray(pixels[..., :3]), spec)
    assert np.array_equal(shown["pixels"].reshape(expected.shape), expected)
    assert shown["field"]["x"] == pytest.approx(geometry.field[0])


@pytest.mark.parametrize(
    ("pooling", "p"),
    [("avg", None), ("max", None), ("gem", 0.5), ("gem", 3.0), ("gem", 200.0), ("gem", math.inf),
     ("avgmax", None), ("catavgmax", None)],
)  # fmt: skip
@given(SEEDS, st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))
def test_each_pooled_feature_is_shared_out_as_by_the_engine(
    call: Call, pooling: str, p: float | None, seed: int, channels: int, height: int, width: int
) -> None:
    # Few values, so that maxima tie, and negative ones, which only some poolings keep.
    values = np.random.default_rng(seed).integers(-2, 3, (channels, height, width)).astype(np.float32)
    given_p = None if p is None or math.isinf(p) else p
    shown = call(
        "decompose.js",
        "partsOf",
        values.ravel(),
        height * width,
        {"pooling": pooling, "p": given_p, "eps": None},
    )
    expected = decompose.alpha_hat(values, pooling, p=p)
    np.testing.assert_allclose(shown.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
    total = shown.reshape(expected.shape).sum(axis=(0, 1), dtype=np.float64)
    np.testing.assert_allclose(total, decompose.pool(values, pooling, p=p), rtol=1e-5, atol=1e-5)


@given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.integers(2, 20), st.booleans())
def test_a_pair_is_split_as_by_the_engine(
    call: Call, seed: int, one: int, other: int, dimension: int, has_rest: bool
) -> None:
    random = np.random.default_rng(seed)
    images = []
    for places in (one, other):
        parts = random.normal(size=(places, 1, dimension)).astype(np.float32)
        rest = random.normal(size=dimension).astype(np.float32) if has_rest else None
        total = parts.sum(axis=(0, 1)) + (0 if rest is None else rest)
        images.append((parts, rest, total.astype(np.float32)))
    given_images = [
        {"embedding": total, "parts": parts, "rest": rest, "places": len(parts)}
        for parts, rest, total in images
    ]
    shown = call("decompose.js", "comparePair", *given_images)
    units = [total.astype(np.float64) / np.linalg.norm(total) for _, _, total in images]
    score = float(units[0] @ units[1])
    assert shown["score"] == pytest.approx(score, abs=1e-6)
    for at in (0, 1):
        parts, rest, total = images[at]
        u, norm = units[1 - at], float(np.linalg.norm(total))
        naive = parts[:, 0] @ u / norm
        scale = 1e-6 * max(1.0, float(np.abs(parts).max()) / norm)
        np.testing.assert_allclose(shown["maps"][at], naive, atol=scale)
        assert shown["residuals"][at] == pytest.approx(0 if rest is None else rest @ u / norm, abs=scale)
        assert shown["maps"][at].sum() + shown["residuals"][at] == pytest.approx(score, abs=10 * scale)
        np.testing.assert_allclose(
            shown["influence"][at], naive - score * (parts[:, 0] @ units[at] / norm), atol=2 * scale
        )
    norms = np.linalg.norm(images[0][2]) * np.linalg.norm(images[1][2])
    points = images[0][0][:, 0] @ images[1][0][:, 0].T / norms
    np.testing.assert_allclose(
        shown["points"].reshape(points.shape), points, atol=1e-5 * np.abs(points).max()
    )


def test_an_image_that_cannot_be_compared_is_told_apart(call: Call) -> None:
    def fault(embedding: list[float], parts: list[float], rest: list[float] | None = None) -> Any:
        image = {"embedding": embedding, "parts": parts, "rest": rest}
        arrays = {name: None if v is None else np.array(v, np.float32) for name, v in image.items()}
        return call("decompose.js", "fault", arrays)

    assert fault([3, 4], [1, 2, 2, 2]) is None
    assert fault([3, 4], [1, 2, 2, 1], [0, 1]) is None
    assert fault([0, 0], [1, 2, -1, -2]) == "zero"
    assert fault([np.nan, 4], [1, 2, 2, 2]) == "infinite"
    assert fault([3, 4], [np.inf, 2, 2, 2]) == "infinite"
    assert fault([3, 4], [1, 2, 2, 2.01]) == "unequal"
    assert fault([3, 4], [1, 2, 2, 2], [0, 0.01]) == "unequal"


@given(SEEDS, st.integers(1, 8), st.integers(1, 8), st.sampled_from([0.5, 0.8, 1.0]))
def test_contours_enclose_the_cells_of_the_engine(
    call: Call, seed: int, height: int, width: int, share: float
) -> None:
    values = np.random.default_rng(seed).integers(-2, 4, (height, width)).astype(np.float32)
    inside = call("contours.js", "fewestPlaces", values.ravel(), share)
    expected = decompose.fewest_places(values, share)
    assert inside == expected.ravel().tolist()
    loops = call("contours.js", "cellOutlines", inside, width)

    def turned(loop: Any) -> list[tuple[int, int]]:
        """From its first corner in reading order on."""
        corners = [tuple(corner) for corner in loop]
        starts = [corners[at:] + corners[:at] for at in range(len(corners))]
        return min(starts)

    assert sorted(map(turned, loops)) == sorted(map(turned, cell_outlines(expected)))


@pytest.mark.parametrize(
    ("form", "name", "options"),
    [("JPEG", "JPEG", {}), ("JPEG", "JPEG", {"progressive": True}), ("PNG", "PNG", {}),
     ("WEBP", "WebP", {}), ("WEBP", "WebP", {"lossless": True}),
     ("WEBP", "WebP", {"exif": b"Exif\0\0MM\0*"})],
)  # fmt: skip
@settings(max_examples=10)
@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_size_of_a_file_is_read_before_it_is_decoded(
    call: Call, form: str, name: str, options: dict[str, Any], width: int, height: int
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, form, **options)
    data = np.frombuffer(stream.getvalue(), np.uint8)
    assert call("header.js", "formatOf", data) == name
    assert call("header.js", "declaredSize", data, name) == {"width": width, "height": height}
