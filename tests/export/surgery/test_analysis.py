"""Graph surgery: what is found in an ONNX graph, what is refused, and that artifacts compute the same."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import networks
from checks import Array, check_same, close, maps_of, photos, run_artifact, run_export, values_of, write
from networks import Net, Network
from simmap.engine.errors import ExportError
from simmap.engine.runtime.session import open_session
from simmap.export.exporter import export
from simmap.export.recipe import load_recipe
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.graph import Graph, load_onnx

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize("name", networks.EXPORTABLE)
def test_artifact_computes_what_its_source_computes(name: str, tmp_path: Path) -> None:
    network = networks.EXPORTABLE[name]()
    report = run_export(write(network.model, tmp_path), tmp_path / "out.onnx", **network.flags)
    session = open_session(report.path, device="cpu", threads=1)
    check_same(network, session)
    assert session.inference.get_inputs()[0].shape[0] == "N"


def test_truth_of_the_builders() -> None:
    # The heads written out in NumPy are what the graphs give, so that the comparison above means something.
    for name in ("ArcFace", "MobileFaceNet", "NHWC Flatten", "catavgmax, Gemm", "ReduceSum, Gemm", "GeM 3.0"):
        network = networks.EXPORTABLE[name]()
        dims = network.model.graph.input[0].type.tensor_type.shape.dim
        nhwc = dims[3].dim_value == 3
        size = [d.dim_value for d in (dims[1:3] if nhwc else dims[2:4])]
        images = np.random.default_rng(0).integers(0, 256, size=(2, *size, 3), dtype=np.uint8)
        alpha = maps_of(network, images, network.grid)
        output = values_of(network.model, network.model.graph.output[0].name, images)
        close(output, np.stack([network.head(a) for a in alpha]), 1e-5)


def test_dynamic_artifact_at_a_second_size(tmp_path: Path) -> None:
    network = networks.dynamic()
    report = run_export(write(network.model, tmp_path), tmp_path / "out.onnx", **network.flags)
    session = open_session(report.path, device="cpu", threads=1)
    assert session.contract.input.dynamic
    check_same(network, session, size=(40, 18))


@pytest.mark.parametrize("pool", ["avg", "gem", "avgmax", "catavgmax"])
def test_dynamic_sides_of_a_fixed_graph(pool: str, tmp_path: Path) -> None:
    network = networks.overridden(pool)
    report = run_export(write(network.model, tmp_path), tmp_path / "out.onnx", **network.flags, dynamic=True)
    check_same(network, open_session(report.path, device="cpu", threads=1), size=(22, 34))


def test_dynamic_artifact_of_a_fixed_window(tmp_path: Path) -> None:
    # At another size the source's own window is not the whole map and its Gemm does not fit; ours does.
    net = Net(free=True)
    x = net.trunk()
    y, weight, bias = net.gemm(net.flat(net.op("AveragePool", x, kernel_shape=[8, 8])), 8, 5)
    network = Network(
        net.done(y), x, "avg", lambda a: weight @ networks.average(a) + bias, networks.average, affine=True
    )
    flags = {"dynamic": True, "size": 16}
    report = run_export(write(network.model, tmp_path), tmp_path / "out.onnx", **flags)
    session = open_session(report.path, device="cpu", threads=1)
    check_same(network, session)
    check_same(network, session, size=(34, 20))


def test_notes_tell_of_choices(tmp_path: Path) -> None:
    def notes(network: Network) -> str:
        path = write(network.model, tmp_path)
        report = export(load_recipe(None, {"onnx": str(path)}), tmp_path / "out.onnx", force=True)
        return "\n".join(report.notes)

    assert "the classifier (Softmax 'node_softmax_" in notes(networks.classifier())
    assert "--embedding pooled takes the feature before it" in notes(networks.classifier(scores=None))
    assert "what is pooled is the class scores themselves" in notes(networks.score_pool())
    assert "a final L2 norm is left out" in notes(networks.normed("torch"))
    assert "mean and std are not known" in notes(networks.score_pool())
    net = Net(opset=13)
    x = net.trunk()
    network = Network(net.done(net.reduce("ReduceSum", x, [2, 3], keep=0)), x, "avg", networks.average, None)
    assert "the source's pooled feature is 64 times this one; cosines agree" in notes(network)
    # Half the sum of average and maximum is avgmax itself, and so is a sum times 1 / (H W) the average.
    assert "times this one" not in notes(networks.avgmax()) + notes(networks.written_mean())


@pytest.mark.parametrize("name", networks.refused())
def test_refused(name: str, tmp_path: Path) -> None:
    model, flags, told = networks.refused()[name]
    output = tmp_path / "out.onnx"
    with pytest.raises(ExportError, match=told) as error:
        run_export(write(model, tmp_path), output, **flags)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["source.onnx"]


def offers_of(message: str) -> list[dict[str, str]]:
    """The flags that an error offers, one set for each ``or``."""
    found = []
    for offer in message.partition("cut the embedding before it with ")[2].split(" or "):
        flags = dict(re.findall(r"--(\S+) '?([^' ]+)'?", offer))
        found.append({key.replace("-", "_"): value for key, value in flags.items()})
    return found


@pytest.mark.parametrize(("flatten", "nhwc"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("kind", ["Sigmoid", "Softmax", "larger", "bilinear", "grouped", "shrink"])
def test_offers_work_when_followed(kind: str, flatten: bool, nhwc: bool, tmp_path: Path) -> None:
    model, blocker = networks.bent(kind, flatten=flatten, nhwc=nhwc)
    path = write(model, tmp_path)
    with pytest.raises(
        ExportError,
        match=rf"node {blocker} 'node_{blocker.lower()}_\d+' .* is not linear",
    ) as error:
        run_export(path, tmp_path / "out.onnx")
    offers = offers_of(str(error.value))
    assert {tuple(o) for o in offers} == (
        {("embedding",), ("conv_layer", "pool")} if flatten else {("embedding",)}
    )
    dimensions = []
    for number, offer in enumerate(offers):
        report = run_export(path, tmp_path / f"{number}.onnx", **offer)
        contract = report.contract
        assert (contract.channels, contract.grid_height, contract.grid_width) == (8, 4, 4)
        dimensions.append(contract.dimension)
    assert dimensions == [6, 8]


def test_offer_right_behind_the_pool_is_one(tmp_path: Path) -> None:
    net = Net()
    x = net.trunk()
    out = net.op("Softplus", net.op("GlobalAveragePool", x), to="bent")
    with pytest.raises(ExportError, match=r"Softplus 'node_bent'") as error:
        run_export(write(net.done(net.flat(out)), tmp_path), tmp_path / "out.onnx")
    for number, offer in enumerate(offers_of(str(error.value))):
        report = run_export(tmp_path / "source.onnx", tmp_path / f"{number}.onnx", **offer)
        assert report.contract.head == "none"


def test_embedding_by_the_name_of_a_node(tmp_path: Path) -> None:
    model, _ = networks.bent("Sigmoid")
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    report = run_export(write(model, tmp_path), tmp_path / "out.onnx", embedding=gemm.name)
    assert report.contract.dimension == 6


def test_tail_that_pads_is_refused_by_name(tmp_path: Path) -> None:
    # A 3 x 3 convolution on the pooled 1 x 1 map: affine, but its weight is no matrix of the features.
    net = Net()
    y = net.conv(net.op("GlobalAveragePool", net.trunk()), 8, 5, to="padded")
    with pytest.raises(ExportError, match="node Conv 'node_padded'"):
        run_export(write(net.done(net.flat(y)), tmp_path), tmp_path / "out.onnx")


def test_norm_over_places_is_no_final_norm(tmp_path: Path) -> None:
    # Each feature over its own norm is a sign, not a direction: leaving it out would change the cosine.
    for kind in ("LpNormalization", "written out"):
        net = Net(opset=13)
        y = net.op("GlobalAveragePool", net.trunk())
        if kind == "LpNormalization":
            y = net.op(kind, y, axis=-1, p=2)
        else:
            y = net.op("Div", y, net.op("ReduceL2", y, axes=[2, 3], keepdims=1))
        with pytest.raises(ExportError, match="is not linear even with its gates held"):
            run_export(write(net.done(net.flat(y)), tmp_path), tmp_path / "out.onnx")


def test_ceiling_before_gem_stays_in_the_trunk(tmp_path: Path) -> None:
    net = Net()
    x = net.op("Clip", net.trunk(), net.store(1e-6), net.store(0.5), to="clipped")
    y = net.op("Pow", net.op("GlobalAveragePool", net.op("Pow", x, net.store(3.0))), net.store(1 / 3))
    network = Network(net.done(net.flat(y)), "clipped", "gem", _gem3, _gem3)
    report = run_export(write(network.model, tmp_path), tmp_path / "out.onnx")
    check_same(network, open_session(report.path, device="cpu", threads=1))


def _gem3(alpha: Array) -> Array:
    return (alpha**3).mean(axis=(1, 2)) ** (1 / 3)


def test_artifact_of_an_artifact(tmp_path: Path) -> None:
    network = networks.tail("Flatten", "Gemm")
    first = run_export(write(network.model, tmp_path), tmp_path / "first.onnx")
    second = run_export(first.path, tmp_path / "second.onnx", embedding="embedding")
    session, again = (open_session(r.path, device="cpu", threads=1) for r in (first, second))
    images = photos(session, 3)
    found, other = run_artifact(session, images), run_artifact(again, images)
    for output in ("conv", "pooled", "embedding", "parts"):
        close(other[output], found[output], 1e-6)


def test_class_token_beside_patches_that_are_pooled(tmp_path: Path) -> None:
    # The mean of the patch tokens without the class token, cut off by a Slice, is a sum over places.
    net = Net((16, 12))
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 12)), perm=[0, 2, 1])
    count = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1))
    token = net.op("Expand", net.store(net.draw(1, 1, 8)), net.op("Concat", count, net.ints(1, 8), axis=0))
    x = net.op("Concat", token, x, axis=1)
    mixed = net.op("Softmax", net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1])), axis=-1)
    x = net.op("Add", x, net.op("MatMul", mixed, x))
    conv = net.op("Slice", x, net.ints(1), net.ints(1000), net.ints(1))
    out = net.op("ReduceMean", conv, axes=[1], keepdims=0)
    network = Network(
        net.done(out), conv, "avg", networks.average, networks.average, layout="NLC", grid=(4, 3)
    )
    report = run_export(write(network.model, tmp_path), tmp_path / "out.onnx")
    check_same(network, open_session(report.path, device="cpu", threads=1))


def test_not_onnx(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no such model file"):
        run_export(tmp_path / "none.onnx", tmp_path / "out.onnx")
    for name, content in (("empty", b""), ("text", b"certainly not a model"), ("noise", bytes(range(256)))):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(ExportError, match=rf"{name}\.onnx: is not an ONNX model"):
            run_export(path, tmp_path / "out.onnx")


def test_old_opset_is_refused(tmp_path: Path) -> None:
    model = networks.pooled_only(opset=7).model
    model.opset_import[0].version = 6
    with pytest.raises(ExportError, match="opset 6; opsets from 7 on"):
        run_export(write(model, tmp_path), tmp_path / "out.onnx")


def test_fp16_weights(tmp_path: Path) -> None:
    net = Net()
    x = net.trunk(64)
    weight, bias = net.rng.normal(size=(32, 64)) / 8, net.rng.normal(size=32)  # not float16 numbers
    beta = net.flat(net.op("GlobalAveragePool", x))
    y = net.op("Gemm", beta, net.store(weight), net.store(bias), transB=1)
    path = write(net.done(y), tmp_path)
    full = run_export(path, tmp_path / "full.onnx")
    half = run_export(path, tmp_path / "half.onnx", precision="fp16")
    assert half.size < 0.7 * full.size
    assert half.contract.precision == "fp16" and half.contract.fingerprint != full.contract.fingerprint
    network = Network(
        net.done(y),
        x,
        "avg",
        lambda a: weight @ networks.average(a) + bias,
        networks.average,
        affine=True,
        half=True,
    )
    check_same(network, open_session(half.path, device="cpu", threads=1))


@settings(max_examples=20)
@given(
    data=st.data(),
    sides=st.tuples(st.integers(1, 7), st.integers(1, 7)).filter(lambda s: s[0] * s[1] > 1),
    pooling=st.sampled_from(["avg", "max", "gem", "weights", "flatten"]),
    seed=st.integers(0, 1000),
)
def test_random_heads(
    data: st.DataObject,
    sides: tuple[int, int],
    pooling: str,
    seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    channels = data.draw(st.integers(1, 6))
    net = Net((2 * sides[0], 2 * sides[1]), seed=seed)
    x = net.trunk(channels)
    places, exponent = net.draw(channels, 1, *sides), 2.0
    if pooling == "flatten":
        y = net.op("Flatten", x)
    elif pooling == "weights":
        y = net.flat(net.op("Conv", x, net.store(places), group=channels))
    elif pooling == "gem":
        y = net.op("Pow", net.op("Clip", x, net.store(1e-6)), net.store(exponent))
        y = net.flat(net.op("Pow", net.op("GlobalAveragePool", y), net.store(1 / exponent)))
    else:
        y = net.flat(net.op("GlobalAveragePool" if pooling == "avg" else "GlobalMaxPool", x))
    poolings: dict[str, networks.Head] = {
        "avg": networks.average,
        "max": networks.maximum,
        "gem": lambda a: np.sqrt((np.maximum(a, 1e-6) ** 2).mean(axis=(1, 2))),
        "weights": lambda a: (places[:, 0] * a).sum(axis=(1, 2)),
        "flatten": lambda a: a.reshape(-1),
    }
    size = channels * sides[0] * sides[1] if pooling == "flatten" else channels
    steps: list[networks.Head] = []
    kinds = ["Gemm", *data.draw(st.lists(st.sampled_from(["Gemm", "Norm", "Mul", "Add"]), max_size=3))]
    for kind in kinds:
        vector = net.draw(size)
        if kind == "Gemm":
            outside = data.draw(st.integers(2, 9))
            y, weight, bias = net.gemm(y, size, outside)
            steps.append(lambda v, w=weight, b=bias: w @ v + b)
            size = outside
        elif kind == "Norm":
            y, scale, shift = net.norm(y, size)
            steps.append(lambda v, s=scale, b=shift: s * v + b)
        elif kind == "Mul":
            y = net.op("Mul", y, net.store(vector))
            steps.append(lambda v, s=vector: v * s)
        else:
            y = net.op("Add", y, net.store(vector))
            steps.append(lambda v, s=vector: v + s)
    folder = tmp_path_factory.mktemp("random")
    model = net.done(y)

    def head(alpha: Array) -> Array:
        vector = poolings[pooling](alpha)
        for step in steps:
            vector = step(vector)
        return vector

    report = run_export(write(model, folder), folder / "out.onnx")
    session = open_session(report.path, device="cpu", threads=1)
    images = photos(session, 3, seed=seed)
    found = run_artifact(session, images)
    alpha = values_of(model, x, images)
    expected = np.stack([head(a) for a in alpha])
    assert np.abs(found["embedding"] - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    bias = 0 if report.contract.bias_vector is None else report.contract.bias_vector
    total = found["parts"].sum(axis=(1, 2), dtype=np.float64) + bias
    assert np.abs(total - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


LIGHT_EXPOSED = {
    "resnet50": ({}, "avg", "none", 2048, 2048, 7),
    "inception_v1": ({}, "avg", "none", 1024, 1024, 6),
    "inception_v2": ({}, "avg", "none", 1024, 1024, 7),
    "shufflenet": ({}, "avg", "none", 544, 544, 7),
    "densenet121": ({}, "avg", "affine", 1024, 1000, 7),
    "densenet121 pooled": ({"embedding": "pooled"}, "avg", "none", 1024, 1024, 7),
    "squeezenet": ({}, "avg", "none", 1000, 1000, 13),
}


@pytest.mark.parametrize("name", LIGHT_EXPOSED)
def test_light_graphs_exposed(name: str, tmp_path: Path) -> None:
    flags, pooling, head, channels, dimension, side = LIGHT_EXPOSED[name]
    path = LIGHT / f"light_{name.split()[0]}.onnx"
    report = run_export(path, tmp_path / "out.onnx", **flags)
    contract = report.contract
    assert (contract.pooling, contract.head) == (pooling, head)
    assert (contract.channels, contract.dimension) == (channels, dimension)
    assert (contract.grid_height, contract.grid_width) == (side, side)
    assert ("class scores themselves" in "".join(report.notes)) == (name == "squeezenet")
    session = open_session(report.path, device="cpu", threads=2)
    found = run_artifact(session, photos(session, 2))
    embedding = found["embedding" if head == "affine" else "pooled"]
    assert embedding.shape == (2, dimension)
    close(found["pooled"], found["conv"].mean(axis=(2, 3), dtype=np.float64), 1e-5)


@pytest.mark.parametrize(("name", "side"), [("vgg19", 7), ("bvlc_alexnet", 6), ("zfnet512", 6)])
def test_light_graphs_with_gates_between_dense_layers(name: str, side: int, tmp_path: Path) -> None:
    # Flatten, then Gemm and Relu twice: the classifier is left behind, the gates are kept.
    path = LIGHT / f"light_{name}.onnx"
    exposure = analyse(Graph(load_onnx(path), name=path.name, size=None))
    assert exposure.pooling == "flatten" and exposure.shape[1:] == (side, side)
    assert exposure.gated is not None and exposure.gated.dimension == (1024 if name == "zfnet512" else 4096)
    assert [s.rule for s in exposure.gated.steps if not s.is_linear] == ["gate", "gate"]
    if name == "bvlc_alexnet":
        report = run_export(path, tmp_path / "out.onnx")
        contract = report.contract
        assert (contract.head, contract.rest, contract.dimension) == ("gated", "image", 4096)
        report = run_export(path, tmp_path / "pool.onnx", conv_layer=exposure.conv, pool="avg")
        assert report.contract.dimension == report.contract.channels == 256
