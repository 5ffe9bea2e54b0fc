"""Find, in an ONNX graph, the feature map whose pooling is the embedding.

The search does not trust op names or positions: a tensor counts only if every path from the image to
the embedding passes through it (it dominates the embedding). So the pools inside squeeze-and-excite
blocks and gates are never taken, whatever they are called, and however many there are.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx

from simmap.engine.contract import Pooling
from simmap.engine.decompose import GEM_EPS
from simmap.engine.errors import ExportError
from simmap.engine.types import Array

from .affine import Affine, affine_tail
from .attention import Attention, match_attention
from .exposure import Exposure
from .gated import gated_tail
from .graph import AFFINE, RESHAPES, Graph, attribute, single_number
from .layout import is_channels_last, layout_of
from .patches import Grid
from .pools import Pool, match_pool
from .steps import Gated, NotHeldError
from .target import find_target, named_tensor, origin
from .tokens import Tokens, find_tokens


def analyse(
    graph: Graph,
    *,
    conv_layer: str | None = None,
    pool: Pooling | None = None,
    p: float | None = None,
    embedding: str = "output",
    cells: Grid | None = None,
) -> Exposure:
    """Find the feature map and its pooling, or the class token, and the way from there to the embedding.

    Args:
        graph: the network.
        conv_layer: a tensor or node that is the feature map, instead of the one found.
        pool: a pooling put on the feature map instead of what follows it.
        p: exponent of a ``gem`` given by ``pool``.
        embedding: ``output`` (what the graph gives), ``pooled`` (the feature right behind the pooling)
            or the name of a tensor to cut at.
        cells: rows and columns of the parts of a class token's patches; None takes those of the patches.

    Raises:
        ExportError: there is no such feature map or class token, or something follows it that is not linear
            even given the image; the message names the node and what to do.
    """
    if conv_layer is not None and pool is not None:
        conv = named_tensor(graph, conv_layer)
        layout, shape = layout_of(graph, conv, None)
        return Exposure(conv, layout, shape, pool, *_gem(pool, p))
    target, notes, end = find_target(graph, embedding)
    wanted = origin(graph, named_tensor(graph, conv_layer)) if conv_layer else None
    nearest, attention, blockers = _find_pool(graph, target, wanted)
    if nearest is None and wanted is None and pool is None:
        tokens = find_tokens(graph, target, cells)
        if tokens is not None:
            return _expose_tokens(graph, tokens, target, notes, embedding, is_normed=end == "norm")
    if cells is not None:
        raise ExportError(
            f"{graph.name}: grid is for embeddings that are read from a class token, and this one is pooled "
            "from a feature map; leave grid out"
        )
    if nearest is None:
        raise ExportError(_no_pool(graph, target, wanted))
    if pool is not None:
        layout, shape = layout_of(graph, nearest.conv, nearest.layout)
        return Exposure(nearest.conv, layout, shape, pool, *_gem(pool, p), notes=tuple(notes))
    if embedding == "pooled" and attention is not None:
        raise ExportError(
            f"{graph.name}: its pooling is by attention weights, head by head, so no layer before the "
            "embedding is a pooled feature; leave --embedding out, or name a tensor to cut at"
        )
    if embedding == "pooled":
        target, blockers, end = nearest.output, [], None
    if attention is not None:
        return _expose_attention(graph, attention, target, notes, is_normed=end == "norm")
    if not blockers:
        return _expose(graph, nearest, target, notes, is_normed=end == "norm")
    # An affine tail of a flattened map has a matrix for each place; what follows it has none.
    cut = _before(graph, blockers[-1]) if nearest.kind == "flatten" else nearest.output
    exposure = _expose(graph, nearest, cut, notes, is_normed=end == "norm")
    scale = 1.0 if nearest.kind == "flatten" else nearest.scale
    try:
        bias = exposure.tail_bias
        if bias is None:
            bias = np.zeros(int(np.prod(graph.shape(cut))))
        gated = gated_tail(graph, cut, target, scale=scale, bias=bias)
    except NotHeldError as error:
        raise ExportError(_refusal(graph, nearest, error.node)) from error
    kept = _kept(gated, gated.steps[0].sizes[0] if gated.steps else gated.dimension, nearest.kind)
    return replace(exposure, gated=gated, embedding=target, notes=(*notes, kept))


def _before(graph: Graph, node: onnx.NodeProto) -> str:
    """What every path into the node crosses, not just one of its inputs."""
    return next(t for t in graph.dominators(node.output[0]) if t not in node.output)


def _refusal(graph: Graph, pool: Pool, node: onnx.NodeProto) -> str:
    """Why no place owns what a node gives, and where to cut."""
    cut = _before(graph, node)
    offers = [] if cut == pool.output else [f"--embedding {cut!r}"]
    is_flat = pool.kind == "flatten"
    offers += [f"--conv-layer {pool.conv!r} --pool avg" if is_flat else "--embedding pooled"]
    return (
        f"{graph.name}: node {graph.describe(node)} between the feature map and the embedding is not linear "
        "even with its gates held, so no place owns its part of the score; cut the embedding before it with "
        f"{' or '.join(offers)}"
    )


def _kept(gated: Gated, size: int, kind: str) -> str:
    """The note that something behind the pooling is part of the embedding."""
    # What a norm divides by, and factors, are made of several steps.
    kinds = {
        s.node.op_type if s.node else "norm" if s.divides else "" for s in gated.steps if not s.is_linear
    }
    held = sorted(kinds - {"", "Sqrt", "Pow", "Reciprocal"})
    what = f"a tail with gates or norms ({', '.join(held)})" if not gated.is_affine else "an affine head"
    mend = "" if kind in ("flatten", "attention") else "; --embedding pooled takes the feature before it"
    return f"{what} leads from {size} to {gated.dimension} features and is kept{mend}"


def _expose_attention(
    graph: Graph, attention: Attention, target: str, notes: list[str], *, is_normed: bool
) -> Exposure:
    """Put the attention pooling and its tail together."""
    try:
        gated = gated_tail(
            graph, attention.output, target, mask=attention.mask(graph), bias=np.zeros(attention.size)
        )
    except NotHeldError as error:
        raise ExportError(
            f"{graph.name}: node {graph.describe(error.node)} behind the attention pooling is not linear "
            "even with its gates held, so no place owns its part of the score; cut the embedding before it "
            f"with --embedding {_before(graph, error.node)!r}"
        ) from error
    return Exposure(
        attention.conv, attention.layout, attention.shape, "attention", gated=gated, attention=attention,
        embedding=target, is_normed=is_normed,
        notes=(*notes, *([_kept(gated, attention.size, "attention")] if gated.steps else [])),
    )  # fmt: skip


def _expose_tokens(
    graph: Graph, tokens: Tokens, target: str, notes: list[str], embedding: str, *, is_normed: bool
) -> Exposure:
    """Put the tokens and the tail together."""
    read = tokens.readout.output
    if embedding == "pooled":
        target, is_normed = read, False
    channels = graph.shape(tokens.readout.state)[2]
    exposure = Exposure(
        tokens.readout.state, "NLC", (channels, *tokens.cells), "token", tokens=tokens, embedding=target,
        is_normed=is_normed,
    )  # fmt: skip
    if not _is_affine(graph, read, target):
        try:
            gated = gated_tail(graph, read, target, bias=None)
        except NotHeldError as error:
            raise ExportError(
                f"{graph.name}: node {graph.describe(error.node)} between the class token and the embedding "
                "is not linear even with its gates held, so no place owns its part of the score; cut the "
                f"embedding before it with --embedding {_before(graph, error.node)!r} or --embedding pooled"
            ) from error
        return replace(exposure, gated=gated, notes=(*notes, _kept(gated, channels, "token")))
    tail = affine_tail(graph, read, target, channels)
    if tail is not None and tail.matrix.ndim == 2:
        notes = [
            *notes,
            f"an affine head leads from the token's {channels} features to {tail.dimension} and is kept, as "
            "CLIP's projection must be; before a classifier's, --embedding pooled takes the token itself",
        ]
    return replace(exposure, tail=tail, notes=tuple(notes))


def _is_affine(graph: Graph, start: str, target: str) -> bool:
    """Whether one chain of affine nodes leads from one tensor to another."""
    tensor = target
    while tensor != start:
        node = graph.producer[tensor]
        inputs = graph.data_inputs(node)
        is_left = node.op_type != "MatMul" or node.input[0] in inputs
        if node.op_type not in AFFINE or len(inputs) != 1 or not is_left:
            return False
        tensor = inputs[0]
    return True


def _gem(pool: Pooling, p: float | None) -> tuple[float | None, float | None]:
    return (p if p is not None else 3.0, GEM_EPS) if pool == "gem" else (None, None)


def _find_pool(
    graph: Graph, target: str, wanted: str | None
) -> tuple[Pool | None, Attention | None, list[onnx.NodeProto]]:
    """The pool nearest to ``target`` among its dominators, and the non-affine nodes on the way."""
    blockers: list[onnx.NodeProto] = []
    for tensor in graph.dominators(target):
        match, attention = match_pool(graph, tensor), match_attention(graph, tensor)
        if match is not None and match.kind == "flatten" and _is_attention(graph, match.conv):
            continue  # the heads of an attention pooling, put in a row
        if attention is not None:
            match = Pool("attention", attention.conv, attention.layout, tensor)
        if match is not None and (wanted is None or origin(graph, match.conv) == wanted):
            return match, attention, blockers
        node = graph.producer.get(tensor)
        if node is None:
            break
        if (
            node.op_type not in AFFINE
            or len(graph.data_inputs(node)) != 1
            or (node.op_type == "MatMul" and (node.input[0] not in graph.data_inputs(node)))
        ):
            blockers.append(node)
    return None, None, blockers


def _is_attention(graph: Graph, tensor: str) -> bool:
    """Whether the tensor is what an attention pooling gives, its axes in another order."""
    while (node := graph.producer.get(tensor)) is not None and node.op_type in RESHAPES:
        tensor = str(node.input[0])
    return match_attention(graph, tensor) is not None


def _no_pool(graph: Graph, target: str, wanted: str | None) -> str:
    if wanted is not None:
        return (
            f"{graph.name}: no pooling of the feature map {wanted!r} feeds the embedding {target!r}; "
            "add --pool avg (or max, gem) to put one on it"
        )
    return (
        f"{graph.name}: no pooling over places leads to {target!r}, so it has no feature map to decompose "
        "(a detector or a segmenter, say); name one with --conv-layer TENSOR --pool avg"
    )


def _expose(graph: Graph, pool: Pool, target: str, notes: list[str], *, is_normed: bool) -> Exposure:
    """Put the pool and the affine tail together."""
    p = eps = None
    place_weights = place_bias = None
    conv, layout = pool.conv, pool.layout
    if pool.kind == "gem" and pool.node is not None:
        p = single_number(graph.constant(pool.node.input[1]))
        conv, eps = _before_clip(graph, conv)
    layout, shape = layout_of(graph, conv, layout)
    start = pool.output
    order: Callable[[Array], Array] | None = None
    if pool.kind == "weights" and pool.node is not None:
        place_weights = np.asarray(graph.constant(pool.node.input[1]), dtype=np.float64)[:, 0]
        place_bias = (
            np.asarray(graph.constant(pool.node.input[2]), dtype=np.float64)
            if len(pool.node.input) > 2
            else np.zeros(shape[0])
        )
    if pool.kind == "flatten" and is_channels_last(graph, conv):
        # The flat order is that of places, then channels.
        conv = str(graph.producer[conv].input[0])
        layout, shape = layout_of(graph, conv, "NCHW")
        channels, height, width = shape

        def order(matrix: Array) -> Array:
            """Columns from (H, W, C) order into (C, H, W) order."""
            cube = matrix.reshape(-1, height, width, channels)
            return np.ascontiguousarray(cube.transpose(0, 3, 1, 2)).reshape(len(matrix), -1)

    size = (
        int(np.prod(shape)) if pool.kind == "flatten" else shape[0] * (2 if pool.kind == "catavgmax" else 1)
    )
    tail = affine_tail(graph, start, target, size)
    if pool.kind == "flatten":
        if tail is None or tail.matrix.ndim == 1:
            raise ExportError(
                f"{graph.name}: the embedding is the flattened map {conv!r} itself; put a pooling on it with "
                f"--conv-layer {conv!r} --pool avg"
            )
        if order is not None:
            tail = replace(tail, matrix=order(tail.matrix))
    elif tail is not None and pool.scale != 1:
        tail = Affine(tail.matrix * pool.scale, tail.bias)
        if tail.matrix.ndim == 1 and np.allclose(tail.matrix, 1, rtol=1e-6) and not tail.bias.any():
            # A sum over the places times 1 / (H W), say: the embedding is the pooled feature itself.
            pool, tail = replace(pool, output=target, scale=1.0), None
    if tail is not None:
        before = f"--conv-layer {conv!r} --pool avg" if pool.kind == "flatten" else "--embedding pooled"
        notes = [
            *notes,
            f"an affine head leads from {size} to {tail.dimension} features and is kept; for a classifier's "
            f"scores that is seldom wanted: {before} takes the feature before it",
        ]
    pooled = None if pool.kind == "flatten" else pool.output
    return Exposure(
        conv, layout, shape, pool.kind, p, eps, place_weights, place_bias, tail, pooled=pooled,
        embedding=target, pooled_scale=pool.scale, is_normed=is_normed, notes=tuple(notes),
    )  # fmt: skip


def _before_clip(graph: Graph, tensor: str) -> tuple[str, float]:
    """The feature map before GeM's floor, and the floor."""
    node = graph.producer.get(tensor)
    if node is not None and node.op_type in ("Clip", "Max") and len(graph.data_inputs(node)) == 1:
        if node.op_type == "Max":
            floor = next(
                (single_number(graph.constant(i)) for i in node.input if i not in graph.dynamic), None
            )
            ceiling = None
        else:
            given = [single_number(graph.constant(i)) for i in node.input[1:]] + [None, None]
            floor, ceiling = attribute(node, "min", given[0]), attribute(node, "max", given[1])
        is_open = ceiling is None or ceiling > 1e30
        if floor is not None and 0 < floor < 1e-2 and is_open:
            return graph.data_inputs(node)[0], float(floor)
    return tensor, GEM_EPS
