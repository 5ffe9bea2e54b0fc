"""Runs through bound buffers, and maps where the feature map lies: on the CPU, which binds alike."""

from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from common import ARTIFACTS, PHOTOS
from simmap.engine import Engine, decompose
from simmap.engine.contract import MAPS_KEY
from simmap.engine.errors import ConfigError, DecompositionError, ImageError
from simmap.engine.runtime.cuda import Lanes, page_locked
from simmap.engine.runtime.ort import CPU
from simmap.engine.runtime.session import Session, open_session
from simmap.engine.streams import Streams

NAMES = sorted(path.stem for path in ARTIFACTS.glob("*.onnx"))


def bound(session: Session) -> Lanes:
    """How CUDA would run it, on the CPU."""
    graph = session.inference.get_modelmeta().custom_metadata_map[MAPS_KEY]
    return Lanes(
        session.inference,
        onnxruntime.InferenceSession(b64decode(graph), providers=[CPU]),
        kind="cpu",
        index=0,
    )


def drawn(
    session: Session, count: int, seed: int, size: tuple[int, int] | None = None
) -> list[npt.NDArray[np.uint8]]:
    """Random images in the artifact's size."""
    height, width = size or (session.contract.input.height, session.contract.input.width)
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, size=(count, height, width, 3), dtype=np.uint8))


def sizes(session: Session) -> list[tuple[int, int] | None]:
    return [None, (40, 24), None] if session.contract.input.dynamic else [None]


@pytest.mark.parametrize("name", NAMES)
def test_bound_runs_give_what_plain_runs_give(name: str) -> None:
    session = open_session(ARTIFACTS / f"{name}.onnx", device="cpu", threads=1)
    lanes = bound(session)
    kept: list[tuple[Any, Any]] = []
    for seed, count in enumerate((2, 1, 4, 3, 3)):  # memory that grows, and is used in part
        for size in sizes(session):
            images = drawn(session, count, seed, size)
            for outputs in (session.contract.explained, session.contract.explained[:1]):
                expected = session.infer(images, outputs)
                found = lanes.infer(images, outputs)
                assert len(found) == len(expected)
                kept += zip(found, expected, strict=True)
    # Looked at in the end: what was given before is not written over.
    for one, other in kept:
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_the_artifacts_graph_are_those_of_the_definition(name: str) -> None:
    session = open_session(ARTIFACTS / f"{name}.onnx", device="cpu", threads=1)
    contract, lanes = session.contract, bound(session)
    rng = np.random.default_rng(1)
    for count in (3, 1):
        for size in sizes(session):
            images = drawn(session, count, count, size)
            directions = rng.normal(size=(count, contract.dimension)).astype(np.float32)
            embeddings, maps = lanes.infer_maps(images, *contract.explained, directions)
            vectors, places = session.infer(images, contract.explained)
            np.testing.assert_array_equal(embeddings, vectors)
            for at, place in enumerate(places.astype(np.float64)):
                parts = place
                if contract.head == "none":
                    eps = contract.eps or decompose.GEM_EPS
                    parts = decompose.alpha_hat(place, contract.pooling, p=contract.p, eps=eps)
                expected = (parts * directions[at].astype(np.float64)).sum(axis=-1)
                assert maps[at].shape == expected.shape
                assert np.abs(maps[at] - expected).max() <= 1e-5 * np.abs(parts).sum(axis=-1).max()


def test_runs_at_the_same_time_do_not_share_memory() -> None:
    session = open_session(ARTIFACTS / "max_affine.onnx", device="cpu", threads=1)
    lanes = bound(session)
    batches = [drawn(session, 1 + seed % 3, seed) for seed in range(200)]
    outputs = session.contract.explained
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda images: lanes.infer(images, outputs), batches))
    for images, values in zip(batches, found, strict=True):
        for one, other in zip(values, session.infer(images, outputs), strict=True):
            np.testing.assert_array_equal(one, other)


def test_memory_without_a_gpu_is_ordinary() -> None:
    for device in (None, 0):
        memory = page_locked(5000, device)
        memory[:] = 7
        assert memory.shape == (5000,) and memory.dtype == np.uint8
        assert page_locked(0, device).size == 0


