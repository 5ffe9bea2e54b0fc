"""Axes of a feature map."""

from typing import Literal

from simmap.engine.errors import ExportError

from .graph import Graph, attribute

Layout = Literal["NCHW", "NHWC", "NLC"]


def layout_of(graph: Graph, conv: str, layout: Layout | None) -> tuple[Layout, tuple[int, int, int]]:
    """Axes and C, H, W of a feature map."""
    shape = graph.shape(conv)
    if layout is None:
        if len(shape) not in (3, 4):
            raise ExportError(f"{graph.name}: {conv!r} has shape {shape}; a feature map has 3 or 4 axes")
        layout = "NLC" if len(shape) == 3 else "NHWC" if is_channels_last(graph, conv) else "NCHW"
    if layout == "NCHW":
        return layout, (shape[1], shape[2], shape[3])
    if layout == "NHWC":
        return layout, (shape[3], shape[1], shape[2])
    return layout, (shape[2], *_token_grid(graph, conv, shape[1]))


def is_channels_last(graph: Graph, conv: str) -> bool:
    """Whether a Transpose from (N, C, H, W) to (N, H, W, C) gives the map."""
    node = graph.producer.get(conv)
    return node is not None and node.op_type == "Transpose" and attribute(node, "perm", []) == [0, 2, 3, 1]


def _token_grid(graph: Graph, conv: str, tokens: int) -> tuple[int, int]:
    """H and W of a row of tokens: the last map of as many places before them."""
    seen, pending = {conv}, [conv]
    grids: list[tuple[int, int]] = []
    while pending:
        node = graph.producer.get(pending.pop())
        for name in graph.data_inputs(node) if node is not None else ():
            if name not in seen:
                seen.add(name)
                pending.append(name)
                shape = graph.shape(name)
                if (
                    len(shape) == 4
                    and shape[2] * shape[3] == tokens
                    and node is not None
                    and min(shape[2:]) > 0
                ):
                    origin = graph.producer.get(name)
                    if origin is not None and origin.op_type == "Conv":
                        grids.append((shape[2], shape[3]))
    if grids:
        return grids[0]
    side = round(tokens**0.5)
    if side * side == tokens:
        return side, side
    raise ExportError(
        f"{graph.name}: the {tokens} tokens of {conv!r} form no grid of patches (a class token among them?); "
        "name the patch tokens with --conv-layer TENSOR --pool avg"
    )
