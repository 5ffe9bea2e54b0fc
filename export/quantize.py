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

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
from simmap.export.onnx_source import plain_session, raise_opset

Array = npt.NDArray[np.floating[Any]]

# Shares of all multiplications that the first layers may keep in float32.
FLOAT_SHARES = (0.07, 0.14, 0.28)
# Per photo: places of a layer that its rounding looks at, and values of a tensor that its range does.
PLACES, VALUES = 128, 2048
DAMPING = 0.01  # of the mean diagonal, as in GPTQ
BLOCK = 128  # columns whose corrections are applied to the later ones in one product
OPSET = 13  # the first with a scale for each channel


@dataclass
class _Layer:
    """A convolution that may become int8.

    Attributes:
        node: the ``Conv``.
        input, output: the tensors that are quantised; the activation that follows belongs to the layer.
        weight: (O, I / groups, kh, kw).
        bias: (O,).
        groups: of the convolution.
        gram: (groups, K, K), the mean over places of ``x x^T``, K = I / groups * kh * kw.
        mean: (groups, K), the mean of x.
    """

    node: onnx.NodeProto
    input: str
    output: str
    weight: Array
    bias: Array
    groups: int
    gram: Array = field(default_factory=lambda: np.zeros(0))
    mean: Array = field(default_factory=lambda: np.zeros(0))

    @cached_property
    def rounded(self) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], Array]:
        """See ``_round``; for when the statistics are complete."""
        return _round(self)


def candidates(
    model: onnx.ModelProto, spec: InputSpec, photos: Sequence[str | Path]
) -> Iterator[tuple[float, onnx.ModelProto]]:
    """int8 copies of an exposed graph (see ``graph.expose``), the fastest first, the nearest last.

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
    ranges = _calibrate(model, layers[counts[0] :], _prepared(photos, spec))
    for count in counts:
        yield float(shares[count - 1]), _rewrite(model, layers[count:], ranges)


def _prepared(photos: Sequence[str | Path], spec: InputSpec) -> Iterator[npt.NDArray[np.uint8]]:
    """The network's input (1, height, width, 3) for each photo."""
    for path in photos:
        yield preprocess(load(path).pixels, spec)[0][None]


def _layers(model: onnx.ModelProto, spec: InputSpec) -> tuple[list[_Layer], Array]:
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
        groups = int(_attribute(node, "group", 1))
        layers.append(_Layer(node, node.input[0], output, weight, bias.astype(np.float64), groups))
    if len(layers) < 2:
        raise ExportError(
            "int8 speeds convolutions up, and this network has too few of them; use precision fp16"
        )
    session = plain_session(_exposing(model, [layer.output for layer in layers]))
    grey = np.full((1, spec.height, spec.width, 3), 128, np.uint8)
    values = session.run([layer.output for layer in layers], {"image": grey})
    products = [v[0, 0].size * layer.weight.size for v, layer in zip(values, layers, strict=True)]
    costs = np.cumsum(products)
    return layers, costs / costs[-1]


