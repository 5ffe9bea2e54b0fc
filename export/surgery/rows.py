"""Behind the last attention, compute only the tokens that are read.

A transformer computes its last block for all tokens, and an embedding reads one or two of them. A Gather of
these rows moves in front of every node that works row by row and whose other rows nothing else needs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from simmap.engine.types import Array

from .graph import attribute, reads
from .nodes import SOURCE

_EACH = {
    "Add", "Cast", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Mul", "Neg", "Pow", "Reciprocal", "Relu", "Sigmoid", "Sin", "Softplus", "Sqrt",
    "Sub", "Tanh",
}  # fmt: skip
Shape = tuple[int, ...]


class ReadRows:
    """Nodes of which only the rows of some tokens are read.

    Args:
        nodes: in an order in which they can be computed.
        index: the tensor with the indices of the tokens that are read.
        kept: tensors that are needed elsewhere.
        shape: of a tensor at batch 1; None where that is unknown.
        constant: the value of a tensor that does not depend on the image, else None.
        store: keeps an array under a name, and gives the name of the tensor.
    """

    def __init__(
        self,
        nodes: list[onnx.NodeProto],
        index: str,
        kept: set[str],
        shape: Callable[[str], Shape | None],
        constant: Callable[[str], Array | None],
        store: Callable[[npt.NDArray[Any], str], str],
    ) -> None:
        self.index, self.kept, self.shape, self.constant = index, kept, shape, constant
        self.store = store
        self.users: dict[str, list[onnx.NodeProto]] = {}
        self.nodes = nodes
        for node in nodes:
            self._use(node)

    def _use(self, node: onnx.NodeProto) -> None:
        for name in dict.fromkeys(reads(node)):
            self.users.setdefault(name, []).append(node)

    def moved(self) -> list[onnx.NodeProto]:
        """The nodes with each Gather by ``index`` as far in front as it can be."""
        # From the last node to the first, so that what is moved once can be moved again.
        result: list[onnx.NodeProto] = []
        gone: dict[int, onnx.NodeProto] = {}
        for node in reversed(self.nodes):
            if id(node) in gone:
                continue
            gathers = self._gathers(node)
            inputs = self._row_by_row(node, attribute(gathers[0], "axis", 0)) if gathers else None
            if inputs is None:
                result.append(node)
                continue
            gone |= {id(gather): gather for gather in gathers}
            result = [one for one in result if id(one) not in gone]
            result += self._of_rows(node, gathers, inputs)
        return result[::-1]

    def _gathers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """The Gathers that alone use what a node gives, all of the same rows; empty if there are others."""
        users = self.users.get(node.output[0], [])
        is_ours = all(user.op_type == "Gather" and user.input[1] == self.index for user in users)
        if not users or not is_ours or len(node.output) > 1 or node.output[0] in self.kept:
            return []
        return users if len({attribute(user, "axis", 0) for user in users}) == 1 else []

    def _row_by_row(self, node: onnx.NodeProto, axis: int) -> dict[int, int] | None:
        """By the position of an input, its axis of the rows; None where the node mixes rows."""
        shape = self.shape(node.output[0])
        inputs = [self.shape(name) for name in node.input]
        if shape is None or any(one is None for one in inputs):
            return None
        shapes = [one or () for one in inputs]
        op, rank = node.op_type, len(shape)
        if op in _EACH:
            axes = {at: axis - rank + len(one) for at, one in enumerate(shapes)}
            axes = {at: a for at, a in axes.items() if a >= 0 and shapes[at][a] == shape[axis]}
            # A constant with a row for each token would have to be gathered too.
            return axes if axes and all(self.constant(node.input[at]) is None for at in axes) else None
        if op == "MatMul" and axis == rank - 2 and len(shapes[0]) == rank and len(shapes[1]) >= 2:
            return {0: axis}
        if op == "LayerNormalization" and axis < attribute(node, "axis", -1) % rank:
            return {0: axis}
        if op == "Softmax" and axis != rank - 1 and attribute(node, "axis", None) in (-1, rank - 1):
            return {0: axis}
        if op == "ReduceMean" and len(shapes[0]) == rank and shapes[0][:-1] == shape[:-1] and axis < rank - 1:
            return {0: axis}
        if op == "Transpose":
            return {0: attribute(node, "perm", list(range(rank))[::-1])[axis]}
        if op == "Reshape" and axis > 0 and shapes[0][: axis + 1] == shape[: axis + 1]:
            is_known = self.constant(node.input[1]) is not None and not attribute(node, "allowzero", 0)
            return {0: axis} if is_known else None
        return None

    def _of_rows(
        self, node: onnx.NodeProto, gathers: list[onnx.NodeProto], inputs: dict[int, int]
    ) -> list[onnx.NodeProto]:
        """The node on these rows alone, then the Gathers that it needs: in reverse order."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{SOURCE}rows/{node.output[0]}"
        made: dict[str, onnx.NodeProto] = {}
        for at, axis in inputs.items():
            name = f"{SOURCE}rows/{node.output[0]}/{node.input[at]}"
            copy.input[at] = name
            made[name] = helper.make_node(
                "Gather", [node.input[at], self.index], [name], name=name, axis=axis
            )
        copy.output[0] = gathers[0].output[0]
        sizes = self.constant(node.input[1]) if node.op_type == "Reshape" else None
        if sizes is not None:
            # 0 keeps an axis of the input: those up to the rows'.
            free = np.array(sizes, dtype=np.int64)
            free[: inputs[0] + 1] = 0
            copy.input[1] = self.store(free, f"rows/{node.output[0]}/shape")
        others = [
            helper.make_node("Identity", [copy.output[0]], [gather.output[0]], name=gather.name)
            for gather in gathers[1:]
        ]
        for old in (node, *gathers):
            for name in dict.fromkeys(reads(old)):
                self.users[name] = [user for user in self.users[name] if user is not old]
        for new in (copy, *others, *made.values()):
            self._use(new)
        return [*others, copy, *made.values()]
