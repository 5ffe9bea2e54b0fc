"""An ONNX graph with the look-ups that surgery needs."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel

from simmap.engine.errors import ExportError, printable
from simmap.engine.runtime.ort import cpu_session, one_line

RESHAPES = {"Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}
DENSE = {"Gemm", "MatMul", "Conv"}
AFFINE = RESHAPES | ELEMENTWISE | DENSE | {"BatchNormalization", "Neg"}
MOVES = {
    "Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Expand",
    "Slice", "Gather", "Split", "Concat",
}  # fmt: skip
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool"}
NORMS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "LpNormalization"}
SCORES = {"Softmax", "LogSoftmax", "Sigmoid"}


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, external data included.

    Raises:
        ExportError: missing, not ONNX, or not a valid graph.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises for a name that is too long
        raise ExportError(f"{printable(str(path))}: no such model file")
    try:
        model = onnx.load(str(path))
        if not model.graph.node:
            raise ValueError("it has no nodes")
        # Some converters append nodes at the end that are read before; ONNX Runtime does not mind.
        OnnxModel.graph_topological_sort(model.graph)
    except Exception as error:
        raise ExportError(f"{path}: is not an ONNX model ({one_line(error)})") from error
    return model


class Graph:
    """An ONNX graph with the look-ups that surgery needs, and its values at one probing run."""

    def __init__(self, model: onnx.ModelProto, *, name: str, size: tuple[int, int] | None) -> None:
        """Index ``model`` and run it once at ``size`` (or at its own) to learn every shape.

        Raises:
            ExportError: the graph has not exactly one image input, or does not run.
        """
        self.model, self.name = model, name
        graph = model.graph
        self.nodes = list(graph.node)
        self.producer = {output: node for node in self.nodes for output in node.output if output}
        self.initializers = {i.name: i for i in graph.initializer}
        inputs = [i for i in graph.input if i.name not in self.initializers]
        images = [i for i in inputs if len(i.type.tensor_type.shape.dim) == 4]
        if len(inputs) != 1 or len(images) != 1:
            names = ", ".join(i.name for i in inputs) or "none"
            raise ExportError(f"{name}: must have one image input of four axes, has the inputs: {names}")
        self.input = images[0]
        self.input_type = self.input.type.tensor_type.elem_type
        self.channels_last, self.size = self._read_input(size)
        self.outputs = [o.name for o in graph.output]
        self.sized = self._reachable()
        self.dynamic = self._reachable(blind=("Shape", "Size"))
        self.values = self._probe()

    def _read_input(self, size: tuple[int, int] | None) -> tuple[bool, tuple[int, int]]:
        dims = [d.dim_value for d in self.input.type.tensor_type.shape.dim]
        channels_last = dims[3] == 3 and dims[1] != 3
        if not channels_last and dims[1] not in (0, 3):
            raise ExportError(
                f"{self.name}: its input {self.input.name!r} has shape {dims}; an image input has 3 channels"
            )
        own = (dims[1], dims[2]) if channels_last else (dims[2], dims[3])
        wanted = size or (own[0] or 224, own[1] or 224)
        if any(o and o != w for o, w in zip(own, wanted, strict=True)):
            raise ExportError(
                f"{self.name}: takes {own[0]} x {own[1]} only, size is {wanted[0]} x {wanted[1]}; "
                "leave size out"
            )
        return channels_last, wanted

    def _reachable(self, blind: tuple[str, ...] = ()) -> set[str]:
        """Names of the tensors that depend on the image, not counting what ``blind`` operators pass on."""
        seen = {self.input.name}
        for node in self.nodes:
            if node.op_type not in blind and any(i in seen for i in reads(node)):
                seen.update(node.output)
        return seen

    def upstream(self, tensors: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that ``tensors`` need, in order, and the names of all that these read."""
        needed = set(tensors)
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(i for i in reads(node) if i)
        return kept[::-1], needed

    def _probe(self) -> dict[str, npt.NDArray[Any]]:
        """Every tensor after one run on noise at batch 1; small ones whole, large ones by shape only."""
        probe = onnx.ModelProto()
        probe.CopyFrom(self.model)
        del probe.graph.output[:]
        names = [o for n in self.nodes for o in n.output if o]
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        try:
            session = plain_session(probe)
            shape = (1, *self.size, 3) if self.channels_last else (1, 3, *self.size)
            noise = np.random.default_rng(0).normal(size=shape)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(self.input_type)
            if dtype == np.uint8:
                noise = (noise * 64 + 128).clip(0, 255)
            values = session.run(names, {self.input.name: noise.astype(dtype)})
        except Exception as error:
            raise ExportError(f"{self.name}: the graph does not run ({one_line(error)})") from error
        kept = {}
        for name, value in zip(names, values, strict=True):
            array = np.asarray(value)
            # Activations are wanted for their shape only; a broadcast view holds one number.
            is_data = name in self.dynamic
            kept[name] = np.broadcast_to(array.dtype.type(0), array.shape) if is_data else array
        return kept

    def free_size(self) -> None:
        """Let the input take any height and width."""
        dims = self.input.type.tensor_type.shape.dim
        for axis in (1, 2) if self.channels_last else (2, 3):
            dims[axis].dim_param = f"side{axis}"
        del self.model.graph.value_info[:]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape at batch 1."""
        if tensor == self.input.name:
            return (1, *self.size, 3) if self.channels_last else (1, 3, *self.size)
        if tensor in self.initializers:
            return tuple(self.initializers[tensor].dims)
        return tuple(self.values[tensor].shape)

    def constant(self, tensor: str) -> npt.NDArray[Any] | None:
        """The value of a tensor that does not depend on the image (but for its shape), else None."""
        if tensor in self.initializers:
            return np.asarray(numpy_helper.to_array(self.initializers[tensor]))
        return None if tensor in self.dynamic else self.values.get(tensor)

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """The inputs through which the image flows; shapes computed from tensors do not count."""
        candidates = node.input[:1] if node.op_type in RESHAPES else reads(node)
        return [i for i in candidates if i in self.dynamic]

    def dominators(self, target: str) -> list[str]:
        """Tensors that every path from the image to ``target`` crosses, from ``target`` back."""
        order = {self.input.name: 0}
        sets: dict[str, frozenset[str]] = {self.input.name: frozenset([self.input.name])}
        for node in self.nodes:
            inputs = [i for i in self.data_inputs(node) if i in sets]
            if not inputs:
                continue
            common = frozenset.intersection(*(sets[i] for i in inputs))
            for output in node.output:
                order[output] = len(order)
                sets[output] = common | {output}
        return sorted(sets.get(target, frozenset()), key=order.__getitem__, reverse=True)

    def describe(self, node: onnx.NodeProto) -> str:
        """A node as an error names it."""
        return f"{node.op_type} {node.name or node.output[0]!r}"


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads, those of its subgraphs included."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names += reads(inner)
            names += [o.name for o in graph.output]
    return names


def plain_session(model: onnx.ModelProto) -> Any:
    """ONNX Runtime on the CPU without optimisations: the reference, as the file is written."""
    return cpu_session(model.SerializeToString(), optimise=False)


def raise_opset(model: onnx.ModelProto, least: int, purpose: str) -> onnx.ModelProto:
    """A copy of the model at opset ``least``, or at its own where that is later.

    Raises:
        ExportError: it cannot be converted; ``purpose`` says what needs the opset.
    """
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if opset >= least:
        return copy
    try:
        return onnx.version_converter.convert_version(copy, least)
    except Exception as error:
        raise ExportError(
            f"{purpose} needs opset {least}, and the graph cannot be converted ({one_line(error)})"
        ) from error


def skip(graph: Graph, tensor: str, passes: Callable[[onnx.NodeProto], bool]) -> str:
    """Walk back over nodes that keep the values and their order by place and feature."""
    while (node := graph.producer.get(tensor)) is not None and passes(node):
        inputs = graph.data_inputs(node)
        if len(inputs) != 1 or np.prod(graph.shape(inputs[0])) != np.prod(graph.shape(tensor)):
            break
        if np.prod(graph.shape(tensor)[1:]) != max(graph.shape(inputs[0])[1:], default=0):
            break  # a flattened map: more than a change of notation
        tensor = inputs[0]
    return tensor


def single_number(value: npt.NDArray[Any] | None) -> float | None:
    """The one number that an array holds, however often."""
    if value is None or value.size == 0 or not (value == value.reshape(-1)[0]).all():
        return None
    return float(value.reshape(-1)[0])


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            value = onnx.helper.get_attribute_value(attribute)
            return list(value) if isinstance(value, Iterable) and not isinstance(value, bytes) else value
    return default
