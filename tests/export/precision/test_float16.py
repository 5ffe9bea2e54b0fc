"""float16 arithmetic: what is rounded, what stays float32, and what has too little range."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import networks
from checks import check_same, run_artifact, run_export, write
from common import Simmap, failed
from simmap.engine.errors import ExportError
from simmap.engine.runtime.session import open_session
from simmap.export.precision import float16
from simmap.export.surgery.graph import plain_session


@pytest.mark.parametrize("name", networks.EXPORTABLE)
def test_maps_sum_to_their_scores_and_follow_the_source(name: str, tmp_path: Path) -> None:
    network = networks.EXPORTABLE[name]()
    path = write(network.model, tmp_path)
    report = run_export(path, tmp_path / "half.onnx", precision="fp16-cuda", **network.flags)
    check_same(replace(network, half=True), open_session(report.path, device="cpu", threads=1))


def kinds(path: Path) -> tuple[dict[str, int], onnx.GraphProto]:
    """The element type of each tensor of an artifact, and its graph."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)), strict_mode=True)
    graph = model.graph
    values = [*graph.value_info, *graph.output, *graph.input]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}, graph


def test_the_network_is_float16_and_what_explains_it_float32(tmp_path: Path) -> None:
    network = networks.EXPORTABLE["catavgmax, Gemm"]()
    report = run_export(write(network.model, tmp_path), tmp_path / "half.onnx", precision="fp16-cuda")
    assert report.contract.precision == "fp16-cuda"
    types, graph = kinds(report.path)
    assert {types[output.name] for output in graph.output} == {TensorProto.FLOAT}
    assert types["image"] == TensorProto.UINT8
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert convolutions
    assert {types[name] for node in convolutions for name in [*node.input, *node.output]} == {
        TensorProto.FLOAT16
    }
    pools = [node for node in graph.node if node.op_type.startswith("Global")]
    assert pools
    assert {types[name] for node in pools for name in [*node.input, *node.output]} == {TensorProto.FLOAT}
    # The feature map is cast once, so that pooling and parts see the same numbers as the engine.
    assert [node.op_type for node in graph.node if "conv" in node.output] == ["Cast"]


def test_the_file_is_half_as_large_and_of_another_fingerprint(tmp_path: Path) -> None:
    path = write(networks.EXPORTABLE["ArcFace"]().model, tmp_path)
    reports = [
        run_export(path, tmp_path / f"{precision}.onnx", precision=precision)
        for precision in ("fp32", "fp16", "fp16-cuda")
    ]
    full, stored, computed = reports
    assert computed.size < 0.7 * full.size
    assert len({report.contract.fingerprint for report in (full, stored, computed)}) == 3


def small(*, first: float = 1.0, second: float = 1.0, opset: int = 17) -> onnx.ModelProto:
    """Two 1 x 1 convolutions, scaled by ``first`` and ``second``, and what bends between them."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": (rng.normal(size=(8, 3, 1, 1)) * first).astype(np.float32),
        "b1": (rng.normal(size=8) * first).astype(np.float32),
        "w2": (rng.normal(size=(6, 8, 1, 1)) * second).astype(np.float32),
        "b2": rng.normal(size=6).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["y"], name="one"),
        helper.make_node("Relu", ["y"], ["z"], name="bend"),
        helper.make_node("Conv", ["z", "w2", "b2"], ["a"], name="two"),
        helper.make_node("GlobalAveragePool", ["a"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
    ]
    if opset < 11:
        nodes[1] = helper.make_node("Clip", ["y"], ["z"], name="bend", min=0.0, max=6.0)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 6])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_rounding_is_that_of_float16_written_out(tmp_path: Path) -> None:
    # given a float32 artifact and its rounded form
    report = run_export(write(small(), tmp_path), tmp_path / "full.onnx")
    exact = onnx.load(str(report.path))
    image = np.random.default_rng(1).integers(0, 256, size=(1, 16, 16, 3), dtype=np.uint8)
    (found,) = plain_session(float16.rounded(exact)).run(["conv"], {"image": image})
    # when each step is rounded by hand, its sums being taken in float32 or better
    half = {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float16).astype(np.float64)
        for tensor in exact.graph.initializer
    }
    spec = report.contract.input
    x = ((image[0] / 255 - np.array(spec.mean)) / np.array(spec.std)).reshape(-1, 3)
    x = x.astype(np.float32).astype(np.float16).astype(np.float64)
    y = (x @ half["w1"][:, :, 0, 0].T + half["b1"]).astype(np.float16).astype(np.float64)
    a = (np.maximum(y, 0) @ half["w2"][:, :, 0, 0].T + half["b2"]).astype(np.float16)
    expected = a.T.reshape(1, 6, 16, 16).astype(np.float32)
    # then both agree, but for single last bits where the order of a sum decides
    assert (found == expected).mean() > 0.98
    assert np.abs(found - expected).max() <= 2**-10 * np.abs(expected).max()
    (full,) = plain_session(exact).run(["conv"], {"image": image})
    assert (full == expected).mean() < 0.1


def test_what_overflows_on_cuda_is_refused(tmp_path: Path) -> None:
    # given activations beyond 65504 that the next layer brings back
    path = write(small(first=1.5e4, second=1e-4), tmp_path)
    out = tmp_path / "half.onnx"
    # when float16 only stores the weights, nothing is lost
    assert run_export(path, tmp_path / "stored.onnx", precision="fp16").contract.precision == "fp16"
    # then float16 arithmetic is refused, although the CPU would not notice
    with pytest.raises(
        ExportError, match=r"rounded images .*use precision fp16 or fp32, nothing was written$"
    ):
        run_export(path, out, precision="fp16-cuda")
    assert not out.exists()
    with pytest.raises(ExportError, match="'w1' is too large for float16; use precision fp32"):
        run_export(write(small(first=1e6, second=1e-6), tmp_path), out, precision="fp16-cuda")
    assert not out.exists()


def test_old_opsets_are_raised_for_their_float16_kernels(tmp_path: Path) -> None:
    report = run_export(write(small(opset=9), tmp_path), tmp_path / "half.onnx", precision="fp16-cuda")
    (opset,) = onnx.load(str(report.path)).opset_import
    assert opset.version == 12
    session = open_session(report.path, device="cpu", threads=1)
    full = run_export(write(small(opset=9), tmp_path), tmp_path / "full.onnx")
    image = np.random.default_rng(1).integers(0, 256, size=(2, 16, 16, 3), dtype=np.uint8)
    ours = run_artifact(session, image)
    theirs = run_artifact(open_session(full.path, device="cpu", threads=1), image)
    assert np.abs(ours["conv"] - theirs["conv"]).max() < 5e-3 * np.abs(theirs["conv"]).max()


def test_the_command_line_says_how_near_it_is(simmap: Simmap, tmp_path: Path) -> None:
    path = write(small(), tmp_path)
    done = simmap("export", "--onnx", path, "--precision", "fp16-cuda", "-o", tmp_path / "half.onnx")
    assert done.returncode == 0, done.stderr
    assert "real, rounded" in done.stdout
    shown = simmap("inspect", tmp_path / "half.onnx")
    assert "fp16-cuda" in shown.stdout
    calibrated = simmap(
        "export",
        "--onnx",
        path,
        "--precision",
        "fp16-cuda",
        "--calibrate",
        tmp_path,
        "-o",
        tmp_path / "x.onnx",
    )
    failed(calibrated, "calibrate: is for precision int8 alone")
