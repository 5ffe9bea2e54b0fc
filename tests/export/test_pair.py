"""Pair graphs: one run of two photos equals the engine, for every pooling and head."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import networks
from checks import MEAN, STD, run_export, write
from common import ARTIFACTS, MODEL, PHOTOS
from simmap.engine import Engine
from simmap.engine.contract import CONTRACT_KEY, GRAPH_KEY, Contract, InputSpec
from simmap.engine.errors import ArtifactError, ExportError, PairGraphError
from simmap.engine.images.preprocess import preprocess
from simmap.engine.options import Options
from simmap.engine.pair import PairContract
from simmap.engine.runtime.fingerprint import fingerprint, graph_digest, read_stored
from simmap.engine.runtime.session import open_session, read_pair
from simmap.export.exporter import export
from simmap.export.pair import _checked, export_pair
from simmap.export.recipe import load_recipe
from simmap.export.surgery.pairing import pair_graph

Array = npt.NDArray[Any]
NAMES = sorted(path.stem for path in ARTIFACTS.glob("*.onnx"))
# Each has the same meaning and attributes in every opset from 7 on, or none that a pair graph uses.
STABLE = {
    "Add", "Cast", "Concat", "Div", "Gather", "GlobalAveragePool", "GlobalMaxPool", "Less", "MatMul", "Mul",
    "Not", "Pow", "Relu", "Reshape", "Shape", "Sqrt", "Sub", "Transpose",
}  # fmt: skip


def described(path: Path, **options: bool) -> PairContract:
    return PairContract(open_session(path, device="cpu").contract, **options)


def opened(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(session: onnxruntime.InferenceSession, a: Array, b: Array) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"a": a, "b": b}), strict=True))


@cache
def pair_of(name: str) -> onnxruntime.InferenceSession:
    """The pair graph of a small artifact, with points."""
    path = ARTIFACTS / f"{name}.onnx"
    return opened(pair_graph(onnx.load(str(path)), described(path, points=True)))


@cache
def outputs_of(name: str) -> tuple[onnxruntime.InferenceSession, Contract]:
    session = open_session(ARTIFACTS / f"{name}.onnx", device="cpu")
    return session.inference, session.contract


def alpha_hat(alpha: Array, contract: Contract) -> Array:
    """(H, W, C') of one feature map (C, H, W) as the table of the method has it, in float64."""
    double, places = alpha.astype(np.float64), alpha[0].size
    average = double / places
    wins = alpha == alpha.max(axis=(1, 2), keepdims=True)
    maximum = np.where(wins, double, 0) / wins.sum(axis=(1, 2), keepdims=True)
    if contract.pooling == "gem":
        assert contract.p is not None
        powers = np.maximum(double, contract.eps or 1e-6) ** contract.p
        beta = powers.mean(axis=(1, 2), keepdims=True) ** (1 / contract.p)
        hat = beta * powers / powers.sum(axis=(1, 2), keepdims=True)
    else:
        hats = {"avg": average, "max": maximum, "catavgmax": np.concatenate([average, maximum])}
        hat = hats[contract.pooling]
    return np.moveaxis(hat, 0, -1)


def naive(name: str, a: Array, b: Array) -> dict[str, Array]:
    """A pair by the definitions, in float64, from the artifact's own outputs for each photo."""
    inference, contract = outputs_of(name)
    embeddings, parts, rests = [], [], []
    for photo in (a, b):
        values = dict(
            zip(contract.outputs, inference.run(contract.outputs, {"image": photo[None]}), strict=True)
        )
        if contract.has_parts:
            embedding, part = values["embedding"][0].astype(np.float64), values["parts"][0].astype(np.float64)
        else:
            part = alpha_hat(values["conv"][0], contract)
            embedding = values["pooled"][0].astype(np.float64)
        bias = np.zeros(len(embedding)) if contract.bias_vector is None else contract.bias_vector
        rest = embedding - part.sum(axis=(0, 1)) if contract.rest == "image" else bias
        embeddings.append(embedding), parts.append(part), rests.append(rest)
    norms = [np.sqrt((e * e).sum()) for e in embeddings]
    scale = 1 / (norms[0] * norms[1]) if min(norms) > 0 else 0.0
    score = embeddings[0] @ embeddings[1] * scale
    result: dict[str, Array] = {"score": np.asarray(score)}
    for side, own, other in (("a", 0, 1), ("b", 1, 0)):
        result[f"map_{side}"] = parts[own] @ embeddings[other] * scale
        result[f"residual_{side}"] = np.asarray(rests[own] @ embeddings[other] * scale)
        alone = parts[own] @ embeddings[own] / norms[own] ** 2 if norms[own] > 0 else 0.0
        result[f"influence_{side}"] = result[f"map_{side}"] - score * alone
    rows = [part.reshape(-1, part.shape[2]) for part in parts]
    result["points"] = rows[0] @ rows[1].T * scale
    return result


def drawn(spec: InputSpec, count: int, seed: int, size: tuple[int, int] | None = None) -> tuple[Array, Array]:
    """Two batches of noise about a colour."""
    rng = np.random.default_rng(seed)
    height, width = size or (spec.height, spec.width)
    colours = rng.integers(0, 256, size=(2, count, 1, 1, 3))
    spread = int(rng.integers(1, 200))
    noise = rng.integers(-spread, spread + 1, size=(2, count, height, width, 3))
    a, b = (colours + noise).clip(0, 255).astype(np.uint8)
    return a, b


@pytest.mark.parametrize("name", NAMES)
@given(count=st.sampled_from([1, 3]), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=12)
def test_a_pair_is_what_the_definitions_give(name: str, count: int, seed: int) -> None:
    contract = outputs_of(name)[1]
    size = (24, 40) if contract.input.dynamic and seed % 2 else None
    a, b = drawn(contract.input, count, seed, size)
    values = run(pair_of(name), a, b)
    assert all(value.dtype == np.float32 for value in values.values())
    for at in range(count):
        expected = naive(name, a[at], b[at])
        assert set(values) == set(expected)
        for key, value in expected.items():
            assert values[key][at].shape == value.shape, key
            # A rest much larger than the embedding cancels: what is summed sets the scale.
            size_of_terms = max(1.0, float(np.abs(value).max()))
            assert np.abs(values[key][at] - value).max() <= 1e-5 * size_of_terms, key
        for side in "ab":
            total = values[f"map_{side}"][at].sum(dtype=np.float64) + values[f"residual_{side}"][at]
            assert abs(total - values["score"][at]) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_gives_the_same(name: str, tmp_path: Path) -> None:
    report = export_pair(ARTIFACTS / f"{name}.onnx", tmp_path / "pair.onnx", points=True)
    assert set(report.contract.parity) == set(report.contract.outputs)
    assert max(report.contract.parity.values()) <= 1e-5
    assert report.path.stat().st_size == report.size
    session = opened(onnx.load(str(report.path)))
    spec = report.contract.contract.input
    first, second = drawn(spec, 1, 5, (20, 24))
    a, b = (preprocess(photo[0], spec)[0][None] for photo in (first, second))
    with Engine(ARTIFACTS / f"{name}.onnx", device="cpu", options=Options(cache=False)) as engine:
        pair = engine.compare(first[0], second[0])
    values = run(session, a, b)
    assert values["score"][0] == pytest.approx(pair.score, abs=1e-5)
    assert np.abs(values["map_a"][0] - pair.maps[0]).max() <= 1e-5
    assert np.abs(values["influence_b"][0] - pair.influence[1]).max() <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_opset_is_the_artifacts_and_what_is_added_is_in_all(name: str) -> None:
    path = ARTIFACTS / f"{name}.onnx"
    artifact = onnx.load(str(path))
    pair = pair_graph(artifact, described(path, points=True))
    assert list(pair.opset_import) == list(artifact.opset_import)
    assert pair.ir_version == artifact.ir_version
    added = {node.op_type for node in pair.graph.node if node.name.startswith("simmap/")}
    assert added <= STABLE | ({"ReduceSum"} if outputs_of(name)[1].rest == "image" else set())


@pytest.mark.parametrize(
    "case",
    [
        "average, opset 7", "GeM, opset 7", "GeM, no floor", "ArcFace, opset 7", "avgmax, half the sum",
        "catavgmax, Gemm", "NHWC input", "patch tokens", "colliding names", "map called conv", "uint8 input",
        "channel shuffle, Constant shapes, our names", "If", "float16, Gemm", "overridden by gem",
    ],
)  # fmt: skip
def test_networks_of_many_forms_pass_the_gate(case: str, tmp_path: Path) -> None:
    network = networks.EXPORTABLE[case]()
    artifact = run_export(write(network.model, tmp_path), tmp_path / "net.onnx", **network.flags).path
    for photo in (False, True):
        report = export_pair(artifact, tmp_path / "pair.onnx", points=True, photo=photo, force=True)
        opset = next(o.version for o in onnx.load(str(artifact)).opset_import if o.domain == "")
        assert report.opset == (max(opset, 11) if photo else opset)


def test_the_patch_tokens_of_a_transformer_pass_the_gate(tmp_path: Path) -> None:
    recipe = {"module": "tiny_transformers:vit", "size": "48x64", "mean": list(MEAN), "std": list(STD)}
    artifact = export(load_recipe(None, recipe), tmp_path / "vit.onnx", trust=True)
    assert artifact.contract.pooling == "token"
    report = export_pair(artifact.path, tmp_path / "pair.onnx", points=True)
    assert max(report.contract.parity.values()) <= 1e-5


def test_a_tensor_of_the_network_may_have_any_name(tmp_path: Path) -> None:
    model = onnx.load(str(ARTIFACTS / "avg.onnx"))
    inner = [
        output for node in model.graph.node for output in node.output if output not in ("conv", "pooled")
    ]
    names = dict(
        zip(inner, ["a", "b", "score", "map_a", "points", "simmap/inverse", "network/a"], strict=False)
    )
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, metadata | {GRAPH_KEY: graph_digest(model.SerializeToString())})
    path = tmp_path / "renamed.onnx"
    onnx.save(model, str(path))
    export_pair(path, tmp_path / "pair.onnx", points=True)


