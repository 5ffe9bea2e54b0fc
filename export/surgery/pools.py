"""Poolings as ONNX graphs write them."""

from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from simmap.engine.contract import Pooling

from .graph import RESHAPES, Graph, attribute, single_number, skip
from .layout import Layout


@dataclass(frozen=True)
class Pool:
    """A node (or two) that sums a feature map over its places."""

    kind: Pooling
    conv: str
    layout: Layout
    output: str
    scale: float = 1.0
    node: onnx.NodeProto | None = field(default=None, compare=False)


def match_pool(graph: Graph, tensor: str) -> Pool | None:
    """The pool that gives ``tensor``, if one does."""
    node = graph.producer.get(tensor)
    if node is None:
        return None
    simple = _match_simple(graph, node)
    if simple is not None:
        return simple
    if node.op_type == "Pow":
        return _match_gem(graph, node)
    if node.op_type in ("Concat", "Add", "Sum", "Mean") and len(node.input) == 2:
        return _match_pair(graph, node)
    if node.op_type in ("Flatten", "Reshape"):
        before, after = graph.shape(node.input[0]), graph.shape(tensor)
        # Two axes longer than 1 besides the batch: features and places, not a vector written as a map.
        is_map = len(before) == 4 and int(np.prod(before[1:])) > max(before[1:]) and before[2] * before[3] > 1
        if node.input[0] in graph.dynamic and is_map and len(after) == 2 and after[0] == before[0]:
            return Pool("flatten", node.input[0], "NCHW", tensor, node=node)
    return None


def _match_simple(graph: Graph, node: onnx.NodeProto) -> Pool | None:
    """Average, maximum, sum, or a convolution as large as the map."""
    if not node.input or node.input[0] not in graph.dynamic or node.input[0] == graph.input.name:
        return None
    source, output = str(node.input[0]), str(node.output[0])
    shape = graph.shape(source)
    op = node.op_type
    if op in ("GlobalAveragePool", "GlobalMaxPool") and len(shape) == 4 and shape[2] * shape[3] > 1:
        return Pool("avg" if op == "GlobalAveragePool" else "max", source, "NCHW", output, node=node)
    if op in ("AveragePool", "MaxPool") and len(shape) == 4 and shape[2] * shape[3] > 1:
        return _match_window(graph, node, source, output)
    if op in ("ReduceMean", "ReduceMax", "ReduceSum"):
        return _match_reduce(graph, node, source, output)
    if op == "Conv" and len(shape) == 4 and shape[2] * shape[3] > 1:
        after, kernel = graph.shape(output), graph.shape(node.input[1])
        if after[2:] == (1, 1) and kernel[2:] == shape[2:] and not any(attribute(node, "pads", [0])):
            if attribute(node, "group", 1) == shape[1] and after[1] == shape[1]:
                return Pool("weights", source, "NCHW", output, node=node)
            if attribute(node, "group", 1) == 1:
                return Pool("flatten", source, "NCHW", source, node=node)
    return None


def _match_window(graph: Graph, node: onnx.NodeProto, source: str, output: str) -> Pool | None:
    """A window pool whose one window covers the whole map, pads or not."""
    after = graph.shape(output)
    height, width = graph.shape(source)[2:]
    if after[2:] != (1, 1) or any(d != 1 for d in attribute(node, "dilations", [1, 1])):
        return None
    kernel, pads = attribute(node, "kernel_shape", []), attribute(node, "pads", [0, 0, 0, 0])
    if attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        # SAME pads of a single window: the window reaches over the whole map if it is as large.
        pads = [0, 0, max(0, kernel[0] - height), max(0, kernel[1] - width)]
    if pads[0] + height > kernel[0] or pads[1] + width > kernel[1]:
        return None
    if node.op_type == "MaxPool":
        return Pool("max", source, "NCHW", output, node=node)
    padded = bool(attribute(node, "count_include_pad", 0)) and any(pads)
    scale = height * width / (kernel[0] * kernel[1]) if padded else 1.0
    return Pool("avg", source, "NCHW", output, scale, node=node)


