"""Find the steps from the pooled feature to the embedding (see ``steps``) in an ONNX graph.

What these do not cover, a Softmax as the last layer or the larger of two tensors, is refused.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from simmap.engine.types import Array

from .affine import node_as_affine
from .elementwise import FUNCTIONS, evaluate, is_zero_at_zero
from .graph import DENSE, ELEMENTWISE, MOVES, NORMS, REDUCTIONS, Graph, attribute
from .pools import reduced_axes
from .steps import Gated, NotHeldError
from .tape import START, Tape
from .views import MixedError, View, lane_of


def gated_tail(
    graph: Graph,
    start: str,
    target: str,
    *,
    mask: npt.NDArray[np.bool_] | None = None,
    scale: float = 1.0,
    bias: Array | None,
) -> Gated:
    """The steps from the tensor ``start`` to the tensor ``target``.

    Args:
        graph: the network.
        start: a tensor that every path from the image to ``target`` crosses.
        mask: which numbers of ``start`` are the feature, the others being never used; by default all.
        scale: ``start`` is this times the feature that is given.
        bias: what of the given feature no place owns (F,); None where that depends on the image.

    Raises:
        NotHeldError: with the node that the rules do not cover.
    """
    walk = _Walk(graph, start, np.ones(graph.shape(start), dtype=bool) if mask is None else mask, scale, bias)
    return walk.to(target)


@dataclass
class _Walk:
    """Goes through the nodes between two tensors and writes down the steps."""

    graph: Graph
    start: str
    mask: npt.NDArray[np.bool_]
    scale: float
    bias: Array | None

    def __post_init__(self) -> None:
        size = int(self.mask.sum())
        self.opset = next(o.version for o in self.graph.model.opset_import if o.domain in ("", "ai.onnx"))
        self.tape = Tape(size, self.bias)
        vector = START
        if self.scale != 1:
            vector = self.tape.linear(START, np.full(size, self.scale), np.zeros(size))
        self.views = {self.start: View(vector, self.mask)}

    def to(self, target: str) -> Gated:
        """Walk up to a tensor."""
        blocked: dict[str, onnx.NodeProto] = {}
        needed, _ = self.graph.upstream([target])
        for node in needed:
            if node.output[0] in self.views:
                continue
            inputs = [i for i in self.graph.data_inputs(node) if i in self.views or i in blocked]
            if not inputs:
                continue
            cause = next((blocked[i] for i in inputs if i in blocked), None)
            views = None if cause is not None else self._follow(node)
            if views is None:
                blocked |= dict.fromkeys(node.output, node if cause is None else cause)
            else:
                self.views |= dict(zip(node.output, views, strict=False))
        if target not in self.views:
            raise NotHeldError(blocked[target])
        end = self.views[target]
        if not self.tape.facts[end.vector].is_carried or not end.mask.all():
            raise NotHeldError(self._culprit(target))
        return self.tape.up_to(end.vector, self.opset)

    def _culprit(self, target: str) -> onnx.NodeProto:
        """The last node that turned what places add up to into something else."""
        tensor = target
        while True:
            node: onnx.NodeProto = self.graph.producer[tensor]
            inputs = [i for i in self.graph.data_inputs(node) if i in self.views]
            lost = [i for i in inputs if not self.tape.facts[self.views[i].vector].is_carried]
            if not lost:
                return node
            tensor = lost[0]

    def _follow(self, node: onnx.NodeProto) -> list[View] | None:
        """The outputs of a node; None where the rules do not cover it."""
        op = node.op_type
        dynamic = [i for i in node.input if i in self.views]
        if any(i in self.graph.dynamic and i not in self.views for i in node.input) and op not in MOVES:
            return None
        try:
            if op in MOVES:
                return self._moved(node)
            if op in DENSE or op == "BatchNormalization":
                return self._dense(node) if dynamic == [node.input[0]] else None
            if op == "Neg":
                return self._each(node, -1.0, 0.0)
            if op in ELEMENTWISE and len(dynamic) == 1:
                return self._with_constant(node, dynamic[0])
            if op in ELEMENTWISE:
                return self._of_two(node)
            if op in REDUCTIONS:
                return self._reduced(node)
            if op in NORMS:
                return self._normed(node)
            if op == "Softmax":
                return self._softmax(node)
            if op in FUNCTIONS:
                return self._function(node)
        except MixedError:
            return None
        return None

    def _moved(self, node: onnx.NodeProto) -> list[View]:
        """Numbers that only change place: followed by their indices."""
        op = node.op_type
        if op in ("Identity", "Dropout", "Cast"):
            return [self.views[node.input[0]]] * len(node.output)
        if op == "Concat":
            return [self._stacked(node)]
        view = self.views.get(node.input[0])
        if view is None:
            raise MixedError
        if op in ("Reshape", "Flatten", "Squeeze", "Unsqueeze"):
            return [View(view.vector, view.mask.reshape(self.graph.shape(node.output[0])))]
        given = [view.index, *(self.graph.constant(i) if i else None for i in node.input[1:])]
        if any(i and g is None for i, g in zip(node.input, given, strict=True)):
            raise MixedError
        return [self._picked(view.vector, index) for index in evaluate(node, given, self.opset)]

    def _stacked(self, node: onnx.NodeProto) -> View:
        if any(i not in self.views for i in node.input):
            raise MixedError
        views = [self.views[i] for i in node.input]
        starts = np.cumsum([0, *(self.tape.facts[v.vector].size for v in views)])
        indices = [np.where(v.mask, v.index + s, -1) for v, s in zip(views, starts, strict=False)]
        index = np.concatenate(indices, axis=attribute(node, "axis", 1))
        return self._picked(self.tape.concat(tuple(v.vector for v in views)), index)

    def _picked(self, vector: str, index: npt.NDArray[Any]) -> View:
        """The view with these indices into a vector; another vector where their order is another."""
        mask = index >= 0
        order, size = index[mask], self.tape.facts[vector].size
        if order.size == 0:
            raise MixedError
        if order.size != size or (order != np.arange(size)).any():
            vector = self.tape.pick(vector, order)
        return View(vector, mask)

    def _dense(self, node: onnx.NodeProto) -> list[View]:
        """A linear layer on one lane of features."""
        view, shape = self.views[node.input[0]], self.graph.shape(node.output[0])
        axes = {"MatMul": (view.mask.ndim - 1,), "Gemm": (1,)}.get(
            node.op_type, tuple(range(1, view.mask.ndim))
        )
        lane = lane_of(view.mask, axes)
        if any(self.graph.constant(i) is None for i in node.input[1:] if i):
            raise MixedError
        matrix, bias = node_as_affine(self.graph, node, int(view.mask.sum()))
        if matrix.shape[-1] != view.mask.sum() or len(matrix) != len(bias):
            raise MixedError
        vector = self.tape.linear(view.vector, matrix, bias)
        mask = np.broadcast_to(lane, shape)
        if mask.sum() != len(matrix):
            raise MixedError
        return [View(vector, mask)]

    def _each(self, node: onnx.NodeProto, factor: float, shift: float) -> list[View]:
        view = self.views[node.input[0]]
        size = self.tape.facts[view.vector].size
        return [View(self.tape.linear(view.vector, np.full(size, factor), np.full(size, shift)), view.mask)]

    def _with_constant(self, node: onnx.NodeProto, tensor: str) -> list[View] | None:
        """x + c, x - c, c - x, x * c or x / c."""
        op, is_second = node.op_type, node.input[0] != tensor
        constant = self.graph.constant(node.input[0 if is_second else 1])
        if constant is None:
            return None
        if op == "Div" and is_second:
            return self._function(node)
        view = self._spread(tensor, self.graph.shape(node.output[0]))
        value = np.broadcast_to(constant.astype(np.float64), view.mask.shape)[view.mask]
        matrix, bias = np.ones(value.size), np.zeros(value.size)
        if op in ("Add", "Sub"):
            bias = -value if op == "Sub" and not is_second else value
            matrix = -matrix if op == "Sub" and is_second else matrix
        else:
            matrix = value if op == "Mul" else 1 / value
        return [View(self.tape.linear(view.vector, matrix, bias), view.mask)]

    def _spread(self, tensor: str, shape: tuple[int, ...]) -> View:
        """A view broadcast to a shape."""
        view = self.views[tensor]
        if view.mask.shape == shape:
            return view
        return self._picked(view.vector, np.broadcast_to(view.index, shape))

    def _pair(self, node: onnx.NodeProto) -> tuple[list[str], npt.NDArray[np.bool_]]:
        """The vectors of two operands, as long as the result or of one number, and the result's mask."""
        shape = self.graph.shape(node.output[0])
        masks = [np.broadcast_to(self.views[i].mask, shape) for i in node.input]
        if (masks[0] != masks[1]).any():
            raise MixedError
        single = [self.tape.facts[self.views[i].vector].size == 1 for i in node.input]
        vectors = [
            self.views[i].vector if one and not all(single) else self._spread(i, shape).vector
            for i, one in zip(node.input, single, strict=True)
        ]
        return vectors, masks[0]

    def _of_two(self, node: onnx.NodeProto) -> list[View]:
        """A sum, difference, product or quotient of two tensors."""
        (a, b), mask = self._pair(node)
        size = int(mask.sum())
        if node.op_type in ("Add", "Sub"):
            vector = self.tape.sum(a, b, size, sign=1 if node.op_type == "Add" else -1)
        elif node.op_type == "Div":
            vector = self.tape.scale(a, b, size, divides=True)
        else:
            x, gate = self._gate_of(a, b)
            vector = self.tape.scale(x, gate, size, divides=False)
        return [View(vector, mask)]

    def _gate_of(self, a: str, b: str) -> tuple[str, str]:
        """Of two factors, the one that carries and the one that is held."""
        first, second = self.tape.facts[a], self.tape.facts[b]
        if first.is_carried != second.is_carried:
            return (a, b) if first.is_carried else (b, a)
        if a == b or first.functions < second.functions:
            return a, b
        if second.functions < first.functions:
            return b, a
        if not first.is_carried:
            return a, b
        raise MixedError  # each may be the gate of the other

    def _reduced(self, node: onnx.NodeProto) -> list[View]:
        """A reduction of all features, or of axes of length 1."""
        view, shape = self.views[node.input[0]], self.graph.shape(node.output[0])
        rank = view.mask.ndim
        pools = node.op_type == "GlobalAveragePool"
        axes = list(range(2, rank)) if pools else reduced_axes(self.graph, node, rank)
        if axes is None:
            axes = list(range(rank))
        if 0 in axes:
            raise MixedError
        if all(view.mask.shape[a] == 1 for a in axes):
            if node.op_type in ("ReduceL2", "ReduceSumSquare"):
                raise MixedError
            return [View(view.vector, view.mask.reshape(shape))]
        mask = lane_of(view.mask, tuple(axes)).reshape(shape)
        size = self.tape.facts[view.vector].size
        if node.op_type in ("ReduceL2", "ReduceSumSquare"):
            vector = self.tape.norm(view.vector)
            if node.op_type == "ReduceSumSquare":
                vector = self.tape.scale(vector, vector, 1, divides=False)
            return [View(vector, mask)]
        vector = self.tape.mean(view.vector)
        if node.op_type == "ReduceSum":
            vector = self.tape.linear(vector, np.full(1, float(size)), np.zeros(1))
        return [View(vector, mask)]

    def _normed(self, node: onnx.NodeProto) -> list[View]:
        """A norm's scale is held; its mean is linear."""
        view = self.views[node.input[0]]
        rank, size = view.mask.ndim, self.tape.facts[view.vector].size
        axis = attribute(node, "axis", -1) % rank
        is_l2 = node.op_type == "LpNormalization"
        if is_l2 and attribute(node, "p", 2) != 2:
            raise MixedError
        lane_of(view.mask, (axis,) if is_l2 else tuple(range(axis, rank)))
        vector = view.vector
        if is_l2:
            return [View(self.tape.scale(vector, self.tape.norm(vector), size, divides=True), view.mask)]
        if node.op_type == "LayerNormalization":
            vector = self.tape.sum(vector, self.tape.mean(vector), size, sign=-1)
        # sigma = sqrt(|x|^2 / F + eps), of two steps that are only ever held
        norm = self.tape.norm(vector)
        power = self.tape.scale(norm, norm, 1, divides=False)
        eps = attribute(node, "epsilon", 1e-5)
        variance = self.tape.linear(power, np.full(1, 1 / size), np.full(1, eps))
        root = onnx.helper.make_node("Sqrt", ["x"], ["y"])
        sigma = self.tape.step("function", (variance,), 1, node=root, constants=(None,))
        vector = self.tape.scale(vector, sigma, size, divides=True)
        weights = [self.graph.constant(i) if i else None for i in node.input[1:3]]
        if any(i and w is None for i, w in zip(node.input[1:3], weights, strict=True)):
            raise MixedError
        gamma, beta = [*weights, None, None][:2]
        if gamma is not None or beta is not None:
            matrix = np.ones(size) if gamma is None else np.broadcast_to(gamma.reshape(-1), (size,))
            bias = np.zeros(size) if beta is None else np.broadcast_to(beta.reshape(-1), (size,))
            vector = self.tape.linear(vector, matrix.astype(np.float64), bias.astype(np.float64))
        return [View(vector, view.mask), *[View(vector, view.mask)] * (len(node.output) - 1)]

    def _softmax(self, node: onnx.NodeProto) -> list[View]:
        """Only ever held: a gate that weighs channels."""
        view = self.views[node.input[0]]
        rank = view.mask.ndim
        axis = attribute(node, "axis", 1 if self.opset < 13 else -1) % rank
        lane_of(view.mask, tuple(range(axis, rank)) if self.opset < 13 else (axis,))
        flat = onnx.helper.make_node("Softmax", ["x"], ["y"], axis=1)
        size = self.tape.facts[view.vector].size
        vector = self.tape.step(
            "function", (view.vector,), size, node=flat, constants=(None,), is_carried=False
        )
        return [View(vector, view.mask)]

    def _function(self, node: onnx.NodeProto) -> list[View]:
        """A function of each number, of one tensor and constants, or of several tensors."""
        shape = self.graph.shape(node.output[0])
        given = [i for i in node.input if i in self.views]
        views = [self._spread(i, shape) for i in given]
        mask = views[0].mask
        if any((v.mask != mask).any() for v in views[1:]):
            raise MixedError
        size = int(mask.sum())
        constants: list[Array | None] = []
        for name in node.input:
            value = self.graph.constant(name) if name else None
            if not name or value is None:
                if name and name not in self.views:
                    raise MixedError
                constants.append(None)
            else:
                value = value.astype(np.float64)
                single = value.size == 1
                constants.append(value.reshape(()) if single else np.broadcast_to(value, shape)[mask])
        vectors = tuple(v.vector for v in views)
        is_gate = len(views) == 1 and self.tape.facts[vectors[0]].is_carried
        if is_gate:
            at = list(node.input).index(given[0])
            probe = [np.zeros((1, size)) if k == at else c for k, c in enumerate(constants)]
            is_gate = is_zero_at_zero(node, probe, at, self.opset)
        fact = self.tape.facts[vectors[0]]
        rest = np.zeros(size) if is_gate and fact.rest is not None and not fact.rest.any() else None
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        # An input that is left out keeps its empty name.
        vector = self.tape.step(
            "gate" if is_gate else "function", vectors, size, rest=rest, is_carried=is_gate, node=copy,
            constants=tuple(constants),
        )  # fmt: skip
        return [View(vector, mask)]
