"""What each place adds to a gated embedding, in float64 and apart from the artifact, for the export gate.

The tail runs once on the feature itself. Then every gate, divisor and factor is held at the value that it
had, which leaves an affine map, and this map takes what each place adds one by one, and zero.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from simmap.engine.types import Array

from .surgery.attention import Attention
from .surgery.carrying import weight_name
from .surgery.elementwise import evaluate
from .surgery.exposing import FLAT_HEAD
from .surgery.exposure import Exposure
from .surgery.steps import Gated, Step


def as_stored(exposure: Exposure, gated: Gated, model: onnx.ModelProto) -> Exposure:
    """The same with the weights behind the feature map that the artifact holds, rounded as they are there.

    Args:
        exposure: of the source.
        gated: its gated tail.
        model: the artifact's graph.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def read(name: str) -> Array | None:
        tensor = tensors.get(name, tensors.get(f"{name}_fp16"))
        return None if tensor is None else numpy_helper.to_array(tensor).astype(np.float64)

    def weight(step: Step, name: str, value: Array | None) -> Array | None:
        stored = read(weight_name(step, name))
        if value is None or stored is None:
            return value
        return stored.T if stored.ndim == 2 else stored

    steps = tuple(
        replace(s, matrix=weight(s, "matrix", s.matrix), bias=weight(s, "bias", s.bias)) for s in gated.steps
    )
    stored = replace(gated, steps=steps)
    stored = replace(stored, bias=None if gated.bias is None else _constant_rest(stored))
    cube, tail = read(FLAT_HEAD), exposure.tail
    if exposure.pooling == "flatten" and cube is not None and tail is not None:
        tail = replace(tail, matrix=cube.transpose(2, 1, 0).reshape(tail.matrix.shape))
    return replace(exposure, tail=tail, gated=stored)


def _constant_rest(gated: Gated) -> Array:
    """What no place owns, where that is the same for all images: only zeros meet what is held."""
    assert gated.start_bias is not None
    flows = {gated.start: gated.start_bias}
    for step in gated.steps:
        if step.output in gated.carriers:
            given = [flows[i] for i in step.carried]
            is_linear = step.is_linear
            flows[step.output] = _LINEAR[step.rule](step, given, True) if is_linear else np.zeros(step.size)
    return flows[gated.output]


def attended_parts(attention: Attention, weights: Array, values: Array) -> Array:
    """What each place adds to the pooled feature, (N, H, W, C) float64, place by place in NumPy."""
    _, height, width = attention.shape
    count = weights.size // (attention.heads * attention.queries * attention.tokens)
    share = weights.reshape(count, attention.heads, attention.queries, attention.tokens)[:, :, 0]
    value = values.reshape(count, attention.heads, attention.tokens, attention.width).astype(np.float64)
    rows = [
        (share[:, :, t, None].astype(np.float64) * value[:, :, t]).reshape(count, -1)
        for t in range(attention.tokens)
    ]
    if attention.has_mean:
        rows = [row + rows[0] / (height * width) for row in rows[1:]]
    return np.stack(rows, axis=1).reshape(count, height, width, -1)


def run(gated: Gated, feature: Array) -> Array:
    """The embedding (N, D) float64 that the tail gives of features (N, F)."""
    return _values(gated, feature)[gated.output]


def _values(gated: Gated, feature: Array) -> dict[str, Array]:
    values: dict[str, Array] = {gated.start: feature.astype(np.float64)}
    for step in gated.steps:
        values[step.output] = _run(step, [values[i] for i in step.inputs], gated.opset)
    return values


def carry(gated: Gated, feature: Array, parts: Array) -> tuple[Array, Array]:
    """What each place adds to the embedding, and what no place owns.

    Args:
        gated: the tail.
        feature: (N, F) that the tail reads.
        parts: (N, H, W, F), what each place adds to it.

    Returns:
        (N, H, W, D) and (N, D), float64. Their sum over places is the embedding.
    """
    values = _values(gated, feature)
    count, height, width, size = parts.shape
    flat = parts.astype(np.float64).reshape(count, height * width, size)
    each = _held(gated, values, flat, with_bias=False)
    rest = _held(gated, values, np.zeros((count, 1, size)), with_bias=True)[:, 0]
    # What of the feature itself no place owns goes the same way.
    left: Array = values[gated.start] - flat.sum(axis=1)
    rest = rest + _held(gated, values, left[:, None], with_bias=False)[:, 0]
    return each.reshape(count, height, width, -1), rest


def _held(gated: Gated, values: dict[str, Array], start: Array, *, with_bias: bool) -> Array:
    """The tail with everything held that is not linear, of vectors (N, P, F)."""
    flows = {gated.start: start}
    for step in gated.steps:
        if step.output not in gated.carriers:
            continue
        given = [flows[i] for i in step.carried]
        if step.rule == "gate":
            z, y = values[step.inputs[0]], values[step.output]
            flow = given[0] * np.divide(y, z, out=np.zeros_like(y), where=z != 0)[:, None]
        elif step.rule == "scale":
            factor = values[step.inputs[1]][:, None]
            flow = given[0] / factor if step.divides else given[0] * factor
        else:
            flow = _LINEAR[step.rule](step, given, with_bias)
        flows[step.output] = flow
    return flows[gated.output]


def _run(step: Step, values: list[Array], opset: int) -> Array:
    """A step's vector (N, F) from its inputs'."""
    if step.rule == "scale":
        return values[0] / values[1] if step.divides else values[0] * values[1]
    if step.rule == "norm":
        return np.asarray(np.linalg.norm(values[0], axis=1, keepdims=True))
    if step.rule in ("gate", "function") and step.node is not None:
        given, inputs = list(values), []
        for name, constant in zip(step.node.input, step.constants, strict=True):
            inputs.append(constant if constant is not None else given.pop(0) if name else None)
        return np.asarray(evaluate(step.node, inputs, opset)[0], dtype=np.float64)
    return _LINEAR[step.rule](step, values, True)


def _linear(step: Step, values: list[Array], with_bias: bool) -> Array:
    matrix, bias = np.asarray(step.matrix), np.asarray(step.bias)
    product: Array = values[0] * matrix if matrix.ndim == 1 else values[0] @ matrix.T
    return np.asarray(product + bias) if with_bias else product


_LINEAR: dict[str, Callable[[Step, list[Array], bool], Array]] = {
    "linear": _linear,
    "pick": lambda step, values, _: values[0][..., step.index],
    "sum": lambda step, values, _: values[0] + step.signs[1] * values[1],
    "mean": lambda step, values, _: values[0].mean(axis=-1, keepdims=True),
    "concat": lambda step, values, _: np.concatenate(values, axis=-1),
}
