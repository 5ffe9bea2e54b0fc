"""A convolution that may become int8."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from simmap.engine.types import Array

DAMPING = 0.01  # of the mean diagonal, as in GPTQ
BLOCK = 128  # columns whose corrections are applied to the later ones in one product


@dataclass
class Layer:
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
        """See ``round_weights``; for when the statistics are complete."""
        return round_weights(self)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def round_weights(layer: Layer) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], Array]:
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
