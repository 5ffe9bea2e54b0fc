"""Write attention pooling and the steps of a tail into the artifact: features, and what each place adds."""

import numpy as np
import onnx
from onnx import TensorProto

from .attention import Attention
from .nodes import OURS, Nodes
from .steps import Gated, Step

TAIL = f"{OURS}tail/"
# What the gate computes the parts of an attention pooling from: its weights and its values.
ATTENTION = (f"{OURS}attention", f"{OURS}attended")
# The feature of a class token in front of its gates, and what each place adds to it.
TAIL_FEATURE, TAIL_PARTS = "tail_feature", "tail_parts"
TOKEN_TAIL = (f"{OURS}{TAIL_FEATURE}", f"{OURS}{TAIL_PARTS}")


def add_attention(nodes: Nodes, attention: Attention, weights: str, values: str) -> tuple[str, str]:
    """The pooled feature (N, C), and what each place adds to it (N, H, W, C).

    Args:
        nodes: the artifact under construction.
        attention: what was found.
        weights, values: the names that these tensors have in the artifact.
    """
    heads, queries, tokens, width = attention.heads, attention.queries, attention.tokens, attention.width

    def shaped(tensor: str, name: str, *shape: int) -> str:
        return nodes.add(
            "Reshape", [tensor, nodes.constant(np.array(shape, np.int64), f"{name}_shape")], name
        )

    def token(tensor: str, name: str, *numbers: int) -> str:
        index = nodes.constant(np.array(numbers, np.int64), f"{name}_index")
        return nodes.add("Gather", [tensor, index], name, axis=1)

    weights = nodes.add("Cast", [weights], "attention", to=TensorProto.FLOAT)
    values = nodes.add("Cast", [values], "attended", to=TensorProto.FLOAT)
    share = shaped(weights, "attention_heads", -1, heads, queries, tokens)
    share = nodes.add("Transpose", [share], "attention_queries", perm=[0, 2, 1, 3])
    share = shaped(token(share, "attention_first", 0), "attention_shares", -1, heads, tokens, 1)
    each = nodes.add(
        "Mul", [shaped(values, "attended_heads", -1, heads, tokens, width), share], "attended_parts"
    )
    each = nodes.add("Transpose", [each], "attended_tokens", perm=[0, 2, 1, 3])
    each = shaped(each, "attended_rows", -1, tokens, attention.size)
    _, height, grid_width = attention.shape
    places = height * grid_width
    if attention.has_mean:
        mean = token(each, "mean_token", 0)
        part = nodes.add("Mul", [mean, nodes.floats(1 / places, "mean_share")], "mean_parts")
        each = nodes.add("Add", [token(each, "place_tokens", *range(1, tokens)), part], "place_parts")
    ones = nodes.floats(np.ones((1, places)), "attended_ones")
    pooled = shaped(nodes.add("MatMul", [ones, each], "attended_sum"), "attended_flat", -1, attention.size)
    return pooled, shaped(each, "attended_places", -1, height, grid_width, attention.size)


def add_tail(nodes: Nodes, gated: Gated, value: str, parts: str) -> None:
    """``embedding`` (N, D) and ``parts`` (N, H, W, D) from a feature (N, F) and its parts (N, H, W, F)."""
    writer = _Writer(nodes, gated.carriers)
    writer.values[gated.start], writer.parts[gated.start] = value, parts
    for step in gated.steps:
        writer.write(step)
    nodes.add("Identity", [writer.values[gated.output]], "embedding")
    nodes.add("Identity", [writer.parts[gated.output]], "parts")


def add_tail_values(nodes: Nodes, gated: Gated, value: str) -> str:
    """What the steps give of further features (N, F), with the weights that ``add_tail`` has stored."""
    writer = _Writer(nodes, frozenset(), again=True)
    writer.values[gated.start] = value
    for step in gated.steps:
        writer.write(step)
    return writer.values[gated.output]


def weight_name(step: Step, name: str) -> str:
    """The initializer that holds the ``matrix`` or ``bias`` of a step."""
    return f"{TAIL}{step.output}/{name}"


