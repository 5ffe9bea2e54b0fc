"""What a transformer itself computes of its tokens' parts: in float64, one image at a time.

``parts and rest sum to the embedding`` proves nothing where the rest is what remains. So each step is held
against a tensor that the source itself gives: all tokens of a block, class token and registers included,
and the output bias must give the branch's own row, the branches the last state, and the last state and head
the embedding.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from simmap.engine.contract import OPTIONAL
from simmap.engine.types import Array

from ..held import run as run_tail
from ..surgery.affine import Affine
from ..surgery.carrying import TOKEN_TAIL
from ..surgery.exposure import Exposure
from ..surgery.graph import Graph, plain_session
from ..surgery.tokens import Tokens
from .reference import Reference

PROOFS = ("blocks", "state", "head")
"""What is held against the source alone, whatever the precision of the artifact."""
_INDEX = "simmap/read"


def token_reference(graph: Graph, tokens: Tokens, exposure: Exposure) -> Reference:
    """The embedding, parts, and what proves them, of the source file itself.

    Returns:
        A function that gives, by name, pairs of what is summed and what the source has:

        - ``embedding`` and ``parts``: the artifact's against the source's; with gates behind the token,
          ``feature`` in front of them and ``feature parts`` in place of ``parts``;
        - ``tokens`` and ``last_attention``: likewise;
        - ``blocks``: for each attention branch, the sum over all tokens and b_O against the branch;
        - ``state``: the sum of all branches against the last state;
        - ``head``: the norm and the affine head of that state against the feature or embedding.
    """
    gated, target = exposure.gated, str(exposure.embedding)
    feature = target if gated is None else tokens.readout.output
    names = {block.weights: f"{block.weights}/simmap" for block in tokens.blocks}
    values = [block.values for block in tokens.blocks]
    wanted = [tokens.readout.state, *tokens.branches, *values, feature, target]
    outputs = list(dict.fromkeys([*wanted, *names.values()]))
    session = plain_session(_with_rows(graph, tokens, names, wanted))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.input_type)

    def run(batch: Array, found: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
        feed = batch.transpose(0, 2, 3, 1) if graph.channels_last else batch
        rows = []
        for image in feed:
            given = session.run(outputs, {graph.input.name: image[None].astype(dtype)})
            tensors: dict[str, Array] = {
                name: np.asarray(value, np.float64) for name, value in zip(outputs, given, strict=True)
            }
            row = _of_one_image(tensors, tokens, exposure.tail, feature, names)
            rows.append({**row, "embedding": (np.zeros(()), tensors[target].reshape(-1))})
        expected = {name: np.stack([row[name][1] for row in rows]) for name in rows[0]}
        summed = {name: np.stack([row[name][0] for row in rows]) for name in rows[0]}
        if gated is not None:
            vectors = expected["tokens"]
            flat = run_tail(gated, vectors.reshape(-1, vectors.shape[-1]))
            expected["tokens"] = flat.reshape(*vectors.shape[:-1], -1)
        pairs = {name: (name, name) for name in ("embedding", *OPTIONAL)}
        if gated is None:
            pairs["parts"] = ("parts", "parts")
        else:
            pairs |= {"feature": (TOKEN_TAIL[0], "head"), "feature parts": (TOKEN_TAIL[1], "parts")}
        return {
            **{name: (found[ours], expected[own].astype(np.float32)) for name, (ours, own) in pairs.items()},
            **{name: (summed[name], expected[name]) for name in PROOFS},
        }

    return run


def _of_one_image(
    tensors: dict[str, Array], tokens: Tokens, tail: Affine | None, feature: str, names: dict[str, str]
) -> dict[str, tuple[Array, Array]]:
    """Pairs of what is summed and what the source has, for one image."""
    readout, read = tokens.readout, list(tokens.readout.tokens)

    def rows(tensor: str) -> Array:
        """(K, C): the tokens that are read; at batch 1 every notation has them in this order."""
        return tensors[tensor].reshape(tokens.count, -1)[read]

    effects: Array = np.zeros(())
    sums, branches = [], []
    for block in tokens.blocks:
        weights = tensors[names[block.weights]].reshape(block.heads, len(read), tokens.count)
        value = tensors[block.values].reshape(block.heads, tokens.count, -1)
        each = np.einsum("hkt,htd->kthd", weights, value).reshape(len(read), tokens.count, -1)
        effect = block.apply(each)  # (K, T, C)
        branch = rows(block.branch)
        size = np.abs(branch).max() + np.finfo(np.float64).tiny  # a small block counts as a large one
        sums.append((effect.sum(axis=1) + block.bias()) / size)
        branches.append(branch / size)
        effects = effects + effect
    state, every = rows(readout.state), tensors[readout.state].reshape(tokens.count, -1)
    total = sum((rows(branch) for branch in tokens.branches), start=np.zeros_like(state))
    centred: Array = state
    sigma: Array = np.ones((len(read), 1))
    gain: Array = np.ones(state.shape[1])
    shift: Array = np.zeros(state.shape[1])
    if readout.norm is not None:
        centred = state - state.mean(axis=1, keepdims=True)
        sigma = np.sqrt((centred**2).mean(axis=1, keepdims=True) + readout.norm.epsilon)
        gain, shift = readout.norm.gain, readout.norm.bias
        effects = effects - effects.mean(axis=2, keepdims=True)
        every = every - every.mean(axis=1, keepdims=True)
        every = every / np.sqrt((every**2).mean(axis=1, keepdims=True) + readout.norm.epsilon)
    shares = np.array(readout.weights)
    vector = np.einsum("k,kc->c", shares, gain * centred / sigma + shift)
    parts = np.einsum("k,ktc->tc", shares, gain * effects / sigma[:, None])
    member = tokens.cell_of().astype(np.float64)
    parts = member @ parts
    cells = member / member.sum(axis=1, keepdims=True) @ (gain * every + shift) * shares.sum()
    if tail is not None:
        dense = tail.matrix.ndim == 2
        vector = (tail.matrix @ vector if dense else tail.matrix * vector) + tail.bias
        parts = parts @ tail.matrix.T if dense else parts * tail.matrix
        cells = (cells @ tail.matrix.T if dense else cells * tail.matrix) + tail.bias
    last = tensors[names[tokens.blocks[-1].weights]].reshape(-1, tokens.count).mean(axis=0)
    return {
        "blocks": (np.stack(sums), np.stack(branches)),
        "state": (total, state),
        "head": (vector, tensors[feature].reshape(-1)),
        "parts": (np.zeros(()), parts.reshape(*tokens.cells, -1)),
        "tokens": (np.zeros(()), cells.reshape(*tokens.cells, -1)),
        "last_attention": (np.zeros(()), (member @ last).reshape(tokens.cells)),
    }


def _with_rows(graph: Graph, tokens: Tokens, names: dict[str, str], wanted: list[str]) -> onnx.ModelProto:
    """The source with, as outputs, ``wanted`` and the rows of the attention weights that are read."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    index: npt.NDArray[Any] = np.array(tokens.readout.tokens, dtype=np.int64)
    model.graph.initializer.append(numpy_helper.from_array(index, _INDEX))
    for weights, name in names.items():
        axis = len(graph.shape(weights)) - 2
        model.graph.node.append(helper.make_node("Gather", [weights, _INDEX], [name], axis=axis))
    del model.graph.output[:]
    for name in dict.fromkeys([*wanted, *names.values()]):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model