def test_a_zero_embedding_gives_zeros() -> None:
    spec = outputs_of("fragile")[1].input
    noise = drawn(spec, 3, 0)[0]
    constant = np.full_like(noise, 90)
    assert (outputs_of("fragile")[0].run(["pooled"], {"image": constant})[0] == 0).all()
    mixed = np.stack([constant[0], noise[0], noise[1]])
    for a, b in ((constant, noise), (noise, constant), (constant, constant), (mixed, noise)):
        values = run(pair_of("fragile"), a, b)
        zero = [at for at in range(3) if (a[at] == 90).all() or (b[at] == 90).all()]
        for name, value in values.items():
            assert np.isfinite(value).all()
            assert (value[zero] == 0).all(), name
        assert (values["score"][[at for at in range(3) if at not in zero]] > 0).all()


def test_an_embedding_that_is_not_finite_spoils_its_own_pair_alone() -> None:
    noise = drawn(outputs_of("fragile")[1].input, 3, 0)[0]
    black = noise.copy()
    black[1] = 0
    for a, b in ((black, noise), (noise, black)):
        for name, value in run(pair_of("fragile"), a, b).items():
            assert np.isnan(value[1]).all(), name
            assert np.isfinite(value[[0, 2]]).all(), name


@pytest.mark.parametrize("rest", ["constant", "image"])
def test_a_zero_embedding_whose_parts_are_not_zero_gives_zeros(rest: str) -> None:
    """Parts of 1 that a rest of -4 cancels: nothing may be divided by zero."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["parts"]),
        helper.make_node("ReduceMean", ["zeros"], ["embedding"], axes=[1, 2], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "zero",
        [value("image", TensorProto.UINT8, ["N", 2, 2, 3])],
        [value("embedding", TensorProto.FLOAT, ["N", 3]), value("parts", TensorProto.FLOAT, ["N", 2, 2, 3])],
        [numpy_helper.from_array(np.float32(number), name) for number, name in ((0, "zero"), (1, "one"))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    contract = Contract(
        InputSpec(2, 2), "avg", "gated" if rest == "image" else "affine", 3, 3, 2, 2, "",
        bias=None if rest == "image" else "AACAwAAAgMAAAIDA", rest="image" if rest == "image" else "constant",
    )  # fmt: skip
    photo = np.full((1, 2, 2, 3), 200, np.uint8)
    for values in [run(opened(pair_graph(model, PairContract(contract, points=True))), photo, photo)]:
        for name, given_value in values.items():
            assert (given_value == 0).all(), name


@pytest.mark.parametrize(("name", "sizes"), [("avg", [(32, 32)]), ("dynamic", [(16, 24), (24, 40)])])
def test_unequal_batches_and_sizes_are_refused(name: str, sizes: Sequence[tuple[int, int]]) -> None:
    session = pair_of(name)
    one = np.zeros((1, *sizes[0], 3), np.uint8)
    wrong = [np.zeros((3, *sizes[0], 3), np.uint8), np.zeros((1, 2 * sizes[0][0], sizes[0][1], 3), np.uint8)]
    wrong += [np.zeros((1, *sizes[0][::-1], 3), np.uint8)] if name == "dynamic" else []
    for other in wrong:
        for a, b in ((one, other), (other, one)):
            with pytest.raises(Exception, match=r"(?i)concat|invalid dimensions|INVALID_ARGUMENT"):
                run(session, a, b)


def test_a_network_that_mixes_its_batch_fails_the_gate(tmp_path: Path) -> None:
    """The engine runs each photo alone; the pair graph has both in one batch."""
    model = onnx.load(str(ARTIFACTS / "avg.onnx"))
    (producer,) = (node for node in model.graph.node if "conv" in node.output)
    producer.output[list(producer.output).index("conv")] = "alone"
    at = list(model.graph.node).index(producer) + 1
    model.graph.node.insert(at, helper.make_node("ReduceMean", ["alone"], ["mean"], axes=[0], keepdims=1))
    model.graph.node.insert(at + 1, helper.make_node("Add", ["alone", "mean"], ["conv"]))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    contract = json.loads(metadata[CONTRACT_KEY])
    contract["fingerprint"] = fingerprint(read_stored(model.SerializeToString()), contract)
    metadata[GRAPH_KEY] = graph_digest(model.SerializeToString())
    onnx.helper.set_model_props(model, {**metadata, CONTRACT_KEY: json.dumps(contract)})
    path, output = tmp_path / "mixing.onnx", tmp_path / "pair.onnx"
    onnx.save(model, str(path))
    output.write_text("old")
    with pytest.raises(
        ExportError, match=r"differs from the engine on real photos: .*score by .*no pair graph was"
    ):
        export_pair(path, output, force=True)
    assert output.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mixing.onnx", "pair.onnx"]


@pytest.mark.parametrize("precision", ["fp16", "fp16-cuda", "int8"])
def test_every_precision_passes_the_gate(precision: str, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"precision": precision}
    if precision == "int8":
        rng = np.random.default_rng(0)
        (tmp_path / "photos").mkdir()
        for at in range(30):
            picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8), (64, 64))
            cv2.imwrite(str(tmp_path / "photos" / f"{at}.png"), picture)
        loose = {"map_correlation": 0.0, "map_correlation_1st_percentile": 0.0, "same_nearest": 0.0}
        loose |= {"rank_correlation": 0.0, "largest_map_difference": 1.0, "recall_at_1_loss": 1.0}
        flags |= {"calibrate": str(tmp_path / "photos"), "fidelity": loose}
    network = networks.classifier(scores=None, pool="GlobalMaxPool")
    artifact = run_export(write(network.model, tmp_path), tmp_path / "net.onnx", **flags).path
    report = export_pair(artifact, tmp_path / "pair.onnx", points=True)
    assert report.contract.contract.precision == precision
    assert max(report.contract.parity.values()) <= 1e-5


@cache
def resizing(policy: str, kernel: str, colour: str) -> onnxruntime.InferenceSession:
    """The pair graph, for photos, of a network whose parts are the prepared photo itself."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["parts"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["parts"], ["embedding"], axes=[1, 2], keepdims=0),
        ],
        "identity",
        [value("image", TensorProto.UINT8, ["N", 12, 20, 3])],
        [
            value("embedding", TensorProto.FLOAT, ["N", 3]),
            value("parts", TensorProto.FLOAT, ["N", 12, 20, 3]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=8)
    contract = Contract(_spec(policy, kernel, colour), "avg", "affine", 3, 3, 12, 20, "")
    pair = pair_graph(model, PairContract(contract, photo=True))
    pair.graph.output.append(value("network/parts", TensorProto.FLOAT, None))
    return opened(pair)


def _spec(policy: Any, kernel: Any, colour: Any) -> InputSpec:
    return InputSpec(12, 20, resize=policy, kernel=kernel, colour=colour, crop_fraction=0.8)


@pytest.mark.parametrize("policy", ["squash", "crop", "letterbox"])
@pytest.mark.parametrize("kernel", ["area", "linear", "cubic"])
@given(
    sides=st.tuples(*[st.integers(4, 90)] * 4),
    seed=st.integers(0, 2**32 - 1),
    colour=st.sampled_from(["rgb", "bgr"]),
)
@settings(max_examples=25)
def test_photos_are_resized_as_the_engine_does(
    policy: str, kernel: str, sides: tuple[int, int, int, int], seed: int, colour: str
) -> None:
    rng = np.random.default_rng(seed)
    spec = _spec(policy, kernel, colour)
    photos = []
    for height, width in (sides[:2], sides[2:]):
        # ``crop`` first cuts what lies far beyond it, which the graph does not.
        width = min(max(width, height), 4 * height) if policy == "crop" else width
        photos.append(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    turn = slice(None, None, -1 if colour == "bgr" else None)
    feed = {name: photo[None][..., turn] for name, photo in zip("ab", photos, strict=True)}
    (resized,) = resizing(policy, kernel, colour).run(["network/parts"], feed)
    for ours, photo in zip(resized, photos, strict=True):
        expected = preprocess(photo, spec)[0].astype(np.float64)
        assert np.abs(ours - expected).max() <= 2  # two roundings of OpenCV's where one side grows


def test_photos_of_two_sizes_go_in_as_they_are(tmp_path: Path) -> None:
    output = export_pair(MODEL, tmp_path / "pair.onnx", photo=True).path
    first, second = (cv2.imread(str(path))[..., ::-1] for path in sorted(PHOTOS.glob("*.jpg")))
    second = np.ascontiguousarray(second[20:330, 40:600])
    with Engine(MODEL, device="cpu", options=Options(cache=False)) as engine:
        pair = engine.compare(first, second)
    values = run(opened(onnx.load(str(output))), first[None], second[None])
    assert values["score"][0] == pytest.approx(pair.score, abs=2e-3)
    for side, expected in zip("ab", pair.maps, strict=True):
        assert np.corrcoef(values[f"map_{side}"].ravel(), expected.ravel())[0, 1] > 0.9999


def test_a_pair_graph_says_what_it_is(tmp_path: Path) -> None:
    output = export_pair(ARTIFACTS / "gated.onnx", tmp_path / "pair.onnx", points=True).path
    assert (
        read_pair(output) == export_pair(ARTIFACTS / "gated.onnx", output, points=True, force=True).contract
    )
    assert read_pair(output).contract == open_session(ARTIFACTS / "gated.onnx", device="cpu").contract
    for open_it in (lambda: Engine(output), lambda: export_pair(output, tmp_path / "again.onnx")):
        with pytest.raises(
            PairGraphError, match=r"pair\.onnx: is a pair graph, .* give the artifact that it"
        ):
            open_it()
    with pytest.raises(ArtifactError, match=r"simmap\.pair is not valid"):
        read_pair(ARTIFACTS / "gated.onnx")


def test_the_committed_pair_graph_is_what_is_made(tmp_path: Path) -> None:
    committed = ARTIFACTS / "pair" / "affine_bias.onnx"
    made = export_pair(ARTIFACTS / "affine_bias.onnx", tmp_path / "pair.onnx", points=True)
    assert replace(read_pair(committed), parity={}) == replace(made.contract, parity={})
    a, b = drawn(made.contract.contract.input, 2, 3)
    old, new = (run(opened(onnx.load(str(path))), a, b) for path in (committed, made.path))
    for name, value in new.items():
        assert np.abs(value - old[name]).max() <= 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not valid"),
        ("{", "is not valid"),
        ('{"schema": 2}', "has schema 2, this simmap reads 1; upgrade"),
        ('{"schema": 1}', "points is missing"),
        ('{"schema": 1, "points": 1}', r"points is 1 \(int\), must be true or false"),
    ],
)
def test_a_damaged_description_is_named(text: str, message: str, tmp_path: Path) -> None:
    output = export_pair(ARTIFACTS / "avg.onnx", tmp_path / "pair.onnx").path
    model = onnx.load(str(output))
    helper.set_model_props(model, {"simmap.pair": text})
    onnx.save(model, str(output))
    with pytest.raises(ArtifactError, match=message):
        read_pair(output)


