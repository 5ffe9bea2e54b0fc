"""The nodes that compute the parts of patch tokens (see ``surgery.tokens``)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from simmap.engine.types import Array

from .affine import Affine
from .blocks import Block, Linear
from .carrying import TAIL_FEATURE, TAIL_PARTS, add_tail
from .nodes import OURS, SOURCE, Nodes
from .readout import Norm
from .steps import Gated
from .tokens import Tokens


class BlockNodes:
    """What the patch tokens add to the last state of the tokens that are read, summed over the blocks.

    These nodes belong to the network, not to the head: they compute in its precision.
    """

    def __init__(self, tokens: Tokens, name: Callable[[str], str]) -> None:
        """Make the nodes.

        Args:
            tokens: what is summed.
            name: from a tensor of the source to its name in the artifact.
        """
        self.tokens, self.name = tokens, name
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.index = self._constant(np.array(tokens.readout.tokens, dtype=np.int64), "read")
        if tokens.is_coarse:
            self.member = self._constant(tokens.cell_of().astype(tokens.dtype), "cells")
        total = ""
        for i, block in enumerate(tokens.blocks):
            effect = self._steps(self._concatenated(block, f"block{i}/"), block.steps, f"block{i}/")
            total = effect if i == 0 else self._add("Add", [total, effect], f"block{i}/total")
        # (N, K cells, C), or (N, K T, C) where a cell is a patch.
        self.total = total
        # (N, K, C): the last state of the tokens that are read.
        self.states = self._add("Gather", [name(tokens.readout.state), self.index], "read_states", axis=1)

    def _constant(self, value: npt.NDArray[Any], name: str) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), f"{SOURCE}{name}"))
        return f"{SOURCE}{name}"

    def _add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        output = f"{SOURCE}{name}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def _reshape(self, tensor: str, shape: tuple[int, ...], name: str) -> str:
        sizes = self._constant(np.array((-1, *shape), dtype=np.int64), f"{name}_shape")
        return self._add("Reshape", [tensor, sizes], name)

    def _concatenated(self, block: Block, prefix: str) -> str:
        """``concat_h(a[h, k, t] V[h, t])`` (N, K T, heads d), or its sum over the tokens of each cell."""
        tokens, heads = self.tokens, block.heads
        read, count = len(tokens.readout.tokens), tokens.count
        width = block.width
        # Whether the batch and the heads are one axis or two, the tokens are the last but one.
        rows = self.rows = self._add(
            "Gather", [self.name(block.weights), self.index], f"{prefix}rows", axis=1 + (not block.is_merged)
        )
        values = self.name(block.values)
        if tokens.is_coarse:
            rows = self._reshape(rows, (heads, read, 1, count), f"{prefix}row")
            shares = self._add("Mul", [rows, self.member], f"{prefix}shares")
            cells = read * tokens.cells[0] * tokens.cells[1]
            shares = self._reshape(shares, (heads, cells, count), f"{prefix}cell_rows")
            if block.is_merged:
                values = self._reshape(values, (heads, count, width), f"{prefix}values")
            each = self._add("MatMul", [shares, values], f"{prefix}each")
            each = self._add("Transpose", [each], f"{prefix}heads_last", perm=[0, 2, 1, 3])
            return self._reshape(each, (cells, heads * width), f"{prefix}concatenated")
        if read == 1:
            rows = self._reshape(rows, (heads, count, 1), f"{prefix}row")
            if block.is_merged:
                values = self._reshape(values, (heads, count, width), f"{prefix}values")
            each = self._add("Mul", [values, rows], f"{prefix}each")
            each = self._add("Transpose", [each], f"{prefix}heads_last", perm=[0, 2, 1, 3])
        else:
            rows = self._reshape(rows, (heads, read, count, 1), f"{prefix}row")
            values = self._reshape(values, (heads, 1, count, width), f"{prefix}values")
            each = self._add("Mul", [values, rows], f"{prefix}each")
            each = self._add("Transpose", [each], f"{prefix}heads_last", perm=[0, 2, 3, 1, 4])
        return self._reshape(each, (read * count, heads * width), f"{prefix}concatenated")

    def _steps(self, tensor: str, steps: tuple[Linear, ...], prefix: str) -> str:
        for i, step in enumerate(steps):
            if not step.tensor:
                continue  # a bias alone
            weight = self.name(step.tensor)
            if step.is_transposed:
                weight = self._add("Transpose", [weight], f"{prefix}weight{i}", perm=[1, 0])
            op = "Mul" if step.value.ndim == 1 else "MatMul"
            tensor = self._add(op, [tensor, weight], f"{prefix}step{i}")
        return tensor


def add_token_head(
    nodes: Nodes, tokens: Tokens, tail: Affine | None, gated: Gated | None, total: str, states: str
) -> int:
    """``embedding`` (N, D) and ``parts`` (N, H, W, D).

    Args:
        nodes: the artifact under construction.
        tokens: of the network.
        tail: the affine map behind the last norm; None for none.
        gated: what follows it; None for nothing.
        total: the sum over the blocks of what each token adds, see ``BlockNodes``.
        states: the last states of the tokens that are read (N, K, C).

    Returns:
        D.
    """
    readout, norm = tokens.readout, tokens.readout.norm
    read = len(readout.tokens)
    channels = len(tokens.blocks[-1].bias())
    total = nodes.add("Cast", [total], "effects", to=TensorProto.FLOAT)
    states = nodes.add("Cast", [states], "states", to=TensorProto.FLOAT)
    shares: str = nodes.floats(np.array(readout.weights)[None, None], "read_weights")  # (1, 1, K)
    if norm is not None:
        states, sigma = add_norm(nodes, states, norm, "")
        row = nodes.constant(np.array([-1, 1, read], dtype=np.int64), "row_shape")
        shares = nodes.add(
            "Div", [shares, nodes.add("Reshape", [sigma, row], "sigma_row")], "effect_weights"
        )  # (N, 1, K)
    weights = nodes.floats(np.array(readout.weights)[None, None], "token_weights")
    vector = nodes.add("MatMul", [weights, states], "token_sum")  # (N, 1, C)
    flat = nodes.constant(np.array([-1, channels], dtype=np.int64), "token_shape")
    vector = nodes.add("Reshape", [vector, flat], "token")
    rows = tokens.cells[0] * tokens.cells[1] if tokens.is_coarse else tokens.count
    each = nodes.constant(np.array([-1, read, rows * channels], dtype=np.int64), "each_shape")
    summed = nodes.add("MatMul", [shares, nodes.add("Reshape", [total, each], "each")], "effect")
    shape = nodes.constant(np.array([-1, rows, channels], dtype=np.int64), "effect_shape")
    effect = nodes.add("Reshape", [summed, shape], "effects_of_tokens")  # (N, cells or T, C)
    if not tokens.is_coarse:
        at = nodes.constant(tokens.places.astype(np.int64), "places")
        effect = nodes.add("Gather", [effect, at], "effects_of_places", axis=1)
    matrix, _ = _head(tokens, tail)
    if matrix.ndim == 2:
        # Subtracting the mean is linear: it goes into the matrix.
        linear = matrix if norm is None else matrix - matrix.mean(axis=1, keepdims=True)
        part = nodes.add("MatMul", [effect, nodes.floats(linear.T, "parts_head")], "places_last")
    else:
        if norm is not None:
            share = f"{OURS}mean_weights"
            effect = nodes.add(
                "Sub", [effect, nodes.add("MatMul", [effect, share], "effect_mean")], "above_mean"
            )
        part = nodes.add("Mul", [effect, nodes.floats_once(matrix, "head")], "places_last")
    feature, name = ("embedding", "parts") if gated is None else (TAIL_FEATURE, TAIL_PARTS)
    vector, dimension = add_head(nodes, tokens, tail, vector, "", feature)
    grid = nodes.constant(np.array([-1, *tokens.cells, dimension], dtype=np.int64), "parts_shape")
    part = nodes.add("Reshape", [part, grid], name)
    if gated is None:
        return dimension
    add_tail(nodes, gated, vector, part)
    return gated.dimension


def add_norm(nodes: Nodes, states: str, norm: Norm, prefix: str) -> tuple[str, str]:
    """``(x - mean(x)) / sigma`` of states (N, K, C), without gain and bias, and sigma (N, K, 1)."""
    channels = len(norm.gain)
    share = nodes.floats_once(np.full((channels, 1), 1 / channels), "mean_weights")
    mean = nodes.add("MatMul", [states, share], f"{prefix}state_mean")
    centred = nodes.add("Sub", [states, mean], f"{prefix}centred")
    square = nodes.add("Mul", [centred, centred], f"{prefix}square")
    variance = nodes.add("MatMul", [square, share], f"{prefix}variance")
    above = nodes.add("Add", [variance, nodes.floats_once(norm.epsilon, "epsilon")], f"{prefix}above")
    sigma = nodes.add("Sqrt", [above], f"{prefix}sigma")
    return nodes.add("Div", [centred, sigma], f"{prefix}normed"), sigma


def add_head(
    nodes: Nodes, tokens: Tokens, tail: Affine | None, vector: str, prefix: str, name: str = "token_head"
) -> tuple[str, int]:
    """The norm's gain and bias and the affine tail, of normed states (N, C).

    Returns:
        A tensor (N, D), and D.
    """
    matrix, bias = _head(tokens, tail)
    dense = matrix.ndim == 2
    weight = nodes.floats_once(matrix.T if dense else matrix, "head")
    vector = nodes.add("MatMul" if dense else "Mul", [vector, weight], f"{prefix}linear")
    return nodes.add("Add", [vector, nodes.floats_once(bias, "bias")], name), len(bias)


def cell_shares(tokens: Tokens) -> Array:
    """(cells, T): the share that a token has in the mean of each cell."""
    member = tokens.cell_of().astype(np.float64)
    return np.asarray(member / member.sum(axis=1, keepdims=True))


def _head(tokens: Tokens, tail: Affine | None) -> tuple[Array, Array]:
    """The norm's gain and bias followed by the tail, as one affine map of the normed state."""
    readout, channels = tokens.readout, len(tokens.blocks[-1].bias())
    norm = readout.norm
    gain = np.ones(channels) if norm is None else norm.gain
    shift = np.zeros(channels) if norm is None else norm.bias * sum(readout.weights)
    whole = Affine(gain, shift)
    whole = whole if tail is None else whole.then(tail.matrix, tail.bias)
    return whole.matrix, whole.bias
