"""Find, in an ONNX graph, the feature map whose pooling is the embedding.

The search does not trust op names or positions: a tensor counts only if every path from the image to
the embedding passes through it (it dominates the embedding). So the pools inside squeeze-and-excite
blocks and gates are never taken, whatever they are called, and however many there are.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx

from simmap.engine.contract import Pooling
from simmap.engine.decompose import GEM_EPS
from simmap.engine.errors import ExportError
from simmap.engine.types import Array

from .affine import Affine, affine_tail
from .graph import AFFINE, Graph, attribute, single_number
from .layout import Layout, is_channels_last, layout_of
from .patches import Grid
from .pools import Pool, match_pool
from .target import find_target, named_tensor, origin
from .tokens import Tokens, find_tokens


@dataclass(frozen=True)
class Exposure:
    """Where a graph's feature map lies and what follows it.

    Attributes:
        conv: name of the tensor that is the feature map; for pooling ``token`` the last state of all tokens.
        layout: its axes; ``NLC`` are tokens in row-major order of the grid.
        shape: C, H, W of the map, or of the tokens and their parts.
        pooling, p, eps: see ``engine.artifact.Contract``.
        place_weights: (C, H, W) of pooling ``weights``.
        place_bias: (C,) of pooling ``weights``.
        tail: the affine map from the pooled (or flattened, in C, H, W order) feature to the
            embedding; None where nothing follows.
        pooled: name of the tensor that is the pooled feature, None for an overridden pooling.
        embedding: name of the tensor that is the embedding, before any final L2 norm; None likewise.
        pooled_scale: the source's pooled feature is this times ours (a sum is H W times the average).
        is_normed: the source divides the embedding by its L2 norm at the end, which the artifact leaves out.
        notes: what a user should know of the choices made here.
        tokens: for pooling ``token``, what is read and what feeds it.
    """

    conv: str
    layout: Layout
    shape: tuple[int, int, int]
    pooling: Pooling
    p: float | None = None
    eps: float | None = None
    place_weights: Array | None = None
    place_bias: Array | None = None
    tail: Affine | None = None
    pooled: str | None = None
    embedding: str | None = None
    pooled_scale: float = 1.0
    is_normed: bool = False
    notes: tuple[str, ...] = ()
    tokens: Tokens | None = None


def analyse(
    graph: Graph,
    *,
    conv_layer: str | None = None,
    pool: Pooling | None = None,
    p: float | None = None,
    embedding: str = "output",
    cells: Grid | None = None,
) -> Exposure:
    """Find the feature map, its pooling, and the affine way from there to the embedding.

    Args:
        graph: the network.
        conv_layer: a tensor or node that is the feature map, instead of the one found.
        pool: a pooling put on the feature map instead of what follows it.
        p: exponent of a ``gem`` given by ``pool``.
        embedding: ``output`` (what the graph gives), ``pooled`` (the feature right behind the pooling)
            or the name of a tensor to cut at.
        cells: rows and columns of the parts of a class token's patches; None takes those of the patches.

    Raises:
        ExportError: there is no such feature map or class token, or what follows it is not affine; the
            message names the node and what to do.
    """
    if conv_layer is not None and pool is not None:
        conv = named_tensor(graph, conv_layer)
        layout, shape = layout_of(graph, conv, None)
        return Exposure(conv, layout, shape, pool, *_gem(pool, p))
    target, notes, end = find_target(graph, embedding)
    wanted = origin(graph, named_tensor(graph, conv_layer)) if conv_layer else None
    found, blockers = _find_pool(graph, target, wanted)
    if found is None and wanted is None and pool is None:
        tokens = find_tokens(graph, target, cells)
        if tokens is not None:
            return _expose_tokens(graph, tokens, target, notes, embedding, is_normed=end == "norm")
    if cells is not None:
        raise ExportError(
            f"{graph.name}: grid is for embeddings that are read from a class token, and this one is pooled "
            "from a feature map; leave grid out"
        )
    if found is None:
        raise ExportError(_no_pool(graph, target, wanted))
    if pool is not None:
        layout, shape = layout_of(graph, found.conv, found.layout)
        return Exposure(found.conv, layout, shape, pool, *_gem(pool, p), notes=tuple(notes))
    if embedding == "pooled":
        target, blockers, end = found.output, [], None
    if blockers:
        node = blockers[-1]
        # What every path into the node crosses, not just one of its inputs.
        cut = next(t for t in graph.dominators(node.output[0]) if t not in node.output)
        offers = [] if cut == found.output else [f"--embedding {cut!r}"]
        is_flat = found.kind == "flatten"
        offers += [f"--conv-layer {found.conv!r} --pool avg" if is_flat else "--embedding pooled"]
        raise ExportError(
            f"{graph.name}: node {graph.describe(node)} between the feature map and the embedding is not "
            "affine, so no place owns its part of the score; cut the embedding before it with "
            f"{' or '.join(offers)}"
        )
    return _expose(graph, found, target, notes, is_normed=end == "norm")


def _gem(pool: Pooling, p: float | None) -> tuple[float | None, float | None]:
    return (p if p is not None else 3.0, GEM_EPS) if pool == "gem" else (None, None)


def _find_pool(graph: Graph, target: str, wanted: str | None) -> tuple[Pool | None, list[onnx.NodeProto]]:
    """The pool nearest to ``target`` among its dominators, and the non-affine nodes on the way."""
    blockers: list[onnx.NodeProto] = []
    for tensor in graph.dominators(target):
        found = match_pool(graph, tensor)
        if found is not None and (wanted is None or origin(graph, found.conv) == wanted):
            return found, blockers
        node = graph.producer.get(tensor)
        if node is None:
            break
        if (
            node.op_type not in AFFINE
            or len(graph.data_inputs(node)) != 1
            or (node.op_type == "MatMul" and (node.input[0] not in graph.data_inputs(node)))
        ):
            blockers.append(node)
    return None, blockers


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


def _expose_tokens(
    graph: Graph, tokens: Tokens, target: str, notes: list[str], embedding: str, *, is_normed: bool
) -> Exposure:
    """Put the tokens and the affine tail together."""
    read = tokens.readout.output
    if embedding == "pooled":
        target, is_normed = read, False
    for tensor in graph.dominators(target):
        node = graph.producer.get(tensor)
        if tensor == read or node is None:
            break
        if node.op_type not in AFFINE or len(graph.data_inputs(node)) != 1:
            raise ExportError(
                f"{graph.name}: node {graph.describe(node)} between the class token and the embedding is not "
                "affine, so no place owns its part of the score; cut the embedding before it with "
                f"--embedding {graph.data_inputs(node)[0]!r} or --embedding pooled"
            )
    channels = graph.shape(tokens.readout.state)[2]
    tail = affine_tail(graph, read, target, channels)
    if tail is not None and tail.matrix.ndim == 2:
        notes = [
            *notes,
            f"an affine head leads from the token's {channels} features to {tail.dimension} and is kept, as "
            "CLIP's projection must be; before a classifier's, --embedding pooled takes the token itself",
        ]
    return Exposure(
        tokens.readout.state, "NLC", (channels, *tokens.cells), "token", tail=tail, embedding=target,
        is_normed=is_normed, notes=tuple(notes), tokens=tokens,
    )  # fmt: skip


def _expose(graph: Graph, found: Pool, target: str, notes: list[str], *, is_normed: bool) -> Exposure:
    """Put the pool and the affine tail together."""
    p = eps = None
    place_weights = place_bias = None
    conv, layout = found.conv, found.layout
    if found.kind == "gem" and found.node is not None:
        p = single_number(graph.constant(found.node.input[1]))
        conv, eps = _before_clip(graph, conv)
    layout, shape = layout_of(graph, conv, layout)
    start = found.output
    order: Callable[[Array], Array] | None = None
    if found.kind == "weights" and found.node is not None:
        place_weights = np.asarray(graph.constant(found.node.input[1]), dtype=np.float64)[:, 0]
        place_bias = (
            np.asarray(graph.constant(found.node.input[2]), dtype=np.float64)
            if len(found.node.input) > 2
            else np.zeros(shape[0])
        )
    if found.kind == "flatten" and is_channels_last(graph, conv):
        # The flat order is that of places, then channels.
        conv = str(graph.producer[conv].input[0])
        layout, shape = layout_of(graph, conv, "NCHW")
        channels, height, width = shape

        def order(matrix: Array) -> Array:
            """Columns from (H, W, C) order into (C, H, W) order."""
            cube = matrix.reshape(-1, height, width, channels)
            return np.ascontiguousarray(cube.transpose(0, 3, 1, 2)).reshape(len(matrix), -1)

    size = (
        int(np.prod(shape)) if found.kind == "flatten" else shape[0] * (2 if found.kind == "catavgmax" else 1)
    )
    tail = affine_tail(graph, start, target, size)
    if found.kind == "flatten":
        if tail is None or tail.matrix.ndim == 1:
            raise ExportError(
                f"{graph.name}: the embedding is the flattened map {conv!r} itself; put a pooling on it with "
                f"--conv-layer {conv!r} --pool avg"
            )
        if order is not None:
            tail = replace(tail, matrix=order(tail.matrix))
    elif tail is not None and found.scale != 1:
        tail = Affine(tail.matrix * found.scale, tail.bias)
        if tail.matrix.ndim == 1 and np.allclose(tail.matrix, 1, rtol=1e-6) and not tail.bias.any():
            # A sum over the places times 1 / (H W), say: the embedding is the pooled feature itself.
            found, tail = replace(found, output=target, scale=1.0), None
    if tail is not None:
        before = f"--conv-layer {conv!r} --pool avg" if found.kind == "flatten" else "--embedding pooled"
        notes = [
            *notes,
            f"an affine head leads from {size} to {tail.dimension} features and is kept; for a classifier's "
            f"scores that is seldom wanted: {before} takes the feature before it",
        ]
    pooled = None if found.kind == "flatten" else found.output
    return Exposure(
        conv, layout, shape, found.kind, p, eps, place_weights, place_bias, tail, pooled, target, found.scale,
        is_normed, tuple(notes),
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