def test_no_torch_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['timm'] = None\n"
        "from simmap.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["pair", str(ARTIFACTS / "avg.onnx"), "-o", str(tmp_path / "pair.onnx")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pair.onnx").exists()


def test_what_is_compared_leaves_no_graph_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("SIMMAP_CACHE", str(cache))
    export_pair(ARTIFACTS / f"{NAMES[0]}.onnx", tmp_path / "pair.onnx")
    assert not cache.exists()


@pytest.mark.parametrize(
    ("photo", "shift", "passes"), [(True, 1e-3, True), (True, 1e-2, False), (False, 1e-3, False)]
)
def test_a_score_that_is_off_is_refused_by_its_figure(photo: bool, shift: float, passes: bool) -> None:
    # given a pair graph whose score is a little too large; resizing in the graph may cost some of that
    path = ARTIFACTS / f"{NAMES[0]}.onnx"
    described_as = described(path, photo=photo)
    graph = pair_graph(onnx.load(str(path)), described_as)
    for node in graph.graph.node:
        node.output[:] = ["exact" if name == "score" else name for name in node.output]
        node.input[:] = ["exact" if name == "score" else name for name in node.input]
    graph.graph.node.append(helper.make_node("Add", ["exact", "shift"], ["score"]))
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(shift), "shift"))
    if passes:
        worst = _checked(graph, described_as, path)
        assert 0.5 * shift < worst["score"] < 2 * shift
    else:
        with pytest.raises(ExportError, match=r"score by 0\.\d+; at most \S+ is allowed; no pair graph"):
            _checked(graph, described_as, path)


