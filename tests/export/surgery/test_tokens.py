"""Class tokens in a graph: what is refused, and by which node's name."""

import io
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_transformers import REFUSED, randomised, vit
from torch import nn

import networks
from checks import MEAN, STD, Array, close, photos, run_artifact, run_export, write
from networks import Net
from simmap.engine.errors import ExportError
from simmap.engine.runtime.session import open_session
from simmap.export.surgery.analysis import analyse
from simmap.export.surgery.graph import Graph
from simmap.export.surgery.patches import token_places


def graph_of(network: nn.Module, size: tuple[int, int] = (64, 64)) -> Graph:
    """A network as a plain graph."""
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    buffer = io.BytesIO()
    torch.onnx.export(network, (torch.zeros(1, 3, *size),), buffer, opset_version=17, dynamo=False)
    return Graph(onnx.load_from_string(buffer.getvalue()), name="net", size=size)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_decomposed_is_refused_by_its_node(kind: str) -> None:
    network, told = REFUSED[kind]
    with pytest.raises(ExportError, match=told):
        analyse(graph_of(randomised(network())))


@pytest.mark.parametrize(
    ("cells", "told"),
    [((2, 3), r"grid is 2x3; net has 3 x 4 patches"), ((6, 4), "columns that divide 4")],
)
def test_a_grid_must_divide_the_patches(cells: tuple[int, int], told: str) -> None:
    with pytest.raises(ExportError, match=told):
        analyse(graph_of(vit(), (48, 64)), cells=cells)


@dataclass(frozen=True)
class Written:
    """A transformer of one block, written node by node, and its weights."""

    model: onnx.ModelProto
    patch: Array
    first: Array
    order: Array
    query: Array
    value: Array
    out: Array | None
    gain: Array | None
    read: int


def written(*, order: list[int], merged: bool, projected: bool, normed: bool, seed: int) -> Written:
    """2 x 3 patches and a class token, in any order; two heads, with the batch or beside it."""
    net = Net((8, 12), seed=seed)
    patch, first = net.draw(8, 3, 4, 4), net.draw(1, 1, 8)
    query, value, out, gain = net.draw(8, 8), net.draw(8, 8), net.draw(8, 8), net.draw(8)
    x = net.op("Conv", net.inputs[0].name, net.store(patch), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 6)), perm=[0, 2, 1])
    x = net.op("Concat", net.store(first), x, axis=1)
    x = net.op("Gather", x, net.store(np.array(order, dtype=np.int64)), axis=1)

    def heads(weight: Array) -> str:
        split = net.op("Reshape", net.op("MatMul", x, net.store(weight)), net.ints(0, 7, 2, 4))
        split = net.op("Transpose", split, perm=[0, 2, 1, 3])
        return net.op("Reshape", split, net.ints(-1, 7, 4)) if merged else split

    last = [0, 2, 1] if merged else [0, 1, 3, 2]
    scores = net.op("MatMul", heads(query), net.op("Transpose", heads(query), perm=last))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), heads(value))
    y = net.op("Reshape", y, net.ints(-1, 2, 7, 4)) if merged else y
    y = net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3]), net.ints(0, 7, 8))
    y = net.op("MatMul", y, net.store(out)) if projected else y
    x = net.op("Add", x, y)
    if normed:
        x = net.op("LayerNormalization", x, net.store(gain), axis=-1)
    read = order.index(0)
    x = net.op("Gather", x, net.store(np.array(read, dtype=np.int64)), axis=1)
    return Written(
        net.done(x), patch, first, np.array(order), query, value,
        out if projected else None, gain if normed else None, read,
    )  # fmt: skip


