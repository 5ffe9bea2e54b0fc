"""The attention branches of a pre-norm transformer's residual stream.

The last state of the tokens is a sum: the embedded patches, and one branch for each attention and each MLP.
For token k an attention branch is linear in its values:
``W_O concat_h(sum over t of a[h, k, t] V[h, t]) + b_O``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from simmap.engine.errors import ExportError
from simmap.engine.types import Array

from .graph import RESHAPES, Graph, attribute

_NOTATION = RESHAPES | {"Identity"}


@dataclass(frozen=True)
class Linear:
    """One linear step from the heads' concatenated values to the branch: a matrix (I, O) or a scale (C,).

    Attributes:
        tensor: name of the constant in the source's graph.
        is_transposed: the matrix is stored as (O, I).
        value: (I, O) or (C,) in float64.
        bias: (O,) in float64, added behind it.
    """

    tensor: str
    is_transposed: bool
    value: Array
    bias: Array

    def apply(self, x: Array) -> Array:
        """The step without its bias, on (..., I)."""
        return np.asarray(x * self.value if self.value.ndim == 1 else x @ self.value)


@dataclass(frozen=True)
class Block:
    """An attention branch.

    Attributes:
        branch: the tensor that is added to the stream, (N, T, C) or another notation of it.
        weights: the tensor a (N, heads, T, T), or (N heads, T, T).
        values: the tensor V (N, heads, T, d), or (N heads, T, d).
        heads, width: their number, and the features d of one.
        is_merged: the batch and the heads are one axis.
        steps: from the concatenated heads (N, T, heads d) to the branch.
    """

    branch: str
    weights: str
    values: str
    heads: int
    width: int
    is_merged: bool
    steps: tuple[Linear, ...]

    def apply(self, x: Array) -> Array:
        """The steps without their biases, on (..., heads d), in float64."""
        for step in self.steps:
            x = step.apply(x)
        return x

    def bias(self) -> Array:
        """What the biases of the steps add to every token: (C,)."""
        total: Array = np.zeros(self.heads * self.width)
        for step in self.steps:
            total = step.apply(total) + step.bias
        return total


@dataclass(frozen=True)
class Stream:
    """A residual stream.

    Attributes:
        start: the tensor of the embedded patches, before all blocks.
        branches: every other tensor of the sum, attention branches included.
        blocks: the attention branches, the first one first.
    """

    start: str
    branches: tuple[str, ...]
    blocks: tuple[Block, ...]


def find_stream(graph: Graph, state: str, tokens: int) -> Stream:
    """Take the residual stream that ends in ``state`` (N, T, C) apart.

    Raises:
        ExportError: it is no such sum; the message names the node.
    """
    size = int(np.prod(graph.shape(state)))
    root = _same_value(graph, state)
    if not _is_sum(graph, root, size):
        node = graph.producer.get(root)
        told = "the input" if node is None else f"node {graph.describe(node)}"
        raise ExportError(
            f"{graph.name}: the class token is read from {told}, which is no sum of residual branches; "
            "class-attention layers (CaiT, XCiT) and norms behind the residual sum (post-norm) cannot be "
            "decomposed, --pool avg takes the mean of the patch tokens instead"
        )
    sums, leaves = {root}, []
    pending = [root]
    while pending:
        node = graph.producer[pending.pop()]
        for name in graph.data_inputs(node):
            term = _same_value(graph, name)
            sums.update((name, term))
            if _is_sum(graph, term, size):
                pending.append(term)
            else:
                leaves.append(name)
    starts, branches, blocks = [], [], []
    for leaf in leaves:
        nodes, touches = _region(graph, leaf, sums - {leaf, _same_value(graph, leaf)})
        has_attention = any(node.op_type == "Softmax" or _is_fused(node) for node in nodes)
        if not touches and not has_attention:
            starts.append(leaf)
            continue
        branches.append(leaf)
        if has_attention:
            blocks.append(_match_block(graph, leaf, tokens))
    if len(starts) != 1 or not blocks:
        raise ExportError(
            f"{graph.name}: the sum {root!r} has {len(starts)} terms before any attention and {len(blocks)} "
            "attention branches, must have one and at least one: it is no transformer's residual stream"
        )
    at = {name: i for i, node in enumerate(graph.nodes) for name in node.output}
    blocks.sort(key=lambda block: at[block.branch])
    return Stream(starts[0], tuple(branches), tuple(blocks))


def _is_sum(graph: Graph, tensor: str, size: int) -> bool:
    node = graph.producer.get(tensor)
    return (
        node is not None
        and node.op_type in ("Add", "Sum")
        and len(graph.data_inputs(node)) == len(node.input) > 1
        and all(int(np.prod(graph.shape(name))) == size for name in node.input)
    )


def _same_value(graph: Graph, tensor: str) -> str:
    """The tensor behind changes of notation that keep the order of the numbers of one image."""
    while (node := graph.producer.get(tensor)) is not None and node.op_type in _NOTATION:
        source = str(node.input[0])
        if source not in graph.dynamic or (node.op_type == "Transpose" and not _keeps_order(graph, node)):
            break
        tensor = source
    return tensor


def _keeps_order(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a Transpose only moves axes of one entry, at batch 1."""
    shape = graph.shape(node.input[0])
    order = attribute(node, "perm", list(range(len(shape)))[::-1])
    moved = [axis for axis in order if shape[axis] > 1]
    return moved == sorted(moved)