@pytest.mark.parametrize("opset", [12, 13])
def test_a_rest_that_depends_on_the_image_in_both_forms_of_a_sum(opset: int, tmp_path: Path) -> None:
    net = networks.Net(opset=opset)
    y, _, _ = net.gemm(net.flat(net.op("GlobalAveragePool", net.trunk())), 8, 8)
    y, _, _ = net.gemm(net.op("LeakyRelu", y, alpha=0.3), 8, 8)
    report = run_export(write(net.done(y), tmp_path), tmp_path / "out.onnx")
    assert report.contract.rest == "image"
    assert export_pair(report.path, tmp_path / "pair.onnx").opset == opset


@pytest.mark.parametrize("head", [False, True])
def test_free_sides_pass_the_gate_at_a_second_size(head: bool, tmp_path: Path) -> None:
    network = networks.tail("Flatten", "Gemm") if head else networks.pooled_only()
    report = run_export(write(network.model, tmp_path), tmp_path / "out.onnx", dynamic=True)
    pair = export_pair(report.path, tmp_path / "pair.onnx", points=True)
    graph = onnx.load(str(pair.path)).graph
    shapes = {o.name: [d.dim_param for d in o.type.tensor_type.shape.dim] for o in graph.output}
    assert shapes["map_a"] == shapes["influence_b"] == ["N", "H", "W"]
    assert (shapes["score"], shapes["points"]) == (["N"], ["N", "HW", "HW"])


