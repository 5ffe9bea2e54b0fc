"""A pair graph gives in other runtimes what it gives in ONNX Runtime."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from runtimes import RUNTIMES, Array, Feed, Runtime

from common import ARTIFACTS, MODEL, PHOTOS

pytest.importorskip("onnx")

from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.runtime.ort import cpu_session
from simmap.engine.runtime.session import read_pair
from simmap.export.pair import export_pair

# One of each pooling, head and kind of rest; opset 11; sizes that are known only when it runs.
NAMES = ["avg", "max", "gem", "catavgmax", "affine_bias", "flatten", "gated", "attention", "dynamic"]


@pytest.fixture(params=RUNTIMES, ids=lambda runtime: runtime.name)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each runtime that is installed."""
    each: Runtime = request.param
    if not each.is_there():
        pytest.skip(f"{each.name} is not installed: {each.install}")
    return each


@cache
def graph_of(artifact: Path, *, photo: bool = False) -> Path:
    folder = Path(mkdtemp(prefix="simmap-edge-"))
    return export_pair(artifact, folder / f"{artifact.stem}.onnx", points=True, photo=photo).path


def reference(graph: Path, feed: Feed) -> dict[str, Array]:
    names = list(read_pair(graph).outputs)
    return dict(zip(names, cpu_session(graph).run(names, feed), strict=True))


def largest_difference(runtime: Runtime, graph: Path, feed: Feed) -> float:
    expected = reference(graph, feed)
    values = runtime.run(graph, feed, list(expected))
    for name, value in expected.items():
        assert values[name].size == value.size, name
    return max(float(np.abs(values[n].reshape(v.shape) - v).max()) for n, v in expected.items())


@pytest.mark.parametrize("name", NAMES)
def test_every_pooling_and_head_is_the_same(runtime: Runtime, name: str) -> None:
    graph = graph_of(ARTIFACTS / f"{name}.onnx")
    spec = read_pair(graph).contract.input
    rng = np.random.default_rng(0)
    shape = (3, spec.height, spec.width, 3)
    feed = {side: rng.integers(0, 256, shape, dtype=np.uint8) for side in "ab"}
    assert largest_difference(runtime, graph, feed) <= 1e-5


def test_a_zero_embedding_gives_zeros(runtime: Runtime) -> None:
    graph = graph_of(ARTIFACTS / "fragile.onnx")
    noise = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    names = list(read_pair(graph).outputs)
    for name, value in runtime.run(graph, {"a": np.full_like(noise, 90), "b": noise}, names).items():
        assert (value == 0).all(), name


def test_the_model_that_ships_is_the_same_on_photos(runtime: Runtime) -> None:
    graph = graph_of(MODEL)
    spec = read_pair(graph).contract.input
    photos = [preprocess(load(path).pixels, spec)[0][None] for path in sorted(PHOTOS.glob("*.jpg"))]
    assert largest_difference(runtime, graph, dict(zip("ab", photos, strict=True))) <= 1e-5


def test_photos_of_two_sizes_are_resized_alike(runtime: Runtime) -> None:
    first, second = (load(path).pixels[None] for path in sorted(PHOTOS.glob("*.jpg")))
    feed = {"a": first, "b": np.ascontiguousarray(second[:, 20:330, 40:600])}
    # A channel that is rounded another way moves this network's score by some 1e-6 to 1e-4.
    assert largest_difference(runtime, graph_of(MODEL, photo=True), feed) <= 1e-3
