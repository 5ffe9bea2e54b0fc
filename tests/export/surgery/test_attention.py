"""Attention poolings in a graph: which map they attend to, and what only looks like one."""

from typing import Any

import numpy as np
import pytest

from networks import Net
from simmap.engine.errors import ExportError
from simmap.export.surgery.attention import Attention, match_attention
from simmap.export.surgery.graph import Graph
from simmap.export.surgery.layout import is_channels_last, layout_of


def matched(net: Net, output: str) -> Attention | None:
    return match_attention(Graph(net.done(output), name="net", size=None), output)


def places_of(net: Net, x: str, count: int) -> str:
    """A map (N, 8, H, W) as tokens (N, H W, 8)."""
    return net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, count)), perm=[0, 2, 1])


def attended(
    net: Net,
    tokens: str,
    *,
    queries: str = "",
    heads: int = 2,
    count: int = 24,
    axis: int = -1,
    around: str = "",
) -> str:
    """The product of weights (N, heads, Q, count) and values (N, heads, count, 8 / heads)."""

    def split(x: str, rows: int) -> str:
        x = net.op("MatMul", x, net.store(net.draw(8, 8)))
        return net.op("Transpose", net.op("Reshape", x, net.ints(0, rows, heads, -1)), perm=[0, 2, 1, 3])

    query = queries or split(tokens, count)
    key = net.op("Transpose", split(tokens, count), perm=[0, 1, 3, 2])
    weights = net.op("Softmax", net.op("MatMul", query, key), axis=axis)
    if around == "Where":
        weights = net.op("Where", net.op("IsNaN", weights), net.store(0.0), weights)
    elif around:
        weights = net.op(around, weights, *([net.store(2.0)] if around == "Mul" else []))
    return net.op("MatMul", weights, split(tokens, count))


