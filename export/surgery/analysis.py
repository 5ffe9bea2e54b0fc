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
from .attention import Attention, match_attention
from .gated import NotHeldError, gated_tail
from .graph import AFFINE, RESHAPES, Graph, attribute, single_number
from .layout import Layout, is_channels_last, layout_of
from .pools import Pool, match_pool
from .steps import Gated
from .target import find_target, named_tensor, origin


@dataclass(frozen=True)
class Exposure:
    """Where a graph's feature map lies and what follows it.

    Attributes:
        conv: name of the tensor that is the feature map.
        layout: its axes; ``NLC`` are tokens in row-major order of the grid.
        shape: C, H, W.
        pooling, p, eps: see ``engine.artifact.Contract``.
        place_weights: (C, H, W) of pooling ``weights``.
        place_bias: (C,) of pooling ``weights``.
        tail: the affine map from the pooled (or flattened, in C, H, W order) feature to the
            embedding, or to where ``gated`` begins; None where nothing follows.
        gated: the rest of the way, where it is not one affine map.
        attention: of pooling ``attention``.
        pooled: name of the tensor that is the pooled feature, None for an overridden pooling.
        embedding: name of the tensor that is the embedding, before any final L2 norm; None likewise.
        pooled_scale: the source's pooled feature is this times ours (a sum is H W times the average).
        is_normed: the source divides the embedding by its L2 norm at the end, which the artifact leaves out.
        notes: what a user should know of the choices made here.
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
    gated: Gated | None = None
    attention: Attention | None = None
    pooled: str | None = None
    embedding: str | None = None
    pooled_scale: float = 1.0
    is_normed: bool = False
    notes: tuple[str, ...] = ()


def analyse(
    graph: Graph,
    *,
    conv_layer: str | None = None,
    pool: Pooling | None = None,
    p: float | None = None,
    embedding: str = "output",
) -> Exposure:
    """Find the feature map, its pooling, and the affine way from there to the embedding.

    Args:
        graph: the network.
        conv_layer: a tensor or node that is the feature map, instead of the one found.
        pool: a pooling put on the feature map instead of what follows it.
        p: exponent of a ``gem`` given by ``pool``.
        embedding: ``output`` (what the graph gives), ``pooled`` (the feature right behind the pooling)
            or the name of a tensor to cut at.

    Raises:
        ExportError: there is no such feature map, or something follows it that is not linear even given
            the image; the message names the node and what to do.
    """
    if conv_layer is not None and pool is not None:
        conv = named_tensor(graph, conv_layer)
        layout, shape = layout_of(graph, conv, None)
        return Exposure(conv, layout, shape, pool, *_gem(pool, p))
    target, notes, end = find_target(graph, embedding)
    wanted = origin(graph, named_tensor(graph, conv_layer)) if conv_layer else None
    found, attention, blockers = _find_pool(graph, target, wanted)
    if found is None:
        raise ExportError(_no_pool(graph, target, wanted))
    if pool is not None:
        layout, shape = layout_of(graph, found.conv, found.layout)
        return Exposure(found.conv, layout, shape, pool, *_gem(pool, p), notes=tuple(notes))
    if embedding == "pooled":
        target, blockers, end = found.output, [], None
    if attention is not None:
        return _expose_attention(graph, attention, target, notes, is_normed=end == "norm")
    if not blockers:
        return _expose(graph, found, target, notes, is_normed=end == "norm")
    # An affine tail of a flattened map has a matrix for each place; what follows it has none.
    cut = _before(graph, blockers[-1]) if found.kind == "flatten" else found.output
    exposure = _expose(graph, found, cut, notes, is_normed=end == "norm")
    scale = 1.0 if found.kind == "flatten" else found.scale
    try:
        gated = gated_tail(graph, cut, target, scale=scale, bias=affine_bias(exposure))
    except NotHeldError as error:
        raise ExportError(_refusal(graph, found, error.node)) from error
    kept = _kept(gated, gated.steps[0].sizes[0] if gated.steps else gated.dimension, found.kind)
    return replace(exposure, gated=gated, embedding=target, notes=(*notes, kept))


def _before(graph: Graph, node: onnx.NodeProto) -> str:
    """What every path into the node crosses, not just one of its inputs."""
    return next(t for t in graph.dominators(node.output[0]) if t not in node.output)


def _refusal(graph: Graph, found: Pool, node: onnx.NodeProto) -> str:
    """Why no place owns what a node gives, and where to cut."""
    cut = _before(graph, node)
    offers = [] if cut == found.output else [f"--embedding {cut!r}"]
    is_flat = found.kind == "flatten"
    offers += [f"--conv-layer {found.conv!r} --pool avg" if is_flat else "--embedding pooled"]
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
        gated = gated_tail(graph, attention.output, target, mask=attention.mask(graph), bias=None)
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


def affine_bias(exposure: Exposure) -> Array | None:
    """The bias behind the pooling and the affine tail, before any gated one; None without these."""
    if exposure.tail is None and exposure.pooling not in ("weights", "flatten"):
        return None
    bias: Array
    bias = np.zeros(exposure.shape[0]) if exposure.tail is None else exposure.tail.bias
    if exposure.place_bias is not None:
        place = exposure.place_bias
        if exposure.tail is not None:
            matrix = exposure.tail.matrix
            place = matrix * place if matrix.ndim == 1 else matrix @ place
        bias = bias + place
    return bias


def _gem(pool: Pooling, p: float | None) -> tuple[float | None, float | None]:
    return (p if p is not None else 3.0, GEM_EPS) if pool == "gem" else (None, None)


def _find_pool(
    graph: Graph, target: str, wanted: str | None
) -> tuple[Pool | None, Attention | None, list[onnx.NodeProto]]:
    """The pool nearest to ``target`` among its dominators, and the non-affine nodes on the way."""
    blockers: list[onnx.NodeProto] = []
    for tensor in graph.dominators(target):
        found, attention = match_pool(graph, tensor), match_attention(graph, tensor)
        if found is not None and found.kind == "flatten" and _is_attention(graph, found.conv):
            continue  # the heads of an attention pooling, put in a row
        if attention is not None:
            found = Pool("attention", attention.conv, attention.layout, tensor)
        if found is not None and (wanted is None or origin(graph, found.conv) == wanted):
            return found, attention, blockers
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
    for tensor in graph.dominators(target):
        node = graph.producer.get(tensor)
        if node is None or node.op_type not in ("Gather", "Slice"):
            continue
        before = graph.shape(node.input[0]) if node.input[0] in graph.values else ()
        if len(before) == 3 and np.prod(graph.shape(tensor)) == before[2]:
            return (
                f"{graph.name}: the embedding is one token (a class token, by node {graph.describe(node)}), "
                "not a sum over places; only networks that pool their feature map or patch tokens can be "
                "decomposed"
            )
    return (
        f"{graph.name}: no pooling over places leads to {target!r}, so it has no feature map to decompose "
        "(a detector or a segmenter, say); name one with --conv-layer TENSOR --pool avg"
    )


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
        conv, layout, shape, found.kind, p, eps, place_weights, place_bias, tail, None, None, pooled, target,
        found.scale, is_normed, tuple(notes),
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