def on_lanes(name: str) -> Engine:
    """An engine that takes every turn it would take on CUDA, on the CPU."""
    engine = Engine(ARTIFACTS / f"{name}.onnx", device="cpu")
    session = engine._network.session
    engine._network.session = replace(session, device="cuda:0", lanes=bound(session))
    engine._streams = Streams(engine._network)
    return engine


@pytest.mark.parametrize("name", ["avg", "gem", "catavgmax", "affine_bias", "max_affine", "flatten"])
@pytest.mark.parametrize("batch_size", [None, 1, 3])
def test_an_engine_on_lanes_streams_what_one_on_the_cpu_does(name: str, batch_size: int | None) -> None:
    photos = [PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"] * 40
    plain, laned = Engine(ARTIFACTS / f"{name}.onnx", device="cpu"), on_lanes(name)
    assert laned.device == "cuda:0"
    for one, other in zip(plain.embed(photos), laned.embed(photos, batch_size=batch_size), strict=True):
        assert one.path == other.path
        # Batches and threads may change the order of a sum.
        np.testing.assert_allclose(one.embedding, other.embedding, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(one.parts, other.parts, rtol=1e-6, atol=1e-6)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(photos), plain.contract.dimension)).astype(np.float32)
    both = (engine.maps(photos, directions, batch_size=batch_size) for engine in (plain, laned))
    for one, other, direction in zip(*both, directions, strict=True):
        np.testing.assert_allclose(one.embedding, other.embedding, rtol=1e-6, atol=1e-6)
        assert np.abs(one.map - other.map).max() <= 1e-5 * np.linalg.norm(direction)
    pair, same = plain.compare(*photos[:2]), laned.compare(*photos[:2])
    assert abs(pair.score - same.score) <= 1e-6
    np.testing.assert_allclose(pair.maps[0], same.maps[0], atol=1e-6)
    laned.warm_up(4)


def test_maps_against_known_directions_are_similarity_maps() -> None:
    engine = Engine(ARTIFACTS / "affine_bias.onnx", device="cpu")
    photos = [PHOTOS / "buddha_a.jpg", PHOTOS / "buddha_b.jpg"]
    first, second = engine.embed(photos)
    (mapped,) = engine.maps(photos[:1], decompose.unit(second.embedding))
    np.testing.assert_allclose(mapped.map, first.map_against(second), atol=1e-6)
    score = decompose.score(first.embedding, second.embedding)
    assert abs(mapped.map.sum() + first.residual_against(second) - score) <= 1e-5
    # One direction each, in their order.
    units = decompose.unit(np.array([second.embedding, first.embedding]))
    for image, other, found in zip((first, second), (second, first), engine.maps(photos, units), strict=True):
        np.testing.assert_allclose(found.map, image.map_against(other), atol=1e-6)


@pytest.mark.parametrize(
    "build", [lambda: Engine(ARTIFACTS / "avg.onnx", device="cpu"), lambda: on_lanes("avg")]
)
def test_what_cannot_be_mapped(build: Any, tmp_path: Path) -> None:
    engine = build()
    photo = PHOTOS / "buddha_a.jpg"
    direction = np.ones(engine.contract.dimension, np.float32)
    with pytest.raises(ConfigError, match="list of images"):
        engine.maps(photo, direction)
    with pytest.raises(DecompositionError, match=r"direction of shape \(3,\) must be"):
        list(engine.maps([photo], np.ones(3, np.float32)))
    with pytest.raises(DecompositionError, match="finite"):
        list(engine.maps([photo], direction * np.nan))
    with pytest.raises(ConfigError, match="fewer directions than images"):
        list(engine.maps([photo, photo], [direction]))
    with pytest.raises(ConfigError, match="more directions than images"):
        list(engine.maps([photo], [direction, direction]))
    with pytest.raises(ImageError, match="missing"):
        list(engine.maps([tmp_path / "missing.jpg"], direction))
    left: list[Any] = []
    sources: Iterator[Any] = iter([photo, tmp_path / "missing.jpg", photo])
    scaled = [direction, direction * 2, direction * 3]
    found = list(engine.maps(sources, scaled, on_error=lambda source, error: left.append(source)))
    assert left == [tmp_path / "missing.jpg"]
    # The third image has its own direction still.
    np.testing.assert_allclose(found[1].map, found[0].map * 3, rtol=1e-5)
