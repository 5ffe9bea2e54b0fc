"""int8 for the CPU: convolutions in uint8 x int8, calibrated on photos, everything else in float32.

The graph stays plain ONNX: QuantizeLinear and DequantizeLinear around each convolution, which ONNX
Runtime fuses into integer kernels. What keeps the maps close to those of float32:

- the first layers stay in float: what they lose, all others inherit, and there int8 gains least; more of
  them stay where few are not enough;
- the sums of a residual network are taken in float, and only rounded where an int8 layer reads them;
- a tensor's range is the one of least squared error, not the range of its extremes;
- weights are rounded column by column, each column making good what the ones before it did to the
  layer's output on real photos (Frantar et al., GPTQ, ICLR 2023, arXiv 2210.17323), here with the
  inputs' mean taken off, so that the bias takes over the mean error exactly (Nagel et al., Data-Free
  Quantization, ICCV 2019, arXiv 1906.04721).

Pooling, head and parts stay in float32 behind the dequantised feature map, so a map still sums to its
score: it explains the network that runs.

x86 CPUs without VNNI (before 2019) add pairs of products in 16 bits, which may saturate; the gate sees that
only on the machine that exports.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from simmap.engine.contract import InputSpec
from simmap.engine.errors import ExportError
from simmap.engine.images.decode import load
from simmap.engine.images.preprocess import preprocess
from simmap.engine.types import Array

from ..surgery.graph import plain_session, raise_opset
from .calibration import calibrate, exposing, quantization_step
from .layers import Layer, attribute

# Shares of all multiplications that the first layers may keep in float32.
FLOAT_SHARES = (0.07, 0.14, 0.28)
OPSET = 13  # the first with a scale for each channel


def candidates(
    model: onnx.ModelProto, spec: InputSpec, photos: Sequence[str | Path]
) -> Iterator[tuple[float, onnx.ModelProto]]:
    """int8 copies of an exposed graph (see ``surgery.exposing``), the fastest first, the nearest last.

    Args:
        model: float32, with the input ``image`` and the output ``conv``.
        spec: how a photo becomes the input.
        photos: files to calibrate on; read once, one at a time.

    Yields:
        The share of multiplications that stay in float32, and the graph.

    Raises:
        ExportError: there is no convolution to quantise, or the graph's opset cannot be raised to 13.
        ImageError: a photo cannot be read.
    """
    model = raise_opset(model, OPSET, "int8")
    layers, shares = _layers(model, spec)
    # How many of the first layers stay: one at least, and not all.
    counts = [max(1, int(np.searchsorted(shares, most, side="right"))) for most in FLOAT_SHARES]
    counts = sorted({count for count in counts if count < len(layers)})
    ranges = calibrate(model, layers[counts[0] :], _prepared(photos, spec))
    for count in counts:
        yield float(shares[count - 1]), _rewrite(model, layers[count:], ranges)


def _prepared(photos: Sequence[str | Path], spec: InputSpec) -> Iterator[npt.NDArray[np.uint8]]:
    """The network's input (1, height, width, 3) for each photo."""
    for path in photos:
        yield preprocess(load(path).pixels, spec)[0][None]