def _match_reduce(graph: Graph, node: onnx.NodeProto, source: str, output: str) -> Pool | None:
    """A reduction over the places, axes by attribute or by input, in one node or in two."""
    shape = graph.shape(source)
    axes = reduced_axes(graph, node, len(shape))
    if axes is None:
        return None
    op = node.op_type
    kind: Pooling = "max" if op == "ReduceMax" else "avg"
    places = int(np.prod([shape[a] for a in axes]))
    before = graph.producer.get(source)
    if len(axes) == 1 and before is not None and before.op_type == op and before.input[0] in graph.dynamic:
        # A reduction of one side behind that of the other: together one of the places.
        first = graph.shape(before.input[0])
        inner = reduced_axes(graph, before, len(first))
        if len(first) == 4 and inner is not None and len(inner) == 1:
            outer = axes[0] + (len(shape) == 3 and axes[0] >= inner[0])
            layouts: dict[tuple[int, ...], Layout] = {(2, 3): "NCHW", (1, 2): "NHWC"}
            layout = layouts.get(tuple(sorted((inner[0], outer))))
            total = first[inner[0]] * first[outer]
            if layout is not None and total > 1:
                scale = float(total) if op == "ReduceSum" else 1.0
                return Pool(kind, str(before.input[0]), layout, output, scale, node=node)
    if places <= 1:
        return None
    scale = float(places) if node.op_type == "ReduceSum" else 1.0
    if len(shape) == 4 and axes == [2, 3]:
        return Pool(kind, source, "NCHW", output, scale, node=node)
    if len(shape) == 4 and axes == [1, 2]:
        return Pool(kind, source, "NHWC", output, scale, node=node)
    is_flattened = before is not None and before.op_type == "Reshape" and before.input[0] in graph.dynamic
    if before is not None and is_flattened and len(shape) == 3 and axes == [2]:
        # (N, C, H W), a map flattened over its places
        first = graph.shape(before.input[0])
        if len(first) == 4 and first[1] == shape[1]:
            return Pool(kind, str(before.input[0]), "NCHW", output, scale, node=node)
    if len(shape) == 3 and axes == [1]:
        return Pool(kind, source, "NLC", output, scale, node=node)
    return None


def reduced_axes(graph: Graph, node: onnx.NodeProto, rank: int) -> list[int] | None:
    """Axes of a reduction, from 0 and sorted; None if they are not constant."""
    axes = attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        given = graph.constant(node.input[1])
        axes = None if given is None else given.tolist()
    if axes is None:
        return None
    return sorted(a % rank for a in axes)


def _match_gem(graph: Graph, node: onnx.NodeProto) -> Pool | None:
    """``mean(max(x, eps)^p)^(1/p)``."""
    inner = skip(graph, str(node.input[0]), lambda n: n.op_type in RESHAPES)
    average = match_pool(graph, inner)
    if average is None or average.kind != "avg" or average.scale != 1:
        return None
    power = graph.producer.get(average.conv)
    if power is None or power.op_type != "Pow":
        return None
    p, q = single_number(graph.constant(power.input[1])), single_number(graph.constant(node.input[1]))
    if p is None or q is None or not np.isclose(p * q, 1, atol=1e-4):
        return None
    return Pool("gem", str(power.input[0]), average.layout, str(node.output[0]), node=power)


def _match_pair(graph: Graph, node: onnx.NodeProto) -> Pool | None:
    """Average and maximum of the same map, added or stacked."""
    pools = [match_pool(graph, skip(graph, str(i), lambda n: n.op_type in RESHAPES)) for i in node.input]
    first, second = pools
    if (
        first is None
        or second is None
        or first.conv != second.conv
        or {first.kind, second.kind} != {"avg", "max"}
    ):
        return None
    if first.scale != 1 or second.scale != 1:
        return None
    output = str(node.output[0])
    if node.op_type == "Concat":
        # Only the order average, maximum has a name in the contract.
        return replace(first, kind="catavgmax", output=output, node=node) if first.kind == "avg" else None
    scale = 1.0 if node.op_type == "Mean" else 2.0
    return replace(first, kind="avgmax", output=output, scale=scale, node=node)