def naive(net: Written, image: Array) -> Array:
    """(6, 8): what each patch adds, by rows of the grid, in float64."""
    patches = np.zeros((6, 8))
    for place in range(6):
        y, x = divmod(place, 3)
        patches[place] = np.einsum("ocij,cij->o", net.patch, image[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4])
    tokens = np.concatenate([net.first[0], patches])[net.order].astype(np.float64)
    effects = np.zeros((7, 8))
    for head in (slice(0, 4), slice(4, 8)):
        keys = tokens @ net.query[:, head]
        weights = np.exp(keys @ keys[net.read] - (keys @ keys[net.read]).max())
        effects[:, head] = (weights / weights.sum())[:, None] * (tokens @ net.value[:, head])
    effects = effects if net.out is None else effects @ net.out
    state = tokens[net.read] + effects.sum(axis=0)
    if net.gain is not None:
        centred = effects - effects.mean(axis=1, keepdims=True)
        effects = net.gain * centred / np.sqrt(state.var() + 1e-5)
    parts = np.zeros((6, 8))
    for at, token in enumerate(net.order):
        if token > 0:
            parts[token - 1] = effects[at]
    return parts


@settings(max_examples=12)
@given(
    order=st.permutations(range(7)),
    merged=st.booleans(),
    projected=st.booleans(),
    normed=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_parts_of_patches_in_any_order_lie_in_their_places(
    order: list[int], merged: bool, projected: bool, normed: bool, seed: int
) -> None:
    net = written(order=order, merged=merged, projected=projected, normed=normed, seed=seed)
    with TemporaryDirectory() as folder:
        report = run_export(write(net.model, Path(folder)), Path(folder) / "out.onnx")
        session = open_session(report.path, device="cpu")
    images = photos(session, 3, seed=seed)
    found = run_artifact(session, images)["parts"]
    normalised = ((images / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)
    for parts, image in zip(found, normalised, strict=True):
        close(parts.reshape(6, 8), naive(net, image), 2e-5)


def test_a_source_with_channels_last_gives_the_same_parts(tmp_path: Path) -> None:
    first, last = networks.class_token().model, networks.class_token().model
    name = last.graph.input[0].name
    photo = onnx.helper.make_tensor_value_info("photo", onnx.TensorProto.FLOAT, ["N", 8, 12, 3])
    last.graph.input[0].CopyFrom(photo)
    last.graph.node.insert(0, onnx.helper.make_node("Transpose", ["photo"], [name], perm=[0, 3, 1, 2]))
    found = []
    for at, model in enumerate((first, last)):
        report = run_export(write(model, tmp_path), tmp_path / f"{at}.onnx")
        session = open_session(report.path, device="cpu", threads=1)
        found.append(run_artifact(session, photos(session, 2)))
    for output in ("embedding", "parts"):
        close(found[1][output], found[0][output], 1e-6)


@pytest.mark.parametrize("by", ["a constant", "the shape of the photo", "the shape of the patches"])
def test_patches_behind_a_class_token_lie_in_their_places(by: str) -> None:
    net = Net((8, 12))
    image = net.inputs[0].name
    x = patches = net.op("Conv", image, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 6)), perm=[0, 2, 1])
    token = net.store(net.draw(1, 1, 8))
    if by != "a constant":
        shape = net.op("Shape", image if by == "the shape of the photo" else patches)
        count = net.op("Slice", shape, net.ints(0), net.ints(1))
        token = net.op("Expand", token, net.op("Concat", count, net.ints(1, 8), axis=0))
    x = net.op("Concat", token, x, axis=1)
    x = net.op("Add", net.op("Gather", x, net.ints(0, 6, 5, 4, 3, 2, 1), axis=1), net.store(net.draw(7, 8)))
    graph = Graph(net.done(x), name="net", size=None)
    places, grid = token_places(graph, x, 7)
    assert (places.tolist(), grid) == ([6, 5, 4, 3, 2, 1], (2, 3))


def test_tokens_that_are_mixed_or_made_of_no_patches_lie_on_no_grid() -> None:
    net = Net((8, 12))
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 6)), perm=[0, 2, 1])
    mixed = net.op("MatMul", net.store(net.draw(7, 6)), x)
    graph = Graph(net.done(mixed), name="net", size=None)
    with pytest.raises(ExportError, match=r"the 2 x 3 places of .* do not become one token each"):
        token_places(graph, mixed, 7)
    # Six places are not fewer than six tokens: one of these would be the class token.
    with pytest.raises(ExportError, match="no convolution gives the 6 tokens"):
        token_places(graph, x, 6)
