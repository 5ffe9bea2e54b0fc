"""The affine way from the pooled feature to the embedding."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from simmap.engine.errors import ExportError
from simmap.engine.types import Array

from .graph import ELEMENTWISE, RESHAPES, Graph, attribute


@dataclass(frozen=True)
class Affine:
    """``e = matrix f + bias``; a one-dimensional ``matrix`` (F,) is a diagonal.

    In float64, but for a single dense matrix, which keeps the source's float32.
    """

    matrix: Array
    bias: Array

    @property
    def dimension(self) -> int:
        """D, the size of e."""
        return int(self.bias.size)

    def applied(self, feature: Array) -> Array:
        """``matrix f`` (D,), without the bias."""
        return self.matrix * feature if self.matrix.ndim == 1 else self.matrix @ feature

    def then(self, matrix: Array, bias: Array) -> "Affine":
        """Follow this map by another one, diagonal (F,) or dense (D, F)."""
        scaled: Array
        if matrix.ndim == 1:
            scaled = matrix * self.matrix if self.matrix.ndim == 1 else matrix[:, None] * self.matrix
            return Affine(scaled, matrix * self.bias + bias)
        # Heads of flattened maps are large: no copy is made that is not needed.
        if self.matrix.ndim == 2:
            scaled = matrix.astype(np.float64) @ self.matrix
        else:
            scaled = matrix if (self.matrix == 1).all() else matrix * self.matrix
        return Affine(scaled, matrix @ self.bias + bias if self.bias.any() else bias)


def affine_tail(graph: Graph, start: str, target: str, size: int) -> Affine | None:
    """The affine map from ``start``, a vector of ``size`` features, to ``target``; None if they are one."""
    chain: list[onnx.NodeProto] = []
    tensor = target
    while tensor != start:
        node = graph.producer[tensor]
        chain.append(node)
        tensor = graph.data_inputs(node)[0]
    state = Affine(np.ones(size), np.zeros(size))
    for node in reversed(chain):
        after = int(np.prod(graph.shape(node.output[0])))
        matrix: Array = np.ones(state.dimension)
        bias: Array = np.zeros(state.dimension)
        if node.op_type not in RESHAPES:
            matrix, bias = node_as_affine(graph, node, state.dimension)
        if matrix.shape[-1] != state.dimension or len(matrix) != after or len(bias) != after:
            raise ExportError(
                f"{graph.name}: node {graph.describe(node)} mixes places and features; name the feature map "
                "with --conv-layer"
            )
        if node.op_type not in RESHAPES:
            state = state.then(matrix, bias)
    only_notation = all(n.op_type in RESHAPES for n in chain)
    return None if only_notation else state


def node_as_affine(graph: Graph, node: onnx.NodeProto, size: int) -> tuple[Array, Array]:
    """One node behind the pooling as ``matrix x + bias``: diagonal (F,) or dense (D, F), in float64."""
    op = node.op_type
    data = graph.data_inputs(node)[0]
    constants = [None if i == data or not i else graph.constant(i) for i in node.input]
    values = [None if c is None else c.astype(np.float64) if c.ndim < 2 else _full(c) for c in constants]

    def vector(value: Array | None, default: float) -> Array:
        if value is None:
            return np.full(size, default)
        shape = graph.shape(node.output[0])
        return np.broadcast_to(value, shape).reshape(-1).astype(np.float64)

    if op == "Neg":
        return -np.ones(size), np.zeros(size)
    if op in ELEMENTWISE:
        second = data == node.input[1]
        constant = vector(values[0] if second else values[1], 0.0)
        if op == "Mul":
            return constant, np.zeros(size)
        if op == "Div":
            if second:
                raise ExportError(
                    f"{graph.name}: node {graph.describe(node)} divides by the feature; not affine"
                )
            return 1 / constant, np.zeros(size)
        if op == "Add":
            return np.ones(size), constant
        return (-np.ones(size), constant) if second else (np.ones(size), -constant)
    if op == "BatchNormalization":
        gamma, beta, mean, variance = (np.asarray(v) for v in values[1:5])
        scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale
    weight = values[1]
    if weight is None:
        raise ExportError(f"{graph.name}: node {graph.describe(node)} has no constant weight; not affine")
    if op == "MatMul":
        return weight.T, np.zeros(weight.shape[1])
    if op == "Gemm":
        if attribute(node, "transA", 0):
            raise ExportError(f"{graph.name}: node {graph.describe(node)} transposes the batch; not affine")
        matrix = weight if attribute(node, "transB", 0) else weight.T
        alpha = attribute(node, "alpha", 1.0)
        matrix = matrix if alpha == 1 else matrix * alpha
        bias: Array = np.zeros(len(matrix))
        if len(values) > 2 and values[2] is not None:
            bias = np.broadcast_to(values[2] * attribute(node, "beta", 1.0), (1, len(matrix)))[0]
        return matrix, bias
    # Conv on a 1 x 1 map, or as large as the map that was flattened.
    bias = values[2] if len(values) > 2 and values[2] is not None else np.zeros(len(weight))
    group = attribute(node, "group", 1)
    matrix = weight.reshape(len(weight), -1)
    if group == 1:
        return matrix, np.asarray(bias)
    dense = np.zeros((len(weight), size))
    rows, columns = len(weight) // group, matrix.shape[1]
    for g in range(group):
        dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = matrix[g * rows : (g + 1) * rows]
    return dense, np.asarray(bias)


def _full(value: npt.NDArray[Any]) -> Array:
    """At least float32."""
    return value.astype(np.promote_types(value.dtype, np.float32), copy=False)
