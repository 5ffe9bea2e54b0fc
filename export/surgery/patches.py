"""Which token of a transformer is which place of its patch embedding."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from simmap.engine.errors import ExportError

from .graph import Graph, plain_session, reads

Grid = tuple[int, int]


def token_places(graph: Graph, start: str, count: int) -> tuple[npt.NDArray[np.intp], Grid]:
    """The token of each place of the patch embedding.

    Places are changed, each set of them in one run, and a token's own set of runs says which place it is.

    Returns:
        (H W,), indices of tokens by rows of the grid, and H, W.

    Raises:
        ExportError: there is no convolution whose places become tokens one by one.
    """
    patches = _patch_map(graph, start, count)
    height, width = graph.shape(patches)[2:]
    number = height * width
    session = _between(graph, patches, start)
    rng = np.random.default_rng(0)
    dtype = graph.values[patches].dtype
    usual = rng.normal(size=graph.shape(patches)).astype(dtype)

    image = np.zeros(
        graph.shape(graph.input.name), dtype=onnx.helper.tensor_dtype_to_np_dtype(graph.input_type)
    )
    given = {entry.name for entry in session.get_inputs()}

    def run(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        feed = {name: values if name == patches else image for name in given}
        return np.asarray(session.run([start], feed)[0]).reshape(count, -1)

    before = run(usual)
    code = np.zeros(count, dtype=np.intp)
    for bit in range(number.bit_length()):
        chosen = ((np.arange(1, number + 1) >> bit) & 1).astype(bool).reshape(height, width)
        changed = np.where(chosen, usual + rng.normal(size=usual.shape).astype(dtype), usual)
        code += (run(changed.astype(dtype)) != before).any(axis=1) * (1 << bit)
    places = np.argsort(code, kind="stable")[count - number :]
    if sorted(code) != [0] * (count - number) + list(range(1, number + 1)):
        raise ExportError(
            f"{graph.name}: the {height} x {width} places of {patches!r} do not become one token each, so "
            "the tokens lie on no grid"
        )
    return places, (height, width)


def _patch_map(graph: Graph, start: str, count: int) -> str:
    """The last convolution before the tokens with no more places than there are tokens."""
    seen, pending = {start}, [start]
    while pending:
        tensor = pending.pop(0)
        node = graph.producer.get(tensor)
        if node is None:
            continue
        shape = graph.shape(tensor)
        if node.op_type == "Conv" and len(shape) == 4 and 1 < shape[2] * shape[3] < count:
            return tensor
        for name in graph.data_inputs(node):
            if name not in seen:
                seen.add(name)
                pending.append(name)
    raise ExportError(
        f"{graph.name}: no convolution gives the {count} tokens of {start!r}, so they lie on no known grid"
    )


def _between(graph: Graph, first: str, last: str) -> Any:
    """A session from the tensor ``first`` to ``last``."""
    nodes = [node for node in graph.nodes if first not in node.output]
    needed: set[str] = {last}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(reads(node))
    at_first = onnx.helper.make_tensor_value_info(
        first, onnx.helper.np_dtype_to_tensor_dtype(graph.values[first].dtype), graph.shape(first)
    )
    inputs = [entry for entry in graph.model.graph.input if entry.name in needed]
    weights = [tensor for name, tensor in graph.initializers.items() if name in needed]
    part = onnx.helper.make_graph(
        kept[::-1], "part", [*inputs, at_first], [onnx.ValueInfoProto(name=last)], initializer=weights
    )
    source = graph.model
    return plain_session(
        onnx.helper.make_model(
            part,
            opset_imports=source.opset_import,
            functions=source.functions,
            ir_version=max(source.ir_version, 8),
        )
    )
