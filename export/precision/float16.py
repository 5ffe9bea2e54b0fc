"""float16: as a way to store weights, or as the arithmetic of the convolutions on CUDA."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from simmap.engine.errors import ExportError

from ..surgery.carrying import TAIL
from ..surgery.exposing import NETWORK_INPUT, normalises
from ..surgery.graph import raise_opset
from ..surgery.nodes import OURS

# Weights smaller than this (in numbers) stay float32 where float16 only stores them: they are biases and
# scales, weigh nothing, and lose the most.
LEAST_SIZE = 1024
# The first opset whose Clip takes float16 on CUDA; an older one would run on the CPU.
OPSET = 12


def store(model: onnx.ModelProto) -> None:
    """Store the weights as float16, cast back at load: half the file, float32 arithmetic.

    Raises:
        ExportError: a weight is too large for float16.
    """
    casts = []
    for tensor in model.graph.initializer:
        is_vector = tensor.name.startswith(TAIL) and len(tensor.dims) < 2
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST_SIZE or is_vector:
            continue
        value = _as_float16(tensor)
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(value, f"{name}_fp16"))
        casts.append(
            helper.make_node("Cast", [tensor.name], [name], name=f"{name}_fp32", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def compute(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an exposed graph (see ``surgery.exposing``) whose network computes in float16.

    Normalisation, pooling, head and parts stay in float32, so maps still sum to their score; the feature map
    is cast back to float32. float16 products are added up in float32.

    Args:
        model: float32, with the input ``image`` and the output ``conv``.

    Raises:
        ExportError: a weight is too large for float16, or the graph's opset cannot be raised to 12.
    """
    copy = raise_opset(model, OPSET, "float16 arithmetic")
    body = [node for node in copy.graph.node if not node.name.startswith(OURS)]
    ours = [node for node in copy.graph.node if node.name.startswith(OURS)]
    read = {name for node in body for name in node.input}
    made = {name for node in body for name in node.output}
    wanted = {name for node in ours for name in node.input} | {output.name for output in copy.graph.output}
    inputs = sorted(read & {name for node in ours for name in node.output})
    outputs = sorted(made & wanted)
    weights = [tensor for tensor in copy.graph.initializer if tensor.name in read]
    for tensor in weights:
        if tensor.data_type == TensorProto.FLOAT:
            _as_float16(tensor)  # the conversion clips without a word
    # A source that takes bytes casts them itself.
    is_float = normalises(copy)
    given = TensorProto.FLOAT if is_float else TensorProto.UINT8
    graph = helper.make_graph(
        body, "body", _values(inputs, given), _values(outputs, TensorProto.FLOAT), initializer=weights
    )
    half = helper.make_model(
        graph, opset_imports=copy.opset_import, functions=copy.functions, ir_version=copy.ir_version
    )
    half = convert_float_to_float16(half, disable_shape_infer=True)
    OnnxModel.graph_topological_sort(half.graph)
    for node in half.graph.node:
        node.input[:] = [f"{name}/fp16" if name in outputs else name for name in node.input]
        node.output[:] = [f"{name}/fp16" if name in outputs else name for name in node.output]
    casts = [
        helper.make_node("Cast", [f"{name}/fp16"], [name], f"{OURS}fp32/{name}", to=TensorProto.FLOAT)
        for name in outputs
    ]
    # ``expose`` has them in this order: ours in front, the network, ours behind.
    front = next(at for at, node in enumerate(ours) if node.name == NETWORK_INPUT)
    if is_float:
        last = ours[front]
        ours[front] = helper.make_node("Cast", last.input, last.output, last.name, to=TensorProto.FLOAT16)
    nodes = [*ours[: front + 1], *half.graph.node, *casts, *ours[front + 1 :]]
    kept = [tensor for tensor in copy.graph.initializer if tensor.name not in read]
    del copy.graph.node[:], copy.graph.initializer[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend([*half.graph.initializer, *kept])
    return copy


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 copy that rounds to float16, range included, what ``compute`` has in float16.

    ONNX Runtime computes a float16 graph on the CPU in float32 and leaves most of the rounding out, so what
    overflows on CUDA would pass there unseen.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    is_float = {
        value.name
        for value in [*inferred.graph.value_info, *inferred.graph.output]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes = []
    for node in copy.graph.node:
        nodes.append(node)
        if node.name.startswith(OURS) and node.name != NETWORK_INPUT:
            continue
        for at, name in enumerate(node.output):
            if name in is_float:
                node.output[at] = f"{name}/exact"
                nodes += [
                    helper.make_node("Cast", [f"{name}/exact"], [f"{name}/fp16"], to=TensorProto.FLOAT16),
                    helper.make_node("Cast", [f"{name}/fp16"], [name], to=TensorProto.FLOAT),
                ]
    read = {name for node in nodes if not node.name.startswith(OURS) for name in node.input}
    for tensor in copy.graph.initializer:
        if tensor.name in read and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_as_float16(tensor).astype(np.float32), tensor.name))
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _values(names: Sequence[str], kind: int) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, kind, None) for name in names]


def _as_float16(tensor: onnx.TensorProto) -> npt.NDArray[np.float16]:
    value = numpy_helper.to_array(tensor)
    if value.size and np.abs(value).max() > np.finfo(np.float16).max:
        raise ExportError(f"weight {tensor.name!r} is too large for float16; use precision fp32")
    return value.astype(np.float16)