def _region(graph: Graph, leaf: str, stops: Iterable[str]) -> tuple[list[onnx.NodeProto], bool]:
    """The nodes between a branch and the stream that it reads, and whether it reads the stream."""
    ends, nodes, touches = set(stops), [], False
    seen, pending = {leaf}, [leaf]
    while pending:
        node = graph.producer.get(pending.pop())
        if node is None:
            continue
        nodes.append(node)
        for name in graph.data_inputs(node):
            if name in ends:
                touches = True
            elif name not in seen:
                seen.add(name)
                pending.append(name)
    return nodes, touches


def _is_fused(node: onnx.NodeProto) -> bool:
    return node.op_type.endswith("Attention")


def _refuse(graph: Graph, node: onnx.NodeProto, why: str) -> ExportError:
    return ExportError(f"{graph.name}: node {graph.describe(node)} {why}, so the tokens' parts are unknown")


def _match_block(graph: Graph, leaf: str, tokens: int) -> Block:
    """The attention branch that gives ``leaf``."""
    backwards: list[onnx.NodeProto] = []
    tensor = leaf
    while True:
        node = graph.producer[tensor]
        inputs = graph.data_inputs(node)
        if node.op_type == "MatMul" and len(inputs) == 2:
            break
        if _is_fused(node):
            raise _refuse(
                graph, node, "hides its attention weights; export the network with attention unfused"
            )
        if node.op_type in ("LayerNormalization", "Sqrt", "ReduceMean"):
            raise _refuse(
                graph, node, "normalises an attention branch before it is added (a post-norm residual)"
            )
        if len(inputs) != 1 or node.op_type not in _NOTATION | {"Add", "Mul", "MatMul", "Gemm"}:
            raise _refuse(
                graph,
                node,
                "stands between attention and the residual sum and is not linear in each token (windows, "
                "merged tokens, a gate, class attention)",
            )
        backwards.append(node)
        tensor = inputs[0]
    weights, values = (str(name) for name in node.input)
    _check_weights(graph, node, tokens)
    heads, _, width = _heads(graph, values)
    # Where each number of the concatenated heads came from.
    order = np.arange(heads * tokens * width)
    expected = order.reshape(heads, tokens, width).transpose(1, 0, 2).reshape(-1)
    order = order.reshape(graph.shape(values))
    steps: list[Linear] = []
    for step in reversed(backwards):
        if step.op_type in _NOTATION:
            order = _rearranged(graph, step, order)
            continue
        if not (order.reshape(-1) == expected).all():
            raise _refuse(graph, step, "reads the heads in an order that mixes tokens")
        steps.append(_linear(graph, step, tokens))
        shape = graph.shape(step.output[0])
        expected = np.arange(int(np.prod(shape)))
        order = expected.reshape(shape)
    if not (order.reshape(-1) == expected).all():
        raise _refuse(graph, graph.producer[leaf], "adds the heads in an order that mixes tokens")
    is_merged = len(graph.shape(values)) == 3
    return Block(leaf, weights, values, heads, width, is_merged, tuple(_joined(steps)))


