"""What an ONNX source itself gives, image by image."""

from typing import Any

import numpy as np
import onnx
import pytest

import networks
from networks import Network
from simmap.engine.contract import InputSpec
from simmap.export.sources.reference import as_channels_first, normalise, onnx_reference
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.graph import Graph, plain_session


def test_a_photo_is_normalised_as_in_training() -> None:
    image = np.array([[[[0, 51, 255], [255, 0, 102]]]], dtype=np.uint8)  # (1, 1, 2, 3)
    spec = InputSpec(height=1, width=2, mean=(0.5, 0.1, 0.0), std=(0.5, 0.1, 2.0))
    np.testing.assert_allclose(
        normalise(image, spec), [[[[-1, 1]], [[1, -1]], [[0.5, 0.2]]]], rtol=1e-6, atol=1e-6
    )
    np.testing.assert_array_equal(as_channels_first(image), [[[[0, 255]], [[51, 0]], [[255, 102]]]])


@pytest.mark.parametrize(
    ("build", "scale"),
    [
        (networks.nhwc_input, 1),
        (networks.gate_pool, 1),
        (networks.patches, 1),
        (networks.two_outputs, 1),
        (networks.listed_weights, 1),
        (networks.summed, 36),
        (lambda: networks.bytes_input(nhwc=True), 1),
        (lambda: networks.tail("Reshape fixed", "Gemm", batch=1), 1),
    ],
)
def test_the_source_gives_its_map_its_pooled_feature_and_its_embedding(build: Any, scale: float) -> None:
    network: Network = build()
    graph = Graph(network.model, name="net", size=None)
    exposure = analyse(graph)
    assert exposure.pooled_scale == scale
    rng = np.random.default_rng(0)
    batch = rng.uniform(0, 255, size=(3, 3, *graph.size)).round().astype(np.float32)
    names = [exposure.conv, exposure.pooled, exposure.embedding]
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.output[:]
    for name in dict.fromkeys(names):
        model.graph.output.add(name=name)
    session = plain_session(model)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.input_type)
    rows = []
    for image in batch:
        feed = image.transpose(1, 2, 0) if graph.channels_last else image
        rows.append(session.run(names, {graph.input.name: feed[None].astype(dtype)}))
    conv, pooled, embedding = (np.concatenate(each) for each in zip(*rows, strict=True))
    conv = {"NHWC": np.moveaxis(conv, 3, 1) if conv.ndim == 4 else conv, "NCHW": conv}.get(
        exposure.layout, conv
    )
    if exposure.layout == "NLC":
        conv = conv.transpose(0, 2, 1).reshape(3, *exposure.shape)
    ours = {"conv": np.zeros((3, *exposure.shape)), "pooled": np.ones(1), "embedding": np.ones(2)}
    found = onnx_reference(graph, exposure)(batch, ours)
    assert found.keys() == (
        {"conv", "pooled", "embedding"} if exposure.tail is not None else {"conv", "pooled"}
    )
    assert all(pair[0] is ours[name] for name, pair in found.items())
    np.testing.assert_allclose(found["conv"][1], conv, rtol=1e-6)
    np.testing.assert_allclose(found["pooled"][1], pooled.reshape(3, -1) / scale, rtol=1e-5)
    if "embedding" in found:
        np.testing.assert_allclose(found["embedding"][1], embedding.reshape(3, -1), rtol=1e-6)


def test_at_another_size_the_map_alone_counts() -> None:
    network = networks.dynamic()
    graph = Graph(network.model, name="net", size=(16, 24))
    reference = onnx_reference(graph, analyse(graph))
    ours = {"conv": np.zeros(1), "pooled": np.zeros(1), "embedding": np.zeros(1)}
    for size, names in (
        ((16, 24), {"conv", "pooled", "embedding"}),
        ((24, 16), {"conv"}),
        ((16, 32), {"conv"}),
    ):
        assert reference(np.zeros((2, 3, *size), np.float32), ours).keys() == names