def _layers(model: onnx.ModelProto, spec: InputSpec) -> tuple[list[Layer], Array]:
    """The convolutions with constant weights, and the share of all multiplications up to each."""
    weights = {w.name: w for w in model.graph.initializer}
    readers = defaultdict(list)
    for node in model.graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {o.name for o in model.graph.output}
    layers = []
    for node in model.graph.node:
        if node.op_type != "Conv" or any(name not in weights for name in node.input[1:] if name):
            continue
        if weights[node.input[1]].data_type != TensorProto.FLOAT or len(weights[node.input[1]].dims) != 4:
            continue
        output = node.output[0]
        if output not in outputs and [n.op_type for n in readers[output]] in (["Relu"], ["Clip"]):
            output = readers[output][0].output[0]
        weight = numpy_helper.to_array(weights[node.input[1]]).astype(np.float64)
        has_bias = len(node.input) > 2 and node.input[2] != ""
        bias = numpy_helper.to_array(weights[node.input[2]]) if has_bias else np.zeros(len(weight))
        groups = int(attribute(node, "group", 1))
        layers.append(Layer(node, node.input[0], output, weight, bias.astype(np.float64), groups))
    if len(layers) < 2:
        raise ExportError(
            "int8 speeds convolutions up, and this network has too few of them; use precision fp16"
        )
    session = plain_session(exposing(model, [layer.output for layer in layers]))
    grey = np.full((1, spec.height, spec.width, 3), 128, np.uint8)
    values = session.run([layer.output for layer in layers], {"image": grey})
    products = [v[0, 0].size * layer.weight.size for v, layer in zip(values, layers, strict=True)]
    costs = np.cumsum(products)
    return layers, costs / costs[-1]


def _rewrite(
    model: onnx.ModelProto, layers: Sequence[Layer], ranges: dict[str, tuple[float, float]]
) -> onnx.ModelProto:
    """Put QuantizeLinear and DequantizeLinear around the layers."""
    touched = {tensor for layer in layers for tensor in (layer.input, layer.output)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    outputs = {o.name for o in graph.output}
    scales = {tensor: quantization_step(*ends) for tensor, ends in ranges.items() if tensor in touched}
    stored: list[onnx.TensorProto] = []

    def store(name: str, value: npt.NDArray[Any] | np.generic) -> str:
        stored.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    for tensor, (scale, zero) in scales.items():
        store(f"{tensor}/scale", scale)
        store(f"{tensor}/zero", zero)
    by_output = {layer.node.output[0]: layer for layer in layers}
    nodes: list[onnx.NodeProto] = []

    def dequantize(name: str, values: npt.NDArray[Any], steps: npt.NDArray[np.float32]) -> str:
        """A constant per channel; its zero point is left out, which means 0."""
        inputs = [store(f"{name}/int", values), store(f"{name}/scale", steps)]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=name, axis=0))
        return name

    integer = {tensor for tensor in scales if tensor in {layer.output for layer in layers}}
    for node in graph.node:
        layer = by_output.get(node.output[0])
        # What a layer in float gave stays in float for every reader but the int8 layers: sums along a
        # residual network then do not round again at each block.
        rounded = integer if layer is None else scales.keys()
        if layer is not None:
            levels, steps, bias = layer.rounded
            weight = dequantize(f"{node.output[0]}/weight", levels, steps)
            # The accumulator's own step, so that ONNX Runtime adds the bias as int32.
            steps = steps * scales[layer.input][0]
            limits = np.iinfo(np.int32)
            whole = np.clip(np.rint(bias / steps), limits.min, limits.max).astype(np.int32)
            node.input[:] = [node.input[0], weight, dequantize(f"{node.output[0]}/bias", whole, steps)]
        node.input[:] = [f"{i}/dequantized" if i in rounded and i not in outputs else i for i in node.input]
        made = [output for output in node.output if output in scales]
        node.output[:] = [f"{o}/float" if o in made and o in outputs else o for o in node.output]
        nodes.append(node)
        for output in made:
            given, end = (
                (f"{output}/float", output) if output in outputs else (output, f"{output}/dequantized")
            )
            grid = [f"{output}/scale", f"{output}/zero"]
            level = f"{output}/quantized"
            nodes.append(helper.make_node("QuantizeLinear", [given, *grid], [level], name=level))
            nodes.append(helper.make_node("DequantizeLinear", [level, *grid], [end], name=f"{level}/back"))
    rewritten = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(rewritten)
    read = {name for node in graph.node for name in node.input}
    kept = [w for w in graph.initializer if w.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *stored])
    onnx.checker.check_model(copy)
    return copy