@pytest.mark.parametrize(
    ("heads", "around"), [(1, ""), (2, ""), (4, "Where"), (2, "Identity"), (2, "Dropout")]
)
def test_all_places_of_a_map_are_attended_to(heads: int, around: str) -> None:
    net = Net((8, 12))
    places = places_of(net, net.trunk(), 24)
    found = matched(net, attended(net, places, heads=heads, around=around))
    assert found is not None
    assert (found.conv, found.layout, found.shape) == (places, "NLC", (8, 4, 6))
    assert (found.heads, found.queries, found.tokens, found.width) == (heads, 24, 24, 8 // heads)
    assert found.size == 8 and not found.has_mean


def test_only_the_first_query_of_each_head_is_used() -> None:
    net = Net((4, 4))
    output = attended(net, places_of(net, net.trunk(), 4), count=4)
    graph = Graph(net.done(output), name="net", size=None)
    found = match_attention(graph, output)
    assert found is not None
    expected = np.zeros((1, 2, 4, 4), dtype=bool)
    expected[0, :, 0] = True
    np.testing.assert_array_equal(found.mask(graph), expected)


def test_a_map_with_channels_last_is_found_as_it_lies() -> None:
    net = Net((8, 12))
    last = net.op("Transpose", net.trunk(), perm=[0, 2, 3, 1])
    found = matched(net, attended(net, last))
    assert found is not None and (found.conv, found.layout, found.shape) == (last, "NHWC", (8, 4, 6))


@pytest.mark.parametrize("mean", ["ReduceMean", "GlobalAveragePool", "part", "maximum"])
def test_a_mean_of_all_places_in_front_is_known(mean: str) -> None:
    net = Net((8, 12))
    x = net.trunk()
    places = places_of(net, x, 24)
    if mean == "GlobalAveragePool":
        first = net.op("Reshape", net.op("GlobalAveragePool", x), net.ints(0, 1, 8))
    elif mean == "part":
        first = net.op("ReduceMean", net.op("Slice", places, net.ints(0), net.ints(9), net.ints(1)), axes=[1])
    elif mean == "maximum":
        first = net.op("ReduceMax", places, axes=[1])
    else:
        first = net.op("ReduceMean", places, axes=[1])
    output = attended(net, net.op("Concat", first, places, axis=1), count=25)
    found = matched(net, output)
    if mean in ("part", "maximum"):
        assert found is None or not found.has_mean
    else:
        assert found is not None and found.has_mean and found.tokens == 25 and found.shape == (8, 4, 6)
        nearest = (x, "NCHW") if mean == "GlobalAveragePool" else (places, "NLC")
        assert (found.conv, found.layout) == nearest


@pytest.mark.parametrize(
    "changed", [{"axis": 2}, {"axis": 1}, {"around": "Mul"}, {"around": "Sigmoid"}], ids=lambda c: str(c)
)
def test_weights_that_do_not_sum_to_one_over_the_places_are_none(changed: dict[str, Any]) -> None:
    net = Net((8, 12))
    assert matched(net, attended(net, places_of(net, net.trunk(), 24), **changed)) is None


def test_a_product_with_a_constant_is_no_attention() -> None:
    net = Net((8, 12))
    tokens = places_of(net, net.trunk(), 24)
    weights = net.op("Softmax", net.op("MatMul", tokens, net.store(net.draw(8, 24))), axis=-1)
    assert matched(net, net.op("MatMul", weights, net.store(net.draw(1, 24, 8)))) is None
    flat = net.op("Reshape", weights, net.ints(-1, 24))
    value = net.op("Reshape", tokens, net.ints(24, 8))
    assert matched(net, net.op("MatMul", flat, value)) is None  # two axes: no batch


def test_tokens_keep_the_linear_layer_behind_them_out_of_the_map() -> None:
    # Patch tokens behind a norm: the map is what the keys and values are made of.
    net = Net((8, 12))
    x = net.op("LayerNormalization", places_of(net, net.trunk(), 24), net.store(net.draw(8)))
    shared = net.op("Add", net.op("MatMul", x, net.store(net.draw(8, 8))), net.store(net.draw(8)))
    found = matched(net, attended(net, shared))
    assert found is not None and (found.conv, found.layout, found.shape) == (x, "NLC", (8, 4, 6))


# Layouts --------------------------------------------------------------------------------------------------


def test_only_a_transpose_from_channels_first_makes_them_last() -> None:
    net = Net((8, 12))
    x = net.trunk()
    last, mixed, back = (net.op("Transpose", x, perm=p) for p in ([0, 2, 3, 1], [0, 3, 2, 1], [0, 1, 2, 3]))
    total = net.op("Concat", *(net.op("Flatten", y) for y in (last, mixed, back)), axis=1)
    graph = Graph(net.done(total), name="net", size=None)
    assert [is_channels_last(graph, y) for y in (last, mixed, back, x)] == [True, False, False, False]
    assert layout_of(graph, last, None) == ("NHWC", (8, 4, 6))
    assert layout_of(graph, x, None) == ("NCHW", (8, 4, 6))


@pytest.mark.parametrize(("size", "grid"), [((16, 24), (4, 6)), ((8, 24), (2, 6)), ((16, 16), (4, 4))])
def test_tokens_lie_on_the_grid_of_the_patches_before_them(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    net = Net(size)
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    tokens = net.op("Relu", places_of(net, x, grid[0] * grid[1]))
    graph = Graph(net.done(tokens), name="net", size=None)
    assert layout_of(graph, tokens, None) == ("NLC", (8, *grid))


def test_the_image_itself_and_a_single_place_are_not_attended_to() -> None:
    net = Net((4, 6))

    def split() -> str:
        x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 1, 1)))
        return net.op("Transpose", net.op("Reshape", x, net.ints(0, 2, 4, 24)), perm=[0, 1, 3, 2])

    scores = net.op("MatMul", split(), net.op("Transpose", split(), perm=[0, 1, 3, 2]))
    assert matched(net, net.op("MatMul", net.op("Softmax", scores, axis=-1), split())) is None
    net = Net((8, 12))
    one = net.op("Reshape", net.op("GlobalAveragePool", net.trunk()), net.ints(0, 1, 8))
    assert matched(net, attended(net, one, count=1)) is None
    net = Net((4, 2))
    assert matched(net, attended(net, places_of(net, net.trunk(), 2), count=2)) is not None


@pytest.mark.parametrize("size", [(12, 8), (24, 4)])
def test_tokens_without_a_patch_embedding_lie_on_a_square_or_nowhere(size: tuple[int, int]) -> None:
    net = Net(size)
    x = net.op(
        "Relu",
        net.op("Reshape", net.op("Conv", net.trunk(), net.store(net.draw(8, 8, 1, 1))), net.ints(0, 3, 64)),
    )
    tokens = net.op("Transpose", net.op("Reshape", x, net.ints(0, -1, 8)), perm=[0, 2, 1])
    four = net.op("Reshape", net.op("Relu", tokens), net.ints(0, 4, 48))
    graph = Graph(net.done(four), name="net", size=None)
    assert layout_of(graph, four, None) == ("NLC", (48, 2, 2))  # four tokens, and no map of four places
    with pytest.raises(ExportError, match=r"the 8 tokens of .* form no grid of patches"):
        layout_of(graph, tokens, None)


@pytest.mark.parametrize("shape", [(0, 192), (0, 2, 2, 2, 24)])
def test_a_feature_map_has_three_or_four_axes(shape: tuple[int, ...]) -> None:
    net = Net((8, 12))
    x = net.op("Reshape", net.trunk(), net.ints(*shape))
    with pytest.raises(ExportError, match="a feature map has 3 or 4 axes"):
        layout_of(Graph(net.done(x), name="net", size=None), x, None)
