"""Which token of a transformer is its embedding, and the norm that it passes."""

from dataclasses import dataclass

import numpy as np
import onnx

from simmap.engine.types import Array

from .graph import RESHAPES, Graph, attribute, single_number
from .pools import reduced_axes

_DEFAULT_EPSILON = 1e-5


@dataclass(frozen=True)
class Norm:
    """A layer norm over the features: ``y = gain (x - mean(x)) / sqrt(var(x) + epsilon) + bias``.

    Attributes:
        input, output: the tensors x and y.
        gain, bias: (C,) in float64.
        epsilon: added to the variance.
    """

    input: str
    output: str
    gain: Array
    bias: Array
    epsilon: float


@dataclass(frozen=True)
class Readout:
    """The vector that is read from some tokens: the weighted sum of their normed states.

    Attributes:
        state: the tensor (N, T, C) of the tokens before the last norm.
        tokens: the indices of those that are read.
        weights: one for each of these.
        norm: the last norm; None where there is none.
        output: the tensor that is the vector.
    """

    state: str
    tokens: tuple[int, ...]
    weights: tuple[float, ...]
    norm: Norm | None
    output: str


def match_readout(graph: Graph, tensor: str) -> Readout | None:
    """The readout that gives ``tensor``, if it is one of a single token or a sum of some."""
    norm = match_norm(graph, tensor)
    if norm is not None:  # of the one token, picked before
        picked = _picked(graph, _vector(graph, norm.input))
        return None if picked is None else Readout(picked[0], (picked[1],), (1.0,), norm, tensor)
    node = graph.producer.get(tensor)
    picked = _picked(graph, tensor)
    if picked is not None:
        norm = match_norm(graph, picked[0])
        state = picked[0] if norm is None else norm.input
        return Readout(state, (picked[1],), (1.0,), norm, tensor)
    if node is None or node.op_type != "Add" or len(node.input) != 2:
        return None
    one, other = (match_readout(graph, str(name)) for name in node.input)
    if one is None or other is None or one.state != other.state:
        return None
    if (one.norm and one.norm.output) != (other.norm and other.norm.output):
        return None
    return Readout(one.state, one.tokens + other.tokens, one.weights + other.weights, one.norm, tensor)


def _vector(graph: Graph, tensor: str) -> str:
    """The tensor behind changes of notation of one token."""
    node = graph.producer.get(tensor)
    while node is not None and node.op_type in RESHAPES and node.input[0] in graph.dynamic:
        tensor = str(node.input[0])
        node = graph.producer.get(tensor)
    return tensor


def _picked(graph: Graph, tensor: str) -> tuple[str, int] | None:
    """The tokens (N, T, C) that one token is picked from, and its index."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type not in ("Gather", "Slice") or node.input[0] not in graph.dynamic:
        return None
    source = str(node.input[0])
    shape = graph.shape(source)
    if len(shape) != 3 or shape[0] != 1 or int(np.prod(graph.shape(tensor))) != shape[2] or shape[1] < 2:
        return None
    if node.op_type == "Gather":
        index = single_number(graph.constant(node.input[1]))
        axis = attribute(node, "axis", 0)
    else:
        given = [graph.constant(name) for name in node.input[1:]]
        index = single_number(given[0]) if given else None
        axes = given[2] if len(given) > 2 else None
        axis = None if axes is None else single_number(axes)
    if index is None or axis is None or axis % 3 != 1:
        return None
    whole = source
    while (before := graph.producer.get(whole)) is not None and before.op_type in ("Identity", "Slice"):
        if graph.shape(before.input[0]) != graph.shape(whole):
            break
        whole = str(before.input[0])  # a Slice that takes everything
    return whole, int(index) % shape[1]


def match_norm(graph: Graph, tensor: str) -> Norm | None:
    """The layer norm over the last axis that gives ``tensor``, in one node or written out."""
    node = graph.producer.get(tensor)
    if node is None:
        return None
    if node.op_type == "LayerNormalization":
        rank = len(graph.shape(node.input[0]))
        gain = graph.constant(node.input[1])
        if attribute(node, "axis", -1) % rank != rank - 1 or gain is None:
            return None
        bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        return _norm(
            str(node.input[0]), tensor, gain, bias, float(attribute(node, "epsilon", _DEFAULT_EPSILON))
        )
    return _match_written_out(graph, node)


def _norm(source: str, output: str, gain: Array, bias: Array | None, epsilon: float) -> Norm:
    size = gain.size
    shift = np.zeros(size) if bias is None else np.asarray(bias, dtype=np.float64).reshape(-1)
    return Norm(source, output, np.asarray(gain, dtype=np.float64).reshape(-1), shift, epsilon)


def _match_written_out(graph: Graph, last: onnx.NodeProto) -> Norm | None:
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gain + bias``, as opsets before 17 have it."""
    added = _constant_operand(graph, last, "Add")
    if added is None:
        return None
    scaled = _constant_operand(graph, graph.producer.get(added[0]), "Mul")
    if scaled is None:
        return None
    divided = graph.producer.get(scaled[0])
    if divided is None or divided.op_type != "Div":
        return None
    centred, root = (graph.producer.get(name) for name in divided.input)
    if centred is None or centred.op_type != "Sub" or root is None or root.op_type != "Sqrt":
        return None
    variance = _constant_operand(graph, graph.producer.get(root.input[0]), "Add")
    mean = graph.producer.get(centred.input[1])
    if variance is None or not _is_mean(graph, mean, str(centred.input[0])):
        return None
    epsilon = single_number(variance[1])
    spread = graph.producer.get(variance[0])
    square = graph.producer.get(spread.input[0]) if spread is not None else None
    if epsilon is None or square is None or not _is_mean(graph, spread, str(square.output[0])):
        return None
    is_power = square.op_type == "Pow" and single_number(graph.constant(square.input[1])) == 2
    is_product = square.op_type == "Mul" and square.input[0] == square.input[1]
    if not (is_power or is_product) or not _same_difference(graph, str(square.input[0]), centred):
        return None
    return _norm(str(centred.input[0]), str(last.output[0]), scaled[1], added[1], epsilon)


def _constant_operand(graph: Graph, node: onnx.NodeProto | None, op: str) -> tuple[str, Array] | None:
    """The image's and the constant operand of an elementwise node."""
    if node is None or node.op_type != op or len(graph.data_inputs(node)) != 1:
        return None
    data = graph.data_inputs(node)[0]
    constant = graph.constant(next(str(name) for name in node.input if name != data))
    return None if constant is None else (data, np.asarray(constant))


def _is_mean(graph: Graph, node: onnx.NodeProto | None, source: str) -> bool:
    if node is None or node.op_type != "ReduceMean" or node.input[0] != source:
        return False
    rank = len(graph.shape(source))
    return reduced_axes(graph, node, rank) == [rank - 1]


def _same_difference(graph: Graph, tensor: str, centred: onnx.NodeProto) -> bool:
    """Whether ``tensor`` is ``x - mean``; exporters write the difference once or twice."""
    node = graph.producer.get(tensor)
    if node is not None and node.op_type == "Cast":
        node = graph.producer.get(node.input[0])
    return node is not None and node.op_type == "Sub" and node.input[0] == centred.input[0]