def _exposing(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives inner tensors as well."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in dict.fromkeys(tensors) if t not in known)
    return copy


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _calibrate(
    model: onnx.ModelProto, layers: Sequence[_Layer], batches: Iterator[npt.NDArray[np.uint8]]
) -> dict[str, tuple[float, float]]:
    """Fill in the layers' statistics in one pass and give each tensor's range."""
    tensors = list(dict.fromkeys(t for layer in layers for t in (layer.input, layer.output)))
    session = plain_session(_exposing(model, tensors))
    rng = np.random.default_rng(0)
    samples: dict[str, list[Array]] = {tensor: [] for tensor in tensors}
    ends: dict[str, tuple[float, float]] = dict.fromkeys(tensors, (0.0, 0.0))
    count = 0
    for batch in batches:
        values = dict(zip(tensors, session.run(tensors, {"image": batch}), strict=True))
        for tensor, value in values.items():
            low, high = ends[tensor]
            ends[tensor] = min(low, float(value.min())), max(high, float(value.max()))
            samples[tensor].append(value.ravel()[rng.integers(value.size, size=VALUES)])
        count += 1
        for layer in layers:
            patches = _patches(layer, values[layer.input][0], rng)
            gram = (patches / patches.shape[1]).transpose(0, 2, 1) @ patches
            mean = patches.mean(axis=1)
            if count == 1:
                layer.gram, layer.mean = gram, mean
            else:
                layer.gram += gram
                layer.mean += mean
    for layer in layers:
        layer.gram /= count
        layer.mean /= count
    return {tensor: _range(np.concatenate(samples[tensor]), *ends[tensor]) for tensor in tensors}


def _patches(layer: _Layer, value: Array, rng: np.random.Generator) -> Array:
    """What the kernel sees of a tensor (I, H, W) at some places: (groups, places, K)."""
    node, kernel = layer.node, layer.weight.shape[2:]
    strides, dilations = (_attribute(node, name, [1, 1]) for name in ("strides", "dilations"))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = list(_attribute(node, "pads", [0, 0, 0, 0]))
    auto = _attribute(node, "auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        for axis in (0, 1):
            size, stride = value.shape[1 + axis], strides[axis]
            total = max((math.ceil(size / stride) - 1) * stride + spans[axis] - size, 0)
            less, more = total // 2, total - total // 2
            pads[axis], pads[axis + 2] = (less, more) if auto == b"SAME_UPPER" else (more, less)
    padded = np.pad(value, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    rows, columns = ((padded.shape[1 + axis] - spans[axis]) // strides[axis] + 1 for axis in (0, 1))
    places = rng.permutation(rows * columns)[:PLACES]
    y, x = places // columns * strides[0], places % columns * strides[1]
    dy, dx = np.arange(kernel[0]) * dilations[0], np.arange(kernel[1]) * dilations[1]
    found = padded[:, y[:, None, None] + dy[:, None], x[:, None, None] + dx]  # (I, places, kh, kw)
    grouped = found.reshape(layer.groups, -1, *found.shape[1:])
    return np.ascontiguousarray(grouped.transpose(0, 2, 1, 3, 4).reshape(layer.groups, len(places), -1))


def _range(values: Array, low: float, high: float) -> tuple[float, float]:
    """The part of [low, high] that costs these values the least squared error in 255 steps."""
    best = (math.inf, low, high)
    for share in np.linspace(1, 0.4, 31):
        scale, zero = _scale(low * share, high * share)
        levels = np.clip(np.rint(values / scale) + zero, 0, 255)
        error = float(np.square((levels - zero) * scale - values).mean())
        best = min(best, (error, low * share, high * share))
    return best[1:]


def _scale(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Step and zero point of uint8 over a range that has 0 in it; 0 itself is exact, as padding is."""
    scale = np.float32((high - low) / 255 or 1.0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def _round(layer: _Layer) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], Array]:
    """Weights (O, ...) as int8, the step of each output channel (O,), and the bias (O,) made good."""
    shape, groups = layer.weight.shape, layer.groups
    weight = layer.weight.reshape(groups, shape[0] // groups, -1)
    steps = np.abs(weight).max(axis=2).astype(np.float32) / np.float32(127)
    steps[steps == 0] = 1
    mean = layer.mean.astype(np.float64)
    cost = layer.gram - mean[:, :, None] * mean[:, None, :]
    diagonal = np.einsum("gkk->gk", cost).copy()
    # Of the whole, not the centred diagonal: it stands above what float32 left of a mean taken off.
    size = np.einsum("gkk->g", layer.gram).astype(np.float64) / cost.shape[1]
    cost += (DAMPING * size + 1e-12)[:, None, None] * np.eye(cost.shape[1])
    # The columns that matter most come first, while all the others are left to make good.
    order = np.argsort(-diagonal, axis=1, kind="stable")
    cost = np.take_along_axis(np.take_along_axis(cost, order[:, :, None], 1), order[:, None, :], 2)
    rest = np.take_along_axis(weight, order[:, None, :], 2)
    spread = np.linalg.cholesky(np.linalg.inv(cost)).transpose(0, 2, 1)
    levels = np.zeros_like(rest)
    columns = rest.shape[2]
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        errors = np.zeros((*rest.shape[:2], end - start))
        for k in range(start, end):
            levels[:, :, k] = np.clip(np.rint(rest[:, :, k] / steps), -127, 127)
            errors[:, :, k - start] = (rest[:, :, k] - levels[:, :, k] * steps) / spread[:, k, k, None]
            rest[:, :, k + 1 : end] -= errors[:, :, k - start, None] * spread[:, k, None, k + 1 : end]
        rest[:, :, end:] -= errors @ spread[:, start:end, end:]
    levels = np.take_along_axis(levels, np.argsort(order, axis=1)[:, None, :], 2)
    shift = np.einsum("gok,gk->go", weight - levels * steps[:, :, None], mean)
    return levels.reshape(shape).astype(np.int8), steps.ravel(), layer.bias + shift.ravel()


def _rewrite(
    model: onnx.ModelProto, layers: Sequence[_Layer], ranges: dict[str, tuple[float, float]]
) -> onnx.ModelProto:
    """Put QuantizeLinear and DequantizeLinear around the layers."""
    touched = {tensor for layer in layers for tensor in (layer.input, layer.output)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    outputs = {o.name for o in graph.output}
    scales = {tensor: _scale(*ends) for tensor, ends in ranges.items() if tensor in touched}
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
