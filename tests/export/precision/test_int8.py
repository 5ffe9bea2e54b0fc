"""int8 artifacts: true figures, maps that sum to their score, integer kernels, and refusal of poor ones."""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import networks
from common import PHOTOS, Simmap
from simmap.engine import Engine
from simmap.engine.contract import InputSpec
from simmap.engine.errors import ConfigError, ExportError, ImageError
from simmap.engine.runtime.session import open_session
from simmap.export.exporter import Report, export
from simmap.export.precision import float16
from simmap.export.precision.calibration import best_range, patches, quantization_step
from simmap.export.precision.int8 import FLOAT_SHARES, candidates
from simmap.export.precision.layers import Layer, round_weights
from simmap.export.recipe import load_recipe
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.exposing import expose
from simmap.export.surgery.graph import Graph, plain_session

SIZE = 48
CLASSES = 5


def conv(
    rng: np.random.Generator, name: str, source: str, inputs: int, outputs: int, kernel: int = 1, **more: Any
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A convolution with drawn weights and bias, and a ReLU6 unless ``relu`` is false."""
    groups, relu = more.pop("group", 1), more.pop("relu", True)
    shape = (outputs, inputs // groups, kernel, kernel)
    weight = rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    weights = [
        numpy_helper.from_array(weight.astype(np.float32), f"{name}_w"),
        numpy_helper.from_array(rng.normal(size=outputs).astype(np.float32) * 0.1, f"{name}_b"),
    ]
    more.setdefault("pads", [kernel // 2] * 4)
    out = f"{name}_conv" if relu else name
    nodes = [helper.make_node("Conv", [source, f"{name}_w", f"{name}_b"], [out], group=groups, **more)]
    if relu:
        nodes.append(helper.make_node("Clip", [out, "zero", "six"], [name]))
    return nodes, weights


def inverted_residual(*, head: bool = False, gated: bool = False, opset: int = 17) -> onnx.ModelProto:
    """A small MobileNetV2: every way in which its layers are joined, 40,000 weights."""
    rng = np.random.default_rng(0)
    layers = [
        conv(rng, "stem", "input", 3, 16, 3, strides=[2, 2]),
        conv(rng, "first", "stem", 16, 16, 3, group=16),
        conv(rng, "narrow", "first", 16, 16, relu=False),
        conv(rng, "wide", "narrow", 16, 96),
        conv(rng, "deep", "wide", 96, 96, 3, group=96, dilations=[2, 2], pads=[2, 2, 2, 2]),
        conv(rng, "thin", "deep", 96, 16, relu=False),
        conv(rng, "next", "sum", 16, 96),
        conv(rng, "same", "next", 96, 96, 3, group=4, strides=[2, 2], auto_pad="SAME_UPPER", pads=None),
        conv(rng, "last", "same", 96, 64),
    ]
    nodes = [node for some, _ in layers for node in some]
    for node in nodes:
        kept = [a for a in node.attribute if not (a.name == "pads" and not a.ints)]
        del node.attribute[:]
        node.attribute.extend(kept)
    at = next(i for i, n in enumerate(nodes) if n.output[0] == "thin")
    nodes.insert(at + 1, helper.make_node("Add", ["thin", "narrow"], ["sum"]))
    nodes += [
        helper.make_node("GlobalAveragePool", ["last"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["y"]),
    ]
    weights = [w for _, some in layers for w in some]
    weights += [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))]
    dimension = 64
    if head:
        nodes.append(helper.make_node("Gemm", ["y", "head_w", "head_b"], ["z"], transB=1))
        weights.append(numpy_helper.from_array(rng.normal(size=(24, 64)).astype(np.float32), "head_w"))
        weights.append(numpy_helper.from_array(rng.normal(size=24).astype(np.float32), "head_b"))
        dimension = 24
    if gated:
        nodes.append(helper.make_node("HardSwish", ["y"], ["z"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("z" if head or gated else "y", TensorProto.FLOAT, ["N", dimension])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 photos of five classes: cuts of real photos, each class with a tint of its own."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    sources = [cv2.imread(str(path)) for path in sorted(PHOTOS.glob("*.jpg"))]
    for number in range(45):
        label = number % CLASSES
        pixels = sources[number % 2]
        y, x = (int(rng.integers(side - 120)) for side in pixels.shape[:2])
        tint = np.random.default_rng(label).uniform(0.4, 1.0, 3)
        cut = (pixels[y : y + 120, x : x + 120] * tint).astype(np.uint8)
        (folder / f"class_{label}").mkdir(exist_ok=True)
        assert cv2.imwrite(str(folder / f"class_{label}" / f"{number:02}.png"), cut)
    return folder


LENIENT = {
    "map_correlation": 0.9,
    "map_correlation_1st_percentile": 0.0,
    "same_nearest": 0.2,
    "rank_correlation": 0.5,
    "largest_map_difference": 1.0,
    "recall_at_1_loss": 1.0,
}


def run_export(source: onnx.ModelProto, output: Path, **flags: Any) -> Report:
    """Export a graph with known mean and std."""
    path = output.with_suffix(".source.onnx")
    onnx.save(source, str(path))
    try:
        given = {"onnx": str(path), "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], **flags}
        return export(load_recipe(None, given), output, force=True)
    finally:
        path.unlink()


def to_int8(source: onnx.ModelProto, output: Path, folder: Path, **fidelity: float) -> Report:
    """Export as int8."""
    required = {**LENIENT, **fidelity}
    return run_export(source, output, precision="int8", calibrate=str(folder), fidelity=required)


@pytest.fixture(
    scope="module", params=[{}, {"head": True}, {"gated": True}], ids=["no head", "affine head", "gated tail"]
)
def pair(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same network as float32 and as int8."""
    out = tmp_path_factory.mktemp("out")
    model = inverted_residual(**request.param)
    return run_export(model, out / "fp32.onnx"), to_int8(model, out / "int8.onnx", folder)


def same_network(report: Report) -> onnx.ModelProto:
    """The source of an artifact of ``pair``, built again."""
    head = report.contract.head
    return inverted_residual(head=head == "affine", gated=head == "gated")


def held_out(report: Report, folder: Path) -> list[Path]:
    """The photos that judged: the recipe's split, written out once more."""
    photos = sorted(folder.rglob("*.png"))
    order = np.random.default_rng(0).permutation(len(photos))
    assert report.contract.fidelity["calibration_images"] == len(photos) // 3
    return [photos[i] for i in sorted(order[len(photos) // 3 :])]


def naive(path: Path, photos: Sequence[Path]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Unit embeddings (n, D) and all maps (n, n, H, W) in float64."""
    images = list(Engine(path, device="cpu").embed(photos))
    embeddings = np.array([image.embedding for image in images], dtype=np.float64)
    lengths = np.linalg.norm(embeddings, axis=1)
    units = embeddings / lengths[:, None]
    parts = np.array([image.parts for image in images], dtype=np.float64)
    return units, np.einsum("iyxd,jd->ijyx", parts / lengths[:, None, None, None], units)


def test_figures_are_those_of_the_photos_that_were_held_out(pair: Any, folder: Path) -> None:
    _, small = pair
    photos = held_out(small, folder)
    figures = small.contract.fidelity
    assert figures["images"] == figures["pairs"] == len(photos)
    units, maps = zip(*(naive(report.path, photos) for report in pair), strict=True)
    nearest, scores = [], []
    for unit in units:
        score = unit @ unit.T
        scores.append(score.copy())
        np.fill_diagonal(score, -2)
        nearest.append(score.argmax(axis=1))
    assert figures["same_nearest"] == pytest.approx((nearest[0] == nearest[1]).mean())
    correlations, deviations = [], []
    for i, j in enumerate(nearest[0]):
        for a, b in ((i, j), (j, i)):
            one, two = (m[a, b].ravel() for m in maps)
            correlations.append(np.corrcoef(one, two)[0, 1])
            deviations.append(np.abs(one - two).max() / np.abs(one).max())
    assert figures["map_correlation"] == pytest.approx(np.median(correlations), abs=1e-5)
    assert figures["map_correlation_1st_percentile"] == pytest.approx(
        np.percentile(correlations, 1), abs=1e-5
    )
    assert figures["largest_map_difference"] == pytest.approx(max(deviations), abs=1e-5)
    assert figures["largest_score_difference"] == pytest.approx(np.abs(scores[0] - scores[1]).max(), abs=1e-5)
    labels = np.array([photo.parent.name for photo in photos])
    for name, found in zip(("recall_at_1_fp32", "recall_at_1"), nearest, strict=True):
        assert figures[name] == pytest.approx((labels[found] == labels).mean())
    assert 0.95 < figures["map_correlation"] < 1  # near, yet another network
    assert figures["required"] == LENIENT


def test_maps_sum_to_the_score_as_in_float32(pair: Any, folder: Path) -> None:
    _, small = pair
    photos = sorted(folder.rglob("*.png"))[:4]
    engine = Engine(small.path, device="cpu")
    for first, second in pairwise(photos):
        found = engine.compare(first, second)
        for values, rest in zip(found.maps, found.residuals, strict=True):
            assert abs(values.sum(dtype=np.float64) + rest - found.score) <= 1e-5
    assert small.contract.fidelity["other_completeness_error"] <= 1e-5


def test_weights_are_stored_as_int8_and_the_integer_kernels_run(pair: Any, tmp_path: Path) -> None:
    full, small = pair
    assert small.contract.precision == "int8"
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load(str(small.path)).graph.initializer}
    convolutions = {n: w for n, w in weights.items() if w.ndim == 4 and w.size > 3}
    in_float = sum(w.size for w in convolutions.values() if w.dtype == np.float32)
    in_int8 = sum(w.size for w in convolutions.values() if w.dtype == np.int8)
    assert in_int8 > 0.9 * (in_int8 + in_float) and in_float > 0  # the first layer stays
    assert small.size < full.size / 2
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(small.path), options, providers=["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(str(tmp_path / "optimised.onnx")).graph.node]
    assert kinds.count("QLinearConv") == sum(w.dtype == np.int8 for w in convolutions.values())


def test_the_same_photos_give_the_same_file(pair: Any, folder: Path, tmp_path: Path) -> None:
    _, small = pair
    again = to_int8(same_network(small), tmp_path / "int8.onnx", folder)
    one, two = (onnx.load(str(report.path)) for report in (small, again))
    assert one.graph == two.graph
    assert again.contract.fingerprint == small.contract.fingerprint


def test_each_precision_has_a_fingerprint_of_its_own(pair: Any, tmp_path: Path) -> None:
    full, small = pair
    half = run_export(same_network(small), tmp_path / "fp16.onnx", precision="fp16")
    assert len({report.contract.fingerprint for report in (full, half, small)}) == 3


@pytest.mark.parametrize(
    ("name", "bound"),
    [("map_correlation", 1.0), ("map_correlation_1st_percentile", 1.0), ("largest_map_difference", 0.0)],
)
def test_what_is_too_far_from_float32_is_refused_with_the_figure(
    name: str, bound: float, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "int8.onnx"
    output.write_bytes(b"what was there before")
    with pytest.raises(ExportError, match=rf"int8 is too far .*: {name} 0\.\d+ \(at .*nothing was written"):
        to_int8(inverted_residual(), output, folder, **{name: bound})
    assert output.read_bytes() == b"what was there before"
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]


def test_photos_without_labels_have_no_recall(folder: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, photo in enumerate(sorted(folder.rglob("*.png"))):
        (flat / f"{number}.png").write_bytes(photo.read_bytes())
    figures = to_int8(inverted_residual(), tmp_path / "int8.onnx", flat).contract.fidelity
    assert "recall_at_1" not in figures and figures["images"] == 30


def test_an_old_opset_is_raised(folder: Path, tmp_path: Path) -> None:
    report = to_int8(inverted_residual(opset=11), tmp_path / "int8.onnx", folder)
    assert report.contract.fidelity["map_correlation"] > 0.95


def test_the_engine_opens_it_without_torch_and_onnx(pair: Any, folder: Path) -> None:
    _, small = pair
    first, second = sorted(folder.rglob("*.png"))[:2]
    program = (
        "import sys\nfor name in ('torch', 'onnx', 'timm'): sys.modules[name] = None\n"
        "from simmap.engine import Engine\n"
        f"print(Engine({str(small.path)!r}, device='cpu').compare({str(first)!r}, {str(second)!r}).score)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(
        Engine(small.path, device="cpu").compare(first, second).score, abs=1e-5
    )


def test_inspect_shows_the_figures(pair: Any, simmap: Simmap) -> None:
    large, small = pair
    told = simmap("inspect", small.path).stdout
    assert "precision    int8" in told
    assert f"fidelity     map correlation {small.contract.fidelity['map_correlation']:.4g}" in told
    assert "fidelity" not in simmap("inspect", large.path).stdout


def test_photos_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for photo in sorted(folder.rglob("*.png"))[:29]:
        (few / photo.name).write_bytes(photo.read_bytes())
    with pytest.raises(ConfigError, match=r"few has 29 photos, int8 needs 30 or more"):
        to_int8(inverted_residual(), tmp_path / "int8.onnx", few)
    (few / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=re.escape("bad.png")):
        to_int8(inverted_residual(), tmp_path / "int8.onnx", few)
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"precision": "int8"}, "give --calibrate FOLDER"),
        ({"calibrate": "photos"}, "for precision int8 alone, precision is fp32"),
        ({"precision": "int8", "calibrate": "nowhere"}, "nowhere: is no folder of images"),
        ({"precision": "int8", "calibrate": "."}, "has no images"),
        (
            {"precision": "int8", "calibrate": ".", "fidelity": {"speed": 1}},
            "fidelity has the unknown key 'speed'",
        ),
        ({"fidelity": {"same_nearest": 95}}, "fidelity.same_nearest is 95"),
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_imported(
    recipe: dict[str, Any], told: str, tmp_path: Path, simmap: Simmap
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({"timm": "resnet18", **recipe}))
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_recipe(path, {})
    program = (
        "import sys\nfrom simmap.cli import main\n"
        f"code = main(['export', {str(path)!r}, '-o', 'x.onnx'])\n"
        "assert not {'torch', 'onnx', 'timm'} & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1 and told in done.stderr and done.stderr.count("\n") == 1


def test_a_recipe_finds_its_photos_beside_itself(folder: Path, tmp_path: Path) -> None:
    path = folder / "r.yaml"
    path.write_text("onnx: net.onnx\nprecision: int8\ncalibrate: .\nfidelity: {same_nearest: 0.5}\n")
    try:
        recipe = load_recipe(path, {})
    finally:
        path.unlink()
    calibration, judges = recipe.split_photos()
    assert (len(calibration), len(judges)) == (15, 30)
    assert not {item.path for item in calibration} & {item.path for item in judges}
    assert recipe.fidelity.same_nearest == 0.5 and recipe.fidelity.map_correlation == 0.99


def layer(weight: npt.NDArray[Any], groups: int = 1, **attributes: Any) -> Layer:
    """A layer without a graph around it."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=groups, **attributes)
    return Layer(node, "x", "y", weight, np.zeros(len(weight)), groups)


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.one_of(
        st.lists(st.integers(0, 2), min_size=4, max_size=4), st.sampled_from(["SAME_UPPER", "SAME_LOWER"])
    ),
    groups=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 9),
)
def test_patches_are_what_the_kernel_sees(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: Any,
    groups: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    padding = {"auto_pad": pads} if isinstance(pads, str) else {"pads": pads}
    if isinstance(pads, str):
        dilations = (1, 1)  # ONNX Runtime pads a dilated SAME otherwise than ONNX says
    attributes = {"strides": strides, "dilations": dilations, **padding}
    weight = rng.normal(size=(4, 4 // groups, *kernel)).astype(np.float32)
    value = rng.normal(size=(1, 4, 9, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], group=groups, **attributes)],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, value.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = plain_session(model).run(None, {"x": value})
    seen = patches(layer(weight, groups, **attributes), value[0], np.random.default_rng(0))
    found = np.einsum("gpk,gok->gop", seen, weight.reshape(groups, 4 // groups, -1)).reshape(4, -1)
    # All places of a small map are looked at, in an order of their own.
    assert found.shape[1] == expected[0, 0].size
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(expected[0].reshape(4, -1), axis=1), atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("groups", [1, 3])
def test_rounded_weights_keep_the_mean_output_and_lose_less_than_the_nearest(seed: int, groups: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, inputs, columns = 6, 16, 144  # over one block of columns
    weight = rng.normal(size=(groups * outputs, inputs, 3, 3))
    hidden = rng.normal(size=(groups, 600, 40)) @ rng.normal(size=(groups, 40, columns)) + rng.normal(
        size=columns
    )
    x = np.maximum(hidden, 0)
    built = layer(weight, groups)
    built.gram, built.mean = x.transpose(0, 2, 1) @ x / x.shape[1], x.mean(axis=1)
    levels, steps, bias = round_weights(built)
    assert levels.dtype == np.int8 and levels.shape == weight.shape
    flat = weight.reshape(groups, outputs, columns)
    exact = np.einsum("gok,gpk->gop", flat, x)

    def error(whole: npt.NDArray[Any], shift: npt.NDArray[Any]) -> npt.NDArray[Any]:
        back = whole.reshape(flat.shape) * steps.reshape(groups, outputs, 1).astype(np.float64)
        return np.einsum("gok,gpk->gop", back, x) + shift.reshape(groups, outputs, 1) - exact

    nearest = np.clip(np.rint(weight / steps[:, None, None, None]), -127, 127)
    ours = error(levels, bias)
    np.testing.assert_allclose(ours.mean(axis=2), 0, atol=1e-9 * np.abs(exact).max())
    assert np.square(ours).mean() < 0.5 * np.square(error(nearest, np.zeros(len(weight)))).mean()


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50).map(np.array),
    outlier=st.floats(0, 1000, width=32),
)
def test_a_range_costs_no_more_than_that_of_the_extremes(values: npt.NDArray[Any], outlier: float) -> None:
    values = np.append(values, outlier)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))

    def error(low: float, high: float) -> float:
        scale, zero = quantization_step(low, high)
        levels = np.clip(np.rint(values / scale) + zero, 0, 255)
        return float(np.square((levels - zero) * scale - values).mean())

    chosen = best_range(values, low, high)
    assert low <= chosen[0] <= 0 <= chosen[1] <= high
    assert error(*chosen) <= error(low, high)


@pytest.mark.parametrize("spread", [0.0, 1e-4, 1.0])
def test_inputs_that_hardly_vary_are_rounded_all_the_same(spread: float) -> None:
    rng = np.random.default_rng(0)
    x = (100 + spread * rng.normal(size=(1, 500, 200))).astype(np.float32)
    built = layer(rng.normal(size=(4, 200, 1, 1)))
    built.gram, built.mean = x.transpose(0, 2, 1) @ x / x.shape[1], x.mean(axis=1)
    levels, steps, bias = round_weights(built)
    back = levels.reshape(4, -1) * steps[:, None].astype(np.float64)
    mean = built.mean[0].astype(np.float64)
    exact = built.weight.reshape(4, -1) @ mean
    np.testing.assert_allclose(back @ mean + bias, exact, atol=1e-9 * np.abs(exact).max())


def test_more_layers_stay_in_float_where_few_are_not_enough(folder: Path, tmp_path: Path) -> None:
    # given what the fastest form reaches
    network = inverted_residual()
    fast = to_int8(network, tmp_path / "fast.onnx", folder)
    reached = fast.contract.fidelity
    assert 0 < reached["float_share"] <= FLOAT_SHARES[0] or counted(fast.path) == 1
    # when a little more is required
    bound = reached["map_correlation"] + 1e-4
    near = to_int8(network, tmp_path / "near.onnx", folder, map_correlation=bound)
    # then more layers are in float32, and the figures are those of the form that was written
    assert near.contract.fidelity["map_correlation"] >= bound
    assert near.contract.fidelity["float_share"] > reached["float_share"]
    assert counted(near.path) > counted(fast.path)
    full = run_export(network, tmp_path / "full.onnx")
    photos = held_out(near, folder)
    scores = [
        unit @ unit.T - 3 * np.eye(len(unit)) for unit, _ in (naive(r.path, photos) for r in (full, near))
    ]
    same = (scores[0].argmax(axis=1) == scores[1].argmax(axis=1)).mean()
    assert near.contract.fidelity["same_nearest"] == pytest.approx(same)


def test_the_first_layers_stay_in_float_up_to_a_share_of_the_multiplications(folder: Path) -> None:
    # given a layer of 3 x 8 products a place, and 19 of 8 x 8
    net = networks.Net()
    x = net.conv(net.inputs[0].name, 3, 8, kernel=1)
    for _ in range(19):
        x = net.conv(net.op("Relu", x), 8, 8, kernel=1)
    graph = Graph(net.done(net.flat(net.op("GlobalAveragePool", x))), name="net", size=None)
    spec = InputSpec(height=16, width=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    photos = sorted(folder.rglob("*.png"))[:2]
    found = list(candidates(expose(graph, analyse(graph), spec), spec, photos))
    # then at most 7, 14 and 28 % are in float: 1, 3 and 6 layers
    assert [share for share, _ in found] == pytest.approx([24 / 1240, 152 / 1240, 344 / 1240])
    for (_, model), count in zip(found, (1, 3, 6), strict=True):
        floats = {w.name for w in model.graph.initializer if w.data_type == TensorProto.FLOAT}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert [node.input[1] in floats for node in convolutions] == [True] * count + [False] * (20 - count)


def counted(path: Path) -> int:
    """Convolutions whose weights are float32."""
    graph = onnx.load(str(path)).graph
    floats = {w.name for w in graph.initializer if w.data_type == TensorProto.FLOAT}
    return sum(node.op_type == "Conv" and node.input[1] in floats for node in graph.node)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp16-cuda", "int8"])
def test_a_weight_per_place_a_bias_and_a_dense_layer_are_exact_in_every_precision(
    precision: str, folder: Path, tmp_path: Path
) -> None:
    # given a MobileFaceNet whose dense layer is large enough to be rounded
    model = networks.mobile_face(channels=40, dimension=64).model
    given = {"calibrate": str(folder), "fidelity": LENIENT} if precision == "int8" else {}
    # when it is exported
    report = run_export(model, tmp_path / "face.onnx", precision=precision, **given)
    # then parts and bias sum to the embedding that the stored graph gives
    session = open_session(report.path, device="cpu", threads=1)
    images = np.random.default_rng(1).integers(0, 256, size=(3, 14, 10, 3), dtype=np.uint8)
    embedding, parts = session.inference.run(["embedding", "parts"], {"image": images})
    total = parts.sum(axis=(1, 2), dtype=np.float64) + session.contract.bias_vector
    assert np.abs(total - embedding).max() <= 1e-5 * np.abs(embedding).max()


def test_an_int8_artifact_counts_its_parts_from_its_own_blank_photo(folder: Path, tmp_path: Path) -> None:
    # given int8 artifacts whose parts count from zero, from a blank photo and from photos
    model = networks.mobile_face(channels=40, dimension=64).model
    found = {}
    blank = np.full((1, 14, 10, 3), [round(255 * m) for m in (0.4, 0.5, 0.6)], dtype=np.uint8)
    for reference in ("zero", "blank", str(folder)):
        given = {"calibrate": str(folder), "fidelity": LENIENT, "reference": reference}
        report = run_export(model, tmp_path / "face.onnx", precision="int8", **given)
        session = open_session(report.path, device="cpu", threads=1)
        parts = session.inference.run(["parts"], {"image": blank})[0]
        found[reference] = (parts, session.contract.bias_vector)
    # then a blank photo has no parts of its own, and the constants differ by what was subtracted
    size = np.abs(found["zero"][0]).max()
    assert np.abs(found["blank"][0]).max() <= 1e-6 * size
    for reference in ("blank", str(folder)):
        subtracted = (found["zero"][0] - found[reference][0]).sum(axis=(0, 1, 2), dtype=np.float64)
        difference = found[reference][1] - found["zero"][1].astype(np.float64)
        assert np.abs(difference - subtracted).max() <= 1e-5 * size * parts.shape[1] * parts.shape[2]
        assert np.abs(subtracted).max() > 1e-3 * size


@pytest.mark.parametrize("form", ["stored", "computed"])
def test_a_float16_network_is_quantized_as_its_float32_self_is(
    form: str, folder: Path, tmp_path: Path
) -> None:
    # given the same network in float32 and in float16, whose weights agree
    full = inverted_residual()
    for weight in full.graph.initializer:
        if weight.data_type == TensorProto.FLOAT:
            value = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    half = onnx.ModelProto()
    half.CopyFrom(full)
    if form == "stored":
        float16.store(half)
    else:
        half = convert_float_to_float16(half, keep_io_types=True)
    # when both are quantized, then they keep the same layers in float and agree in all but rounding
    reports = [to_int8(model, tmp_path / f"{i}.onnx", folder) for i, model in enumerate((full, half))]
    assert reports[0].contract.fidelity["float_share"] == reports[1].contract.fidelity["float_share"]
    images = np.random.default_rng(1).integers(0, 256, size=(2, SIZE, SIZE, 3), dtype=np.uint8)
    one, other = (
        open_session(report.path, device="cpu", threads=1).inference.run(["pooled"], {"image": images})[0]
        for report in reports
    )
    assert np.abs(one - other).max() <= 0.05 * np.abs(one).max()


def test_too_few_convolutions_are_counted(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="this network has 1 convolutions, and 1 are such"):
        to_int8(single_convolution(), tmp_path / "small.onnx", folder)


def single_convolution() -> onnx.ModelProto:
    net = networks.Net((SIZE, SIZE))
    x = net.op("Relu", net.conv(net.inputs[0].name, 3, 8, strides=[4, 4]))
    return net.done(net.flat(net.op("GlobalAveragePool", x)))