class _Writer:
    """Values are (N, F), parts (N, H, W, F), whatever the tensors of the source looked like."""

    def __init__(self, nodes: Nodes, carriers: frozenset[str], *, again: bool = False) -> None:
        self.nodes, self.carriers, self.again = nodes, carriers, again
        self.values: dict[str, str] = {}
        self.parts: dict[str, str] = {}
        self.prefix = self.names = ""

    def write(self, step: Step) -> None:
        """One step: always its value, and its parts where they are on the way."""
        self.prefix = f"tail/{step.output}/"
        self.names = f"tail/again/{step.output}/" if self.again else self.prefix
        values = [self.values[i] for i in step.inputs]
        carries = step.output in self.carriers
        parts = [self.parts[i] for i in step.carried] if carries else []
        writer = getattr(self, f"_{step.rule}")
        self.values[step.output], carried = writer(step, values, parts)
        if carries:
            self.parts[step.output] = carried

    def _add(self, op: str, inputs: list[str], name: str, **attributes: object) -> str:
        return self.nodes.add(op, inputs, f"{self.names}{name}", **attributes)

    def _floats(self, value: object, name: str) -> str:
        if self.again:
            return f"{OURS}{self.prefix}{name}"
        return self.nodes.floats(np.asarray(value, dtype=np.float64), f"{self.prefix}{name}")

    def _ints(self, value: object, name: str) -> str:
        if self.again:
            return f"{OURS}{self.prefix}{name}"
        return self.nodes.constant(np.asarray(value, dtype=np.int64), f"{self.prefix}{name}")

    def _linear(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        assert step.matrix is not None
        assert step.bias is not None
        dense = step.matrix.ndim == 2
        op, matrix = ("MatMul", step.matrix.T) if dense else ("Mul", step.matrix)
        weight = self._floats(matrix, "matrix") if dense or (matrix != 1).any() else None
        value, part = values[0], parts[0] if parts else ""
        if weight is not None:
            value = self._add(op, [value, weight], "linear")
            part = self._add(op, [part, weight], "linear_parts") if parts else ""
        if step.bias.any():
            value = self._add("Add", [value, self._floats(step.bias, "bias")], "value")
        return value, part

    def _pick(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        index = self._ints(step.index, "index")
        value = self._add("Gather", [values[0], index], "value", axis=1)
        return value, self._add("Gather", [parts[0], index], "parts", axis=3) if parts else ""

    def _gate(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        value, _ = self._function(step, values, [])
        if not parts:
            return value, ""
        # y / z, and 0 where z = 0: y is 0 there, and z + 1 is not.
        zero = self._add("Not", [self._add("Cast", [values[0]], "is_some", to=TensorProto.BOOL)], "is_zero")
        one = self._add("Cast", [zero], "one", to=TensorProto.FLOAT)
        divisor = self._add("Add", [values[0], one], "divisor")
        gate = self._add("Div", [value, divisor], "gate")
        return value, self._add("Mul", [parts[0], self._held(gate, step.size)], "parts")

    def _held(self, value: str, size: int) -> str:
        """(N, F) as (N, 1, 1, F), the same for all places."""
        return self._add("Reshape", [value, self._ints([-1, 1, 1, size], "held_shape")], "held")

    def _function(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        assert step.node is not None
        rest, inputs = list(values), []
        for at, (name, constant) in enumerate(zip(step.node.input, step.constants, strict=True)):
            if constant is not None:
                inputs.append(self._floats(constant, f"constant{at}"))
            else:
                inputs.append(rest.pop(0) if name else "")
        copy = onnx.NodeProto()
        copy.CopyFrom(step.node)
        copy.name = copy.output[0] = f"{OURS}{self.names}value"
        copy.input[:] = inputs
        del copy.output[1:]
        self.nodes.nodes.append(copy)
        return copy.output[0], ""

    def _scale(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        op = "Div" if step.divides else "Mul"
        value = self._add(op, values, "value")
        if not parts:
            return value, ""
        return value, self._add(op, [parts[0], self._held(values[1], step.sizes[1])], "parts")

    def _sum(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        op = "Add" if step.signs[1] == 1 else "Sub"
        return self._add(op, values, "value"), self._add(op, parts, "parts") if parts else ""

    def _mean(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        # A product with a column, since the axes of a reduction are written in two ways.
        column, share = self._ones(step), self._floats(1 / step.sizes[0], "share")
        value = self._add("Mul", [self._add("MatMul", [values[0], column], "total"), share], "value")
        if not parts:
            return value, ""
        total = self._add("MatMul", [parts[0], column], "total_parts")
        return value, self._add("Mul", [total, share], "parts")

    def _norm(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        squares = self._add("Mul", [values[0], values[0]], "squares")
        total = self._add("MatMul", [squares, self._ones(step)], "total")
        return self._add("Sqrt", [total], "value"), ""

    def _ones(self, step: Step) -> str:
        return self._floats(np.ones((step.sizes[0], 1)), "ones")

    def _concat(self, step: Step, values: list[str], parts: list[str]) -> tuple[str, str]:
        value = self._add("Concat", values, "value", axis=1)
        return value, self._add("Concat", parts, "parts", axis=3) if parts else ""