def _heads(graph: Graph, values: str) -> tuple[int, int, int]:
    shape = graph.shape(values)
    return int(np.prod(shape[:-2])), shape[-2], shape[-1]


def _check_weights(graph: Graph, product: onnx.NodeProto, tokens: int) -> None:
    """Refuse a product that is not (heads, T, T) softmax weights with (heads, T, d) values."""
    weights, values = (graph.shape(name) for name in product.input)
    fits = (
        len(weights) == len(values)
        and len(weights) in (3, 4)
        and weights[:-2] == values[:-2]
        and weights[-2:] == (tokens, tokens)
        and values[-2] == tokens
        and (len(weights) == 3 or weights[0] == 1)
    )
    if not fits:
        raise _refuse(
            graph,
            product,
            f"attends by weights {weights} to values {values}, not among all {tokens} tokens (windows, "
            "merged tokens or reduced keys)",
        )
    node = graph.producer.get(product.input[0])
    while node is not None and node.op_type != "Softmax":
        data = [name for name in graph.data_inputs(node) if graph.shape(name)[-2:] == (tokens, tokens)]
        passes = node.op_type in ("Identity", "Cast", "Dropout", "Reshape", "Squeeze", "Unsqueeze")
        if not passes or not data:
            raise _refuse(
                graph, node, "changes the attention weights behind their softmax (talking heads, a gate)"
            )
        node = graph.producer.get(data[0])
    rank = len(weights)
    if node is None or attribute(node, "axis", -1) % len(graph.shape(node.output[0])) != rank - 1:
        raise _refuse(graph, product, "has no softmax over the tokens as its weights")


def _rearranged(graph: Graph, node: onnx.NodeProto, order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """What a change of notation makes of an array, at batch 1."""
    if node.op_type == "Transpose":
        return order.transpose(attribute(node, "perm", list(range(order.ndim))[::-1]))
    return order.reshape(graph.shape(node.output[0]))


def _linear(graph: Graph, node: onnx.NodeProto, tokens: int) -> Linear:
    """One node as a linear step; a constant that is added has the scale 1."""
    data = graph.data_inputs(node)[0]
    shape = graph.shape(node.output[0])
    features = shape[-1]
    if int(np.prod(shape)) != tokens * features:
        raise _refuse(graph, node, "does not keep one row of features for each token")
    others = [str(name) for name in node.input if name and name != data]
    constants = [graph.constant(name) for name in others]
    value = constants[0] if constants else None
    if value is None or (node.op_type in ("MatMul", "Gemm") and node.input[0] != data):
        raise _refuse(graph, node, "has no constant weight")
    array = np.asarray(value, dtype=np.float64)
    zero: Array = np.zeros(features)
    if node.op_type in ("Add", "Mul"):
        if array.size not in (1, features) or array.shape[-1:] not in ((), (1,), (features,)):
            raise _refuse(graph, node, "scales or shifts tokens differently")
        vector = np.broadcast_to(array.reshape(-1), (features,))
        if node.op_type == "Add":
            return Linear("", False, np.ones(features), np.array(vector))
        return Linear(others[0], False, np.array(vector), zero)
    transposed = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
    if array.ndim != 2 or attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1:
        raise _refuse(graph, node, "is no plain matrix product")
    bias = constants[1] if len(constants) > 1 and constants[1] is not None else None
    if bias is not None:
        zero = np.broadcast_to(np.asarray(bias, np.float64) * attribute(node, "beta", 1.0), (1, features))[0]
    return Linear(others[0], transposed, array.T if transposed else array, zero)


def _joined(steps: list[Linear]) -> list[Linear]:
    """Constants that are added, as the bias of the step before."""
    joined: list[Linear] = []
    for step in steps:
        if step.tensor == "" and joined:
            before = joined.pop()
            step = Linear(before.tensor, before.is_transposed, before.value, before.bias + step.bias)
        joined.append(step)
    return joined
