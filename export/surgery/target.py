"""Which tensor of a graph is the embedding."""

from typing import Literal

import numpy as np
import onnx

from simmap.engine.errors import ExportError

from .graph import DENSE, RESHAPES, SCORES, Graph, attribute, skip
from .pools import reduced_axes


def named_tensor(graph: Graph, name: str) -> str:
    """A tensor by its own name or by its node's."""
    if name in graph.producer and name in graph.dynamic:
        return name
    for node in graph.nodes:
        if node.name == name and node.output[0] in graph.dynamic:
            return str(node.output[0])
    raise ExportError(f"{graph.name}: has no tensor or node {name!r} that depends on the image")


def origin(graph: Graph, tensor: str) -> str:
    """The tensor that ``tensor`` is another name of."""
    while (node := graph.producer.get(tensor)) is not None and node.op_type == "Identity":
        tensor = str(node.input[0])
    return tensor


def find_target(graph: Graph, embedding: str) -> tuple[str, list[str], Literal["norm", "scores"] | None]:
    """The tensor that is the embedding: class scores and a final L2 norm are left behind.

    Returns:
        Its name, notes, and what was left behind.
    """
    if embedding not in ("output", "pooled"):
        return named_tensor(graph, embedding), [], None
    names = [o for o in graph.outputs if o in graph.dynamic]
    if len(names) > 1:
        flat = [o for o in names if np.prod(graph.shape(o)[1:]) == max(graph.shape(o)[1:], default=0)]
        if len(flat) != 1:
            raise ExportError(
                f"{graph.name}: has the outputs {', '.join(names)}; name the embedding with --embedding NAME"
            )
        names = flat
    if not names:
        raise ExportError(f"{graph.name}: no output depends on the image")
    target, notes = names[0], []
    target = skip(graph, target, lambda n: n.op_type in RESHAPES)
    normed = _before_norm(graph, target)
    if normed is not None:
        notes.append("a final L2 norm is left out of the artifact: the cosine does not see it")
        return normed, notes, "norm"
    node = graph.producer.get(target)
    if node is None or node.op_type not in SCORES:
        return names[0], notes, None
    activation = graph.describe(node)
    target = skip(graph, str(node.input[0]), lambda n: n.op_type in RESHAPES)
    node = graph.producer.get(target)
    bias = node is not None and node.op_type == "Add" and len(graph.data_inputs(node)) == 1
    if node is not None and bias:
        before = graph.producer.get(graph.data_inputs(node)[0])
        node = before if before is not None and before.op_type in ("MatMul", "Conv") else node
    if (
        node is not None
        and node.op_type in DENSE
        and len(graph.data_inputs(node)) == 1
        and _is_flat(graph, node)
    ):
        notes.append(
            f"the classifier ({activation}) is left behind: the embedding is the feature that it reads"
        )
        return graph.data_inputs(node)[0], notes, "scores"
    notes.append(
        f"{activation} is left behind, and what is pooled is the class scores themselves; another map "
        "is taken with --conv-layer TENSOR --pool avg"
    )
    return target, notes, "scores"


def _is_flat(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the node sees vectors, not maps: a classifier behind the pooling, not before it."""
    shape = graph.shape(graph.data_inputs(node)[0])[1:]
    return bool(np.prod(shape) == max(shape, default=1))


def _before_norm(graph: Graph, tensor: str) -> str | None:
    """x where ``tensor`` is x / |x|, by LpNormalization or written out, else None."""
    node = graph.producer.get(tensor)
    if node is None:
        return None
    shape = graph.shape(tensor)
    if node.op_type == "LpNormalization":
        axis = attribute(node, "axis", -1)
        is_l2 = attribute(node, "p", 2) == 2 and shape[axis] == np.prod(shape)
        return str(node.input[0]) if is_l2 else None
    if node.op_type not in ("Div", "Mul"):
        return None
    for x, divisor in (node.input, tuple(reversed(node.input))):
        if node.op_type == "Div" and x != node.input[0]:
            continue
        # The divisor must be a scalar an image, computed from x alone, by a norm.
        between = _between(graph, x, divisor)
        ops = {n.op_type for n in between}
        is_norm = "ReduceL2" in ops or ("Sqrt" in ops and ops & {"ReduceSum", "ReduceSumSquare"})
        inverse = "Reciprocal" in ops or "Div" in ops
        powers = all(_is_square(graph, n) for n in between if n.op_type == "Pow")
        # One number an image: of all its features, and of no other image.
        reductions = [n for n in between if n.op_type.startswith("Reduce")]
        axes = [reduced_axes(graph, n, len(graph.shape(n.input[0]))) for n in reductions]
        alone = all(a is not None and 0 not in a for a in axes) and all(
            np.prod(graph.shape(n.output[0])) == 1 for n in reductions
        )
        known = ops <= {
            "ReduceL2", "Sqrt", "ReduceSum", "ReduceSumSquare", "Mul", "Pow", "Abs", "Add", "Clip", "Max",
            "Expand", "Unsqueeze", "Reshape", "Reciprocal", "Div", "Identity", "Cast", "Shape",
        }  # fmt: skip
        if between and is_norm and alone and known and powers and inverse == (node.op_type == "Mul"):
            return str(x)
    return None


def _is_square(graph: Graph, node: onnx.NodeProto) -> bool:
    exponent = graph.constant(node.input[1])
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(())) in (2.0, 0.5)


def _between(graph: Graph, start: str, end: str) -> list[onnx.NodeProto]:
    """The nodes that compute ``end`` from ``start`` alone; empty if something else flows in."""
    nodes: dict[int, onnx.NodeProto] = {}
    pending = [end]
    while pending:
        tensor = pending.pop()
        if tensor == start or tensor not in graph.dynamic:
            continue
        node = graph.producer.get(tensor)
        if node is None or len(nodes) > 30:
            return []
        if id(node) not in nodes:
            nodes[id(node)] = node
            pending.extend(graph.data_inputs(node))
    return list(nodes.values())