def test_the_shapes_of_a_fixed_pair_graph_are_told() -> None:
    path = ARTIFACTS / f"{NAMES[0]}.onnx"
    contract = open_session(path, device="cpu").contract
    graph = pair_graph(onnx.load(str(path)), described(path, points=True)).graph
    shapes = {
        o.name: [d.dim_value or d.dim_param for d in o.type.tensor_type.shape.dim]
        for o in [*graph.input, *graph.output]
    }
    height, width = contract.grid_height, contract.grid_width
    for side in "ab":
        assert shapes[side] == ["N", contract.input.height, contract.input.width, 3]
        assert shapes[f"map_{side}"] == shapes[f"influence_{side}"] == ["N", height, width]
        assert shapes[f"residual_{side}"] == ["N"]
    assert shapes["score"] == ["N"] and shapes["points"] == ["N", height * width, height * width]


@pytest.mark.parametrize(("words", "told"), [("why\nnot", r"\(why"), ("", r"\(ValueError\)")])
def test_what_makes_no_pair_graph_is_told_with_its_reason(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(words)

    monkeypatch.setattr("simmap.export.pair.pair_graph", fail)
    with pytest.raises(ExportError, match=rf"no pair graph can be made of it {told}.*export it again"):
        export_pair(ARTIFACTS / f"{NAMES[0]}.onnx", tmp_path / "pair.onnx")
