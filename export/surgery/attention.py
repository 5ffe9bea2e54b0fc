"""Attention pooling: a sum over places by weights that the image itself gives.

The weights are held, so each place adds its value vector times its weight, head by head. The value's bias is
inside. CLIP's pooling has one more token, the mean of all places: what it adds is shared evenly among them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simmap.engine.errors import ExportError

from .graph import ELEMENTWISE, RESHAPES, Graph, attribute
from .layout import Layout, is_channels_last, layout_of
from .pools import reduced_axes

_PROJECTION = RESHAPES | ELEMENTWISE | {"MatMul", "Gemm"}
_AROUND = RESHAPES | {"Where", "IsNaN"}  # what exporters put between Softmax and product


@dataclass(frozen=True, eq=False)
class Attention:
    """The product of attention weights and values.

    Attributes:
        conv, layout, shape: the feature map whose places are attended to, as in ``Exposure``.
        output: the product, (heads, queries, C / heads) at batch 1, whatever the axes before.
        weights, values: tensors (heads, queries, tokens) and (heads, tokens, C / heads) likewise.
        heads, queries, tokens, width: their axes; ``width`` is C / heads.
        has_mean: the first token is the mean of the others.
    """

    conv: str
    layout: Layout
    shape: tuple[int, int, int]
    output: str
    weights: str
    values: str
    heads: int
    queries: int
    tokens: int
    width: int
    has_mean: bool

    @property
    def size(self) -> int:
        """C, the features that are pooled."""
        return self.heads * self.width

    def mask(self, graph: Graph) -> npt.NDArray[np.bool_]:
        """Which numbers of ``output`` are those of the first query, the only one that is used."""
        mask = np.zeros((self.heads, self.queries, self.width), dtype=bool)
        mask[:, 0] = True
        return mask.reshape(graph.shape(self.output))


def match_attention(graph: Graph, tensor: str) -> Attention | None:
    """The attention pooling whose product gives ``tensor``, if one does."""
    node = graph.producer.get(tensor)
    if node is None or node.op_type != "MatMul" or any(i not in graph.dynamic for i in node.input):
        return None
    weights, values = (str(i) for i in node.input)
    first, second = graph.shape(weights), graph.shape(values)
    if len(first) < 3 or len(first) != len(second) or not _is_softmax(graph, weights):
        return None
    heads = int(np.prod(first[:-2]))
    if heads != int(np.prod(second[:-2])):
        return None
    queries, tokens, width = first[-2], first[-1], second[-1]
    has_mean = _has_mean_token(graph, values, tokens)
    found = _attended_map(graph, tensor, tokens - has_mean)
    if found is None:
        return None
    return Attention(*found, tensor, weights, values, heads, queries, tokens, width, has_mean)


def _is_softmax(graph: Graph, tensor: str) -> bool:
    """Whether a Softmax over the last axis gives the tensor."""
    while (node := graph.producer.get(tensor)) is not None and node.op_type in _AROUND:
        # Where(IsNaN(a), 0, a)
        dynamic = [i for i in node.input[-2:] if i in graph.dynamic]
        if not dynamic:
            return False
        tensor = dynamic[-1]
    if node is None or node.op_type != "Softmax":
        return False
    rank = len(graph.shape(tensor))
    return bool(attribute(node, "axis", -1) % rank == rank - 1)


def _has_mean_token(graph: Graph, values: str, tokens: int) -> bool:
    """Whether the values are those of all places and, in front, of their mean."""
    seen, pending = {values}, [values]
    while pending:
        node = graph.producer.get(pending.pop())
        if node is None:
            continue
        if node.op_type == "Concat" and len(node.input) == 2 and node.input[0] in graph.dynamic:
            before, after = (graph.shape(i) for i in node.input)
            axis = attribute(node, "axis", 0) % len(before)
            if (before[axis], after[axis]) == (1, tokens - 1):
                return _is_mean(graph, node.input[0], tokens - 1)
        for name in graph.data_inputs(node):
            if name not in seen:
                seen.add(name)
                pending.append(name)
    return False


def _is_mean(graph: Graph, tensor: str, places: int) -> bool:
    """Whether the tensor is an average over the places."""
    while (node := graph.producer.get(tensor)) is not None and node.op_type in RESHAPES:
        tensor = str(node.input[0])
    if node is None:
        return False
    if node.op_type == "GlobalAveragePool":
        return bool(np.prod(graph.shape(node.input[0])[2:]) == places)
    if node.op_type != "ReduceMean":
        return False
    shape = graph.shape(node.input[0])
    axes = reduced_axes(graph, node, len(shape)) or []
    return bool(np.prod([shape[a] for a in axes]) == places)


def _attended_map(graph: Graph, tensor: str, places: int) -> tuple[str, Layout, tuple[int, int, int]] | None:
    """The nearest tensor with one lane of channels for each place that every path to ``tensor`` crosses."""
    for name in graph.dominators(tensor)[1:]:
        shape = graph.shape(name)
        if name == graph.input.name or places < 2:
            return None
        try:
            if len(shape) == 4 and shape[0] == 1 and not is_channels_last(graph, name):
                if shape[2] * shape[3] == places:
                    return (name, *layout_of(graph, name, "NCHW"))
            elif len(shape) == 4 and shape[0] == 1 and shape[1] * shape[2] == places:
                return (name, *layout_of(graph, name, "NHWC"))
            elif len(shape) == 3 and shape[:2] == (1, places):
                name = _before_projection(graph, name)
                return (name, *layout_of(graph, name, "NLC"))
        except ExportError:  # so many tokens form no grid
            continue
    return None


def _before_projection(graph: Graph, tensor: str) -> str:
    """The tokens before the linear layer that makes keys and values of them."""
    places = graph.shape(tensor)[1]
    while (node := graph.producer.get(tensor)) is not None and node.op_type in _PROJECTION:
        inputs = graph.data_inputs(node)
        # Some exporters write (tokens, C) around a linear layer.
        before = tensor
        while len(inputs) == 1 and len(graph.shape(inputs[0])) == 2:
            node = graph.producer[inputs[0]]
            inputs = graph.data_inputs(node) if node.op_type in _PROJECTION else []
        if len(inputs) != 1 or graph.shape(inputs[0])[:2] != (1, places) or len(graph.shape(inputs[0])) != 3:
            return before
        tensor = inputs[0]
    return tensor
