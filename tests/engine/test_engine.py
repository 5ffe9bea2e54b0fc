"""From photos to maps with real sessions, for every pooling, head and geometry."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import ARTIFACTS, MODEL, SAMPLES
from simmap.engine import ArtifactError, ConfigError, Engine, ImageError
from simmap.engine.errors import SimmapError
from simmap.engine.images.photo import Source
from simmap.engine.options import Options

NAMES = (
    "avg", "max", "gem", "catavgmax", "affine_bias", "flatten", "weights", "weights_zero", "letterbox_bgr",
    "crop", "dynamic", "max_affine", "gated", "attention",
)  # fmt: skip
ENGINES: dict[str, Engine] = {}


def engine_of(name: str) -> Engine:
    """One engine an artifact, opened once."""
    if name not in ENGINES:
        ENGINES[name] = Engine(ARTIFACTS / f"{name}.onnx", device="cpu", options=Options(threads=1))
    return ENGINES[name]


def noise(seed: int, height: int, width: int) -> np.ndarray:
    """A photo of coloured noise with large shapes in it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(large + rng.normal(0, 20, large.shape), 0, 255).astype(np.uint8)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """In float64, by the definition."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 90)] * 4))
def test_maps_and_residuals_sum_to_the_score(name: str, seed: int, sides: tuple[int, int, int, int]) -> None:
    engine = engine_of(name)
    pair = engine.compare(noise(seed, *sides[:2]), noise(seed + 1, *sides[2:]))
    first, second = pair.images
    assert pair.score == pytest.approx(cosine(first.embedding, second.embedding), abs=1e-6)
    for values, rest in zip(pair.maps, pair.residuals, strict=True):
        size = max(1.0, float(np.abs(values).sum()))
        assert abs(values.sum(dtype=np.float64) + rest - pair.score) <= 1e-5 * size
    has_rest = engine.contract.bias is not None or engine.contract.rest == "image"
    assert has_rest == any(pair.residuals)
    height, width = first.parts.shape[:2]
    y, x = seed % height, seed % width
    points = pair.point(0, y, x)
    assert points.shape == second.parts.shape[:2]
    back = pair.point(1, 0, 0)
    assert back[y, x] == pytest.approx(points[0, 0], abs=1e-5)


def test_the_artifacts_cover_what_can_be_exported() -> None:
    contracts = [engine_of(name).contract for name in NAMES]
    assert {c.pooling for c in contracts} >= {
        "avg",
        "max",
        "gem",
        "catavgmax",
        "weights",
        "flatten",
        "attention",
    }
    assert {c.head for c in contracts} == {"none", "affine", "gated"}
    assert {c.rest for c in contracts} == {"constant", "image"}
    assert {c.input.resize for c in contracts} == {"squash", "crop", "letterbox"}
    assert {c.input.colour for c in contracts} == {"rgb", "bgr"}
    assert any(c.input.dynamic for c in contracts) and any(c.grid_height != c.grid_width for c in contracts)


def test_swapping_the_images_swaps_the_maps(photos: tuple[Path, Path]) -> None:
    engine = engine_of("affine_bias")
    there, back = engine.compare(*photos), engine.compare(*reversed(photos))
    assert there.score == pytest.approx(back.score, abs=1e-7)
    np.testing.assert_array_equal(there.maps[0], back.maps[1])
    np.testing.assert_array_equal(there.maps[1], back.maps[0])
    assert there.residuals == back.residuals[::-1]


def test_paths_bytes_and_arrays_are_the_same_image(photos: tuple[Path, Path]) -> None:
    engine = engine_of("avg")
    bgr = cv2.imread(str(photos[0]))
    sources: list[Source] = [photos[0], str(photos[0]), photos[0].read_bytes(), bgr[..., ::-1]]
    found = list(engine.embed(sources))
    for image in found[1:]:
        np.testing.assert_array_equal(image.embedding, found[0].embedding)
    assert [image.path for image in found[:3]] == [str(photos[0]), str(photos[0]), "<bytes>"]


def test_one_bad_image_is_an_error_or_is_left_out(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"nothing")
    sources: list[Source] = [noise(0, 9, 9), bad, noise(1, 9, 9)]
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        list(engine_of("avg").embed(sources, batch_size=3))
    skipped: list[tuple[Source, SimmapError]] = []
    found = list(engine_of("avg").embed(sources, batch_size=3, on_error=lambda s, e: skipped.append((s, e))))
    assert len(found) == 2
    assert skipped[0][0] == bad and "bad.jpg" in str(skipped[0][1])


def test_images_without_a_direction_are_named(tmp_path: Path) -> None:
    engine = engine_of("fragile")
    good = noise(0, 20, 20)
    for value, told in ((200, "is zero"), (0, "NaN or infinite")):
        path = tmp_path / f"constant{value}.png"
        cv2.imwrite(str(path), np.full((20, 20, 3), value, np.uint8))
        for pair in ((path, good), (good, path)):
            with pytest.raises(ImageError, match=told) as caught:
                engine.compare(*pair)
            assert str(caught.value).startswith(str(path)) and "fragile.onnx" in str(caught.value)
        skipped: dict[Source, SimmapError] = {}
        found = list(engine.embed([path, good], batch_size=2, on_error=skipped.__setitem__))
        assert len(found) == 1 and list(skipped) == [path]


def test_warming_up_changes_nothing(photos: tuple[Path, Path]) -> None:
    engine = Engine(ARTIFACTS / "avg.onnx", device="cpu")
    before = engine.compare(*photos).score
    engine.warm_up(batch_size=2)
    assert engine.compare(*photos).score == before


def test_a_single_image_is_not_a_list() -> None:
    with pytest.raises(ConfigError, match="list of images"):
        list(engine_of("avg").embed("a.jpg"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size is 0"):
        list(engine_of("avg").embed([], batch_size=0))


def test_other_input_sizes_need_a_dynamic_artifact(photos: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match="export it with --dynamic"):
        Engine(ARTIFACTS / "avg.onnx", options=Options(size=(64, 96)))
    contract = engine_of("dynamic").contract
    size = (contract.input.height * 2, contract.input.width * 3)
    pair = Engine(ARTIFACTS / "dynamic.onnx", options=Options(size=size)).compare(*photos)
    assert pair.maps[0].shape == (contract.grid_height * 2, contract.grid_width * 3)
    assert pair.maps[0].sum() + pair.residuals[0] == pytest.approx(pair.score, abs=1e-5)


def test_a_place_of_the_photo_is_found_on_its_map(tmp_path: Path) -> None:
    # given two photos that share one textured square, elsewhere in each, on flat ground
    square = noise(5, 60, 60)
    first, second = (np.full((224, 448, 3), 127, np.uint8) for _ in range(2))
    first[20:80, 30:90] = square
    second[140:200, 330:390] = square
    # when the model that ships compares them
    pair = Engine(MODEL, device="cpu").compare(first, second)
    # then each map is hottest at, or beside, the square
    for values, (y, x) in zip(pair.maps, ((50, 60), (170, 360)), strict=True):
        top = np.unravel_index(values.argmax(), values.shape)
        assert abs(top[0] + 0.5 - y / 224 * 7) <= 1.5 and abs(top[1] + 0.5 - x / 448 * 7) <= 1.5


def test_invalid_options_are_named() -> None:
    with pytest.raises(ConfigError, match="threads is -1"):
        Options(threads=-1)


def test_the_default_model_is_the_one_that_ships() -> None:
    assert Engine(device="cpu").model.resolve() == MODEL.resolve()
    with pytest.raises(ArtifactError, match="no such model file"):
        Engine("none.onnx")


def test_the_engine_imports_nothing_of_export(photos: tuple[Path, Path]) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'timm', 'onnx') or '.export' in name:\n"
        "            raise AssertionError(f'imported {name}')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from simmap.engine import Engine, PairFigure\n"
        "pair = Engine(sys.argv[1]).compare(*sys.argv[2:])\n"
        "assert -1 <= pair.score <= 1 and PairFigure(pair).picture().ndim == 3\n"
    )
    arguments = [ARTIFACTS / "avg.onnx", *photos]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_fast_decoding_keeps_geometry_and_hardly_changes_embeddings(tmp_path: Path) -> None:
    pixels = cv2.resize(
        cv2.imread(str(SAMPLES / "building.jpg")), (3000, 2073), interpolation=cv2.INTER_CUBIC
    )
    cv2.imwrite(str(tmp_path / "large.jpg"), pixels)
    vectors = []
    for fast in (False, True):
        engine = Engine(MODEL, device="cpu", options=Options(fast_decode=fast))
        vectors += engine.vectors([tmp_path / "large.jpg"])
    full, reduced = vectors
    assert reduced.geometry == full.geometry
    assert (full.embedding != reduced.embedding).any()
    assert cosine(full.embedding, reduced.embedding) > 0.99
