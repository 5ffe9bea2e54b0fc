"""Ranges and statistics of a network's tensors, from photos."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx

from simmap.engine.types import Array

from ..surgery.graph import plain_session
from .layers import Layer, attribute

# Per photo: places of a layer that its rounding looks at, and values of a tensor that its range does.
PLACES, VALUES = 128, 2048


def exposing(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives inner tensors as well."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {o.name for o in model.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=t) for t in dict.fromkeys(tensors) if t not in known)
    return copy


def calibrate(
    model: onnx.ModelProto, layers: Sequence[Layer], batches: Iterator[npt.NDArray[np.uint8]]
) -> dict[str, tuple[float, float]]:
    """Fill in the layers' statistics in one pass and give each tensor's range."""
    tensors = list(dict.fromkeys(t for layer in layers for t in (layer.input, layer.output)))
    session = plain_session(exposing(model, tensors))
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
            seen = patches(layer, values[layer.input][0], rng)
            gram = (seen / seen.shape[1]).transpose(0, 2, 1) @ seen
            mean = seen.mean(axis=1)
            if count == 1:
                layer.gram, layer.mean = gram, mean
            else:
                layer.gram += gram
                layer.mean += mean
    for layer in layers:
        layer.gram /= count
        layer.mean /= count
    return {tensor: best_range(np.concatenate(samples[tensor]), *ends[tensor]) for tensor in tensors}


def patches(layer: Layer, value: Array, rng: np.random.Generator) -> Array:
    """What the kernel sees of a tensor (I, H, W) at some places: (groups, places, K)."""
    node, kernel = layer.node, layer.weight.shape[2:]
    strides, dilations = (attribute(node, name, [1, 1]) for name in ("strides", "dilations"))
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = list(attribute(node, "pads", [0, 0, 0, 0]))
    auto = attribute(node, "auto_pad", b"NOTSET")
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
    windows = padded[:, y[:, None, None] + dy[:, None], x[:, None, None] + dx]  # (I, places, kh, kw)
    grouped = windows.reshape(layer.groups, -1, *windows.shape[1:])
    return np.ascontiguousarray(grouped.transpose(0, 2, 1, 3, 4).reshape(layer.groups, len(places), -1))


def best_range(values: Array, low: float, high: float) -> tuple[float, float]:
    """The part of [low, high] that costs these values the least squared error in 255 steps."""
    best = (math.inf, low, high)
    for share in np.linspace(1, 0.4, 31):
        scale, zero = quantization_step(low * share, high * share)
        levels = np.clip(np.rint(values / scale) + zero, 0, 255)
        error = float(np.square((levels - zero) * scale - values).mean())
        best = min(best, (error, low * share, high * share))
    return best[1:]


def quantization_step(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Step and zero point of uint8 over a range that has 0 in it; 0 itself is exact, as padding is."""
    scale = np.float32((high - low) / 255 or 1.0)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))
