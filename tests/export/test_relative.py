"""Parts counted from a blank photo or from the mean over photos: exact, and nothing else changes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

import networks
from checks import MEAN, maps_of, photos, run_artifact, run_export, write
from common import PHOTOS, SAMPLES
from networks import Network
from simmap.engine import Engine, decompose
from simmap.engine.contract import InputSpec
from simmap.engine.errors import ConfigError, ExportError, ImageError
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import blank, preprocess
from simmap.engine.runtime.session import Session, open_session
from simmap.export import gate, relative
from simmap.export.draft import Draft
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.exposing import expose
from simmap.export.surgery.graph import Graph
from simmap.export.surgery.maps import map_graph

Array = npt.NDArray[Any]
BUILDS: dict[str, Callable[[], Network]] = {
    "avg": networks.pooled_only,
    "max": lambda: networks.pooled_only("GlobalMaxPool"),
    "gem": lambda: networks.gem(2.5),
    "avgmax": networks.avgmax,
    "catavgmax": networks.catavgmax,
    "avg, affine": lambda: networks.tail("Flatten", "Gemm"),
    "max, affine": lambda: networks.classifier(scores=None, pool="GlobalMaxPool"),
    "catavgmax, affine": lambda: networks.catavgmax(linear=True),
    "weights": networks.mobile_face,
    "weights, no head": networks.depthwise_only,
    "weights, no bias": lambda: networks.mobile_face(bias=False),
    "flatten": networks.arc_face,
    "flatten, as a convolution": networks.full_conv,
}
PER_PLACE = tuple(name for name in BUILDS if name.startswith(("weights", "flatten")))


@pytest.fixture(scope="module")
def open_artifact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Session]:
    """Gives the artifact of a network of ``BUILDS`` with some reference, exported once."""
    sessions: dict[tuple[str, str], Session] = {}

    def open_once(name: str, reference: str) -> Session:
        if (name, reference) not in sessions:
            folder = tmp_path_factory.mktemp("relative")
            source = write(BUILDS[name]().model, folder)
            asked = str(SAMPLES) if reference == "images" else reference
            report = run_export(source, folder / "out.onnx", reference=asked)
            sessions[name, reference] = open_session(report.path, device="cpu", threads=1)
            assert sessions[name, reference].contract == report.contract
        return sessions[name, reference]

    return open_once


def parts_from_zero(session: Session, outputs: dict[str, Array]) -> Array:
    """(N, H, W, D) in float64: the output, or what its definition gives without a head."""
    if "parts" in outputs:
        return outputs["parts"].astype(np.float64)
    contract = session.contract
    eps = 1e-6 if contract.eps is None else contract.eps
    conv = outputs["conv"].astype(np.float64)
    return np.stack([decompose.alpha_hat(c, contract.pooling, p=contract.p, eps=eps) for c in conv])


def alone(network: Network, alpha: Array) -> Array:
    """(H, W, D): what each place adds to a linear head, all other places being zero, in float64."""
    constant = network.head(np.zeros_like(alpha))
    height, width = alpha.shape[1:]
    parts = np.empty((height, width, constant.size))
    for y in range(height):
        for x in range(width):
            place = np.zeros_like(alpha)
            place[:, y, x] = alpha[:, y, x]
            parts[y, x] = network.head(place) - constant
    return parts


def reference_images(spec: InputSpec, reference: str) -> Array:
    """The inputs that a reference is the mean over."""
    if reference == "blank":
        colour = [round(255 * mean) for mean in MEAN]
        return np.full((1, spec.height, spec.width, 3), colour, dtype=np.uint8)
    paths = sorted(p for p in SAMPLES.iterdir() if p.suffix in (".jpg", ".png"))
    return np.stack([preprocess(load(path).pixels, spec)[0] for path in paths])


@pytest.mark.parametrize("reference", ["blank", "images"])
@pytest.mark.parametrize("name", BUILDS)
@given(seed=st.integers(0, 10**6), count=st.sampled_from([1, 3]))
def test_parts_are_less_the_reference_and_the_embedding_stays(
    open_artifact: Callable[[str, str], Session], name: str, reference: str, seed: int, count: int
) -> None:
    plain, counted = open_artifact(name, "zero"), open_artifact(name, reference)
    assert counted.contract.reference == reference and plain.contract.reference == "zero"
    assert counted.contract.head == "affine"
    images = photos(plain, count, seed=seed)
    before, after = run_artifact(plain, images), run_artifact(counted, images)
    explained = plain.contract.explained[0]
    assert np.array_equal(after["embedding"], before[explained])
    origin = parts_from_zero(plain, run_artifact(plain, reference_images(plain.contract.input, reference)))
    expected = parts_from_zero(plain, before) - origin.mean(axis=0)
    assert np.abs(after["parts"] - expected).max() <= 2e-6 * np.abs(parts_from_zero(plain, before)).max()
    bias = counted.contract.bias_vector
    assert bias is not None
    total = after["parts"].sum(axis=(1, 2), dtype=np.float64) + bias
    size = np.abs(after["parts"]).sum(axis=(1, 2)) + np.abs(bias)
    assert (np.abs(total - after["embedding"]) <= 1e-5 * size).all()


@pytest.mark.parametrize("name", PER_PLACE)
@given(seed=st.integers(0, 10**6))
def test_parts_against_a_blank_photo_in_naive_float64(
    open_artifact: Callable[[str, str], Session], name: str, seed: int
) -> None:
    network, session = BUILDS[name](), open_artifact(name, "blank")
    images = photos(session, 2, seed=seed)
    flat = reference_images(session.contract.input, "blank")
    alpha = maps_of(network, np.concatenate([images, flat]), network.grid)
    parts = np.stack([alone(network, a) for a in alpha])
    expected = parts[:-1] - parts[-1]
    found = run_artifact(session, images)
    assert np.abs(found["parts"] - expected).max() <= 1e-5 * np.abs(parts).max()
    bias = network.head(np.zeros_like(alpha[0])) + parts[-1].sum(axis=(0, 1))
    assert session.contract.bias_vector is not None
    assert np.abs(session.contract.bias_vector - bias).max() <= 1e-5 * np.abs(parts[-1]).sum()
    # The constant is what the network gives for a blank photo: the residual is its part of the score.
    assert np.allclose(bias, network.head(alpha[-1]), rtol=0, atol=1e-9 * np.abs(parts).sum())
    u, v = (networks.unit(network.head(a)) for a in alpha[:2])
    similarity = decompose.similarity_map(*(found[key][0] for key in ("parts", "embedding")), v)
    left = bias @ v / np.linalg.norm(network.head(alpha[0]))
    assert similarity.sum(dtype=np.float64) + left == pytest.approx(u @ v, abs=1e-4)


@pytest.mark.parametrize("name", BUILDS)
def test_a_blank_photo_has_no_parts(open_artifact: Callable[[str, str], Session], name: str) -> None:
    plain, session = open_artifact(name, "zero"), open_artifact(name, "blank")
    image = blank(session.contract.input, session.contract.input.height, session.contract.input.width)
    size = np.abs(parts_from_zero(plain, run_artifact(plain, image[None]))).max()
    assert size > 0
    found = run_artifact(session, np.stack([image, image]))
    assert np.abs(found["parts"]).max() <= 1e-6 * size
    assert session.contract.bias_vector is not None
    tolerance = 1e-5 * np.abs(found["embedding"]).max()
    assert np.abs(session.contract.bias_vector - found["embedding"][0]).max() <= tolerance


@pytest.mark.parametrize("reference", ["blank", "images"])
@pytest.mark.parametrize("name", ["max", "avg, affine", "weights", "flatten"])
def test_a_region_scores_what_its_map_adds_up_to(
    open_artifact: Callable[[str, str], Session], name: str, reference: str
) -> None:
    engine = Engine(open_artifact(name, reference).path, device="cpu")
    first, second = sorted(PHOTOS.glob("*.jpg"))[:2]
    pair = engine.compare(first, second)
    image, other = pair.images
    weights = np.random.default_rng(0).random(image.parts.shape[:2])
    query = decompose.region_query(image.parts, image.embedding, weights)
    expected = (weights * pair.maps[0].astype(np.float64)).sum()
    assert query @ decompose.unit(other.embedding) == pytest.approx(expected, abs=1e-5)
    for values, rest in zip(pair.maps, pair.residuals, strict=True):
        assert values.sum(dtype=np.float64) + rest == pytest.approx(pair.score, abs=1e-5)


@pytest.mark.parametrize("name", BUILDS)
def test_blank_is_the_default_where_each_place_has_weights(name: str, tmp_path: Path) -> None:
    source = write(BUILDS[name]().model, tmp_path)
    report = run_export(source, tmp_path / "out.onnx")
    assert report.contract.reference == ("blank" if name in PER_PLACE else "zero")
    assert any("--reference zero" in note for note in report.notes) == (name in PER_PLACE)
    asked = run_export(source, tmp_path / "asked.onnx", reference=report.contract.reference)
    assert asked.path.read_bytes() == report.path.read_bytes()
    assert not any("--reference zero" in note for note in asked.notes)


@pytest.mark.parametrize("pool", ["avg", "max"])
def test_a_torch_network_without_a_head_gets_parts(pool: str, tmp_path: Path) -> None:
    recipe = {"timm": "test_resnet", "pool": pool, "size": 64, "reference": "blank"}
    contract = export(load_recipe(None, recipe), tmp_path / "out.onnx").contract
    assert (contract.pooling, contract.head, contract.reference) == (pool, "affine", "blank")
    assert {"conv", "pooled", "parts - reference"} <= contract.parity.keys()


def test_each_reference_has_its_own_fingerprint(open_artifact: Callable[[str, str], Session]) -> None:
    contracts = [open_artifact("weights", kind).contract for kind in ("zero", "blank", "images")]
    assert len({c.fingerprint for c in contracts}) == 3
    assert "reference" not in contracts[0].source | contracts[1].source
    count = len(reference_images(contracts[2].input, "images"))
    assert contracts[2].source["reference"] == f"{SAMPLES.name}, {count} photos"


def without_biases() -> onnx.ModelProto:
    """A convolution without a bias: zero for an input of zero."""
    net = networks.Net()
    x = net.op("Relu", net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 1, 1))))
    return net.done(net.flat(net.op("GlobalAveragePool", x)))


def test_a_reference_of_zero_changes_no_graph(tmp_path: Path) -> None:
    flags = {"mean": [0.0] * 3, "std": [1.0] * 3, "reference": "blank"}
    report = run_export(write(without_biases(), tmp_path), tmp_path / "out.onnx", **flags)
    assert (report.contract.reference, report.contract.bias) == ("blank", None)
    assert not any(w.name == relative.REFERENCE for w in onnx.load(str(report.path)).graph.initializer)
    session = open_session(report.path, device="cpu")
    spec = session.contract.input
    assert not run_artifact(session, blank(spec, spec.height, spec.width)[None])["parts"].any()
    assert run_artifact(session, photos(session, 1))["parts"].any()


def test_dynamic_sizes_with_a_reference_are_refused_by_name(tmp_path: Path) -> None:
    source = write(networks.dynamic().model, tmp_path)
    with pytest.raises(ExportError, match=r"^reference: .* one size only; leave --dynamic out, or give"):
        run_export(source, tmp_path / "out.onnx", reference="blank", **networks.dynamic().flags)
    assert not (tmp_path / "out.onnx").exists()


def test_a_blank_photo_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    source = write(networks.fragile().model, tmp_path)
    flags = {"mean": [0.0] * 3, "std": [1.0] * 3, "reference": "blank"}
    with pytest.raises(ExportError, match=r"^reference: the parts of a blank photo have NaN"):
        run_export(source, tmp_path / "out.onnx", **flags)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("reference", ["", "blnk", "no/such/folder"])
def test_what_is_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"reference .*must be blank, zero or a folder of photos"):
        load_recipe(None, {"timm": "resnet18", "reference": reference})


def test_a_folder_without_photos_and_a_damaged_photo_are_refused(tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    source = write(networks.mobile_face().model, tmp_path)
    with pytest.raises(ConfigError, match="has no images"):
        run_export(source, tmp_path / "out.onnx", reference=str(tmp_path / "faces"))
    (tmp_path / "faces" / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(ImageError, match=r"a\.jpg"):
        run_export(source, tmp_path / "out.onnx", reference=str(tmp_path / "faces"))
    assert not (tmp_path / "out.onnx").exists()


def test_a_recipe_names_a_folder_beside_it(tmp_path: Path) -> None:
    write(networks.mobile_face().model, tmp_path)
    (tmp_path / "faces").mkdir()
    cv2.imwrite(str(tmp_path / "faces" / "a.png"), np.full((9, 9, 3), 7, np.uint8))
    recipe = tmp_path / "recipe.yaml"
    for written, expected in (("faces", str(tmp_path / "faces")), ("blank", "blank"), ("zero", "zero")):
        recipe.write_text(f"onnx: source.onnx\nreference: {written}\n")
        assert load_recipe(recipe, {}).reference == expected


@pytest.mark.parametrize("precision", ["fp16", "fp16-cuda"])
def test_the_reference_is_that_of_the_precision(precision: str, tmp_path: Path) -> None:
    source = write(networks.mobile_face(channels=40, dimension=64).model, tmp_path)
    report = run_export(source, tmp_path / "out.onnx", precision=precision)
    session = open_session(report.path, device="cpu", threads=1)
    assert report.contract.reference == "blank"
    spec = session.contract.input
    outputs = run_artifact(session, blank(spec, spec.height, spec.width)[None])
    plain = run_export(source, tmp_path / "plain.onnx", precision=precision, reference="zero")
    size = np.abs(run_artifact(open_session(plain.path, device="cpu"), photos(session, 1))["parts"]).max()
    assert np.abs(outputs["parts"]).max() <= 1e-6 * size


def draft_of(network: Network) -> Draft:
    """An artifact before the gate."""
    graph = Graph(network.model, name="tiny.onnx", size=None)
    exposure = analyse(graph)
    height, width = graph.size
    spec = InputSpec(height=height, width=width, mean=MEAN)
    return Draft(expose(graph, exposure, spec), map_graph(exposure, dynamic=False), exposure, spec, "fp32")


def test_the_gate_refuses_another_reference_or_embedding() -> None:
    plain = draft_of(networks.mobile_face())
    counted = relative.counted_from(plain, load_recipe(None, {"onnx": "tiny.onnx"}))
    gate.require(gate.check_reference(plain, counted))
    for name, failing in ((relative.REFERENCE, "parts - reference"), ("simmap/bias", "embedding, any")):
        weight = next(w for w in counted.model.graph.initializer if w.name == name)
        kept = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(kept * np.float32(1.01), name))
        failed = {c.name for c in gate.check_reference(plain, counted) if not c.passed}
        assert any(each.startswith(failing) for each in failed)
        weight.CopyFrom(numpy_helper.from_array(kept, name))
