"""Poolings in a graph: what one is worth in numbers, and what only looks like one."""

from typing import Any

import numpy as np
import pytest

from networks import Net
from simmap.engine import decompose
from simmap.export.surgery.graph import Graph, plain_session
from simmap.export.surgery.pools import Pool, match_pool, reduced_axes


def graph_of(net: Net, output: str) -> Graph:
    return Graph(net.done(output), name="net", size=None)


def matched(net: Net, output: str) -> Pool | None:
    return match_pool(graph_of(net, output), output)


def check_value(net: Net, output: str, *, exponent: float | None = None) -> Pool:
    """A pool whose ``kind``, ``conv``, ``layout`` and ``scale`` say what the node gives, in numbers."""
    pool = matched(net, output)
    assert pool is not None and pool.output == output
    image = np.random.default_rng(1).normal(size=(1, 3, *net.size)).astype(np.float32)
    model = net.done(pool.conv, output)
    conv, value = plain_session(model).run(None, {net.inputs[0].name: image})
    if pool.layout == "NHWC":
        conv = conv.transpose(0, 3, 1, 2)
    if pool.layout == "NLC":
        conv = conv.transpose(0, 2, 1)[..., None]
    expected = pool.scale * decompose.pool(conv.astype(np.float64), pool.kind, p=exponent, eps=1e-6)
    np.testing.assert_allclose(value.reshape(expected.shape), expected, rtol=1e-5, atol=1e-6)
    return pool


@pytest.mark.parametrize(
    ("kind", "attributes", "scale"),
    [
        ("AveragePool", {"kernel_shape": [4, 6]}, 1),
        ("AveragePool", {"kernel_shape": [4, 6], "auto_pad": "VALID"}, 1),
        ("AveragePool", {"kernel_shape": [4, 6], "dilations": [1, 1]}, 1),
        ("AveragePool", {"kernel_shape": [5, 8], "pads": [0, 0, 1, 2]}, 1),
        ("AveragePool", {"kernel_shape": [5, 8], "pads": [0, 0, 1, 2], "count_include_pad": 1}, 24 / 40),
        ("AveragePool", {"kernel_shape": [4, 6], "count_include_pad": 1}, 1),
        ("AveragePool", {"kernel_shape": [5, 8], "strides": [5, 8], "auto_pad": "SAME_LOWER"}, 1),
        ("MaxPool", {"kernel_shape": [5, 8], "pads": [0, 0, 1, 2]}, 1),
    ],
)
def test_a_window_over_the_whole_map_is_its_pool(kind: str, attributes: dict[str, Any], scale: float) -> None:
    net = Net((8, 12), opset=19)
    pool = check_value(net, net.op(kind, net.trunk(), **attributes))
    assert (pool.kind, pool.scale) == ("max" if kind == "MaxPool" else "avg", pytest.approx(scale))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [3, 6], "strides": [4, 6]},  # leaves the last row out
        {"kernel_shape": [4, 5], "strides": [4, 6]},  # the last column
        {"kernel_shape": [4, 6], "pads": [1, 0, 0, 0], "strides": [4, 6]},  # the row that the pad displaces
        {"kernel_shape": [4, 6], "pads": [0, 1, 0, 0], "strides": [4, 6]},
        {"kernel_shape": [2, 2], "dilations": [3, 5]},  # the corners alone
        {"kernel_shape": [2, 6], "dilations": [3, 1]},
    ],
)
def test_a_window_over_a_part_of_the_map_is_none(attributes: dict[str, Any]) -> None:
    for kind in ("AveragePool", "MaxPool"):
        net = Net((8, 12), opset=19)
        output = net.op(kind, net.trunk(), **attributes)
        assert matched(net, output) is None


@pytest.mark.parametrize(
    "kind", ["GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean"]
)
def test_one_place_is_no_map(kind: str) -> None:
    net = Net((8, 8))
    x = net.op("GlobalAveragePool", net.trunk())
    attributes = {"AveragePool": {"kernel_shape": [1, 1]}, "MaxPool": {"kernel_shape": [1, 1]}}.get(kind, {})
    output = net.reduce(kind, x, [2, 3]) if kind == "ReduceMean" else net.op(kind, x, **attributes)
    assert matched(net, output) is None


@pytest.mark.parametrize(("sides", "axes"), [((2, 8), [2, 3]), ((8, 2), [2, 3])])
def test_a_map_of_one_row_or_column_is_one(sides: tuple[int, int], axes: list[int]) -> None:
    for kind in ("GlobalAveragePool", "ReduceSum"):
        net = Net(sides, opset=13)
        x = net.trunk()
        output = net.op(kind, x) if kind[0] == "G" else net.reduce(kind, x, axes)
        assert check_value(net, output).scale == (4 if kind == "ReduceSum" else 1)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMean", "ReduceMax"])
def test_two_reductions_of_a_side_each_are_one_of_the_places(
    kind: str, first: int, second: int, keep: int
) -> None:
    net = Net((8, 12), opset=13)
    x = net.trunk()
    inner = net.reduce(kind, x, [first], keep=keep)
    behind = second - (not keep and second > first)
    pool = check_value(net, net.reduce(kind, inner, [behind], keep=keep))
    assert (pool.conv, pool.layout) == (x, "NCHW")
    assert pool.scale == (24 if kind == "ReduceSum" else 1)


@pytest.mark.parametrize(
    ("kind", "axes"),
    [
        ("ReduceMean", [1]),  # over the channels
        ("ReduceMean", [1, 2, 3]),
        ("ReduceMean", [2]),  # of one side alone
        ("ReduceMean", [1, 3]),
        ("ReduceMax", [0, 2, 3]),
    ],
)
def test_a_reduction_of_other_axes_is_none(kind: str, axes: list[int]) -> None:
    net = Net((8, 12), opset=13)
    output = net.reduce(kind, net.trunk(), axes)
    assert matched(net, output) is None


def test_reductions_of_two_kinds_are_none() -> None:
    net = Net((8, 12), opset=13)
    inner = net.reduce("ReduceMax", net.trunk(), [2])
    assert matched(net, net.reduce("ReduceMean", inner, [3])) is None


def test_two_reductions_of_one_place_or_of_the_channels_are_none() -> None:
    net = Net((8, 12), opset=13)
    one = net.op("GlobalAveragePool", net.trunk())
    assert matched(net, net.reduce("ReduceMean", net.reduce("ReduceMean", one, [3]), [2])) is None
    for first, second in ((1, 3), (3, 1)):
        net = Net((8, 12), opset=13)
        inner = net.reduce("ReduceMean", net.trunk(), [first])
        assert matched(net, net.reduce("ReduceMean", inner, [second])) is None


def test_places_in_a_row_are_the_map_before_them() -> None:
    net = Net((8, 12), opset=13)
    x = net.trunk()
    pool = check_value(net, net.reduce("ReduceMean", net.op("Reshape", x, net.ints(0, 8, 24)), [2], keep=0))
    assert (pool.conv, pool.layout) == (x, "NCHW")
    # Half of the places as further channels are no places in a row.
    net = Net((8, 12), opset=13)
    rows = net.op("Reshape", net.trunk(), net.ints(0, 16, 12))
    assert matched(net, net.reduce("ReduceMean", rows, [2], keep=0)) is None


def test_axes_are_counted_from_the_front_and_sorted() -> None:
    net = Net((8, 12), opset=18)
    x = net.trunk()
    known, unknown = net.op("ReduceMean", x, net.ints(-1, 2)), net.op("ReduceMean", x)
    graph = graph_of(net, net.op("Add", known, unknown))
    assert reduced_axes(graph, graph.producer[known], 4) == [2, 3]
    assert reduced_axes(graph, graph.producer[unknown], 4) is None
    assert match_pool(graph, unknown) is None  # over everything


@pytest.mark.parametrize(
    ("kernel", "attributes", "kind"),
    [
        ((8, 1, 4, 6), {"group": 8}, "weights"),
        ((5, 8, 4, 6), {}, "flatten"),
        ((8, 2, 4, 6), {"group": 4}, None),  # mixes two channels each
        ((16, 1, 4, 6), {"group": 8}, None),  # two of each channel
        ((8, 1, 3, 6), {"group": 8}, None),
        ((8, 1, 4, 5), {"group": 8}, None),
        ((8, 1, 6, 8), {"group": 8, "pads": [1, 1, 1, 1]}, None),  # larger than the map
        ((8, 1, 4, 6), {"group": 8, "pads": [1, 0, 0, 0], "strides": [2, 1]}, None),  # a row too few
    ],
)
def test_a_convolution_as_large_as_the_map(
    kernel: tuple[int, ...], attributes: dict[str, Any], kind: str | None
) -> None:
    net = Net((8, 12))
    x = net.trunk()
    pool = matched(net, net.op("Conv", x, net.store(net.draw(*kernel)), **attributes))
    assert (pool and pool.kind) == kind
    assert pool is None or pool.conv == x


@pytest.mark.parametrize(
    ("p", "root", "is_gem"), [(3.0, 1 / 3, True), (3.0, 0.3332, False), (3.0, 0.5, False), (2.5, 0.4, True)]
)
def test_a_generalised_mean_takes_the_root_of_its_own_power(p: float, root: float, is_gem: bool) -> None:
    net = Net((8, 12))
    powers = net.op("Pow", net.op("Add", net.trunk(), net.store(1e-3)), net.store(p))
    output = net.op("Pow", net.op("GlobalAveragePool", powers), net.store(root))
    if is_gem:
        assert check_value(net, output, exponent=p).kind == "gem"
    else:
        assert matched(net, output) is None


@pytest.mark.parametrize("pool", ["GlobalMaxPool", "ReduceSum"])
def test_a_root_of_another_pooling_of_powers_is_none(pool: str) -> None:
    net = Net((8, 12), opset=13)
    powers = net.op("Pow", net.trunk(), net.store(3.0))
    inner = net.reduce(pool, powers, [2, 3]) if pool == "ReduceSum" else net.op(pool, powers)
    assert matched(net, net.op("Pow", inner, net.store(1 / 3))) is None


def test_powers_that_the_image_gives_are_no_exponent() -> None:
    net = Net((8, 12))
    x = net.trunk()
    powers = net.op("Pow", x, net.op("GlobalMaxPool", x))
    assert matched(net, net.op("Pow", net.op("GlobalAveragePool", powers), net.store(1 / 3))) is None


@pytest.mark.parametrize(
    ("op", "first", "second", "kind", "scale"),
    [
        ("Add", "GlobalMaxPool", "GlobalAveragePool", "avgmax", 2),
        ("Sum", "GlobalAveragePool", "GlobalMaxPool", "avgmax", 2),
        ("Mean", "GlobalAveragePool", "GlobalMaxPool", "avgmax", 1),
        ("Concat", "GlobalAveragePool", "GlobalMaxPool", "catavgmax", 1),
        ("Concat", "GlobalMaxPool", "GlobalAveragePool", None, 0),  # the contract has no name for it
        ("Concat", "GlobalAveragePool", "GlobalAveragePool", None, 0),
        ("Add", "GlobalMaxPool", "GlobalMaxPool", None, 0),
        ("Mul", "GlobalAveragePool", "GlobalMaxPool", None, 0),
    ],
)
def test_average_and_maximum_together(op: str, first: str, second: str, kind: str | None, scale: int) -> None:
    net = Net((8, 12))
    x = net.trunk()
    both = [net.flat(net.op(pool, x)) for pool in (first, second)]
    output = net.op(op, *both, **({"axis": 1} if op == "Concat" else {}))
    if kind is None:
        assert matched(net, output) is None
    else:
        pool = check_value(net, output)
        assert (pool.kind, pool.scale, pool.conv) == (kind, scale, x)


def test_average_and_maximum_of_two_maps_or_three_of_one_are_none() -> None:
    net = Net((8, 12))
    x = net.trunk()
    average, maximum = net.op("GlobalAveragePool", x), net.op("GlobalMaxPool", net.op("Neg", x))
    assert matched(net, net.op("Add", average, maximum)) is None
    net = Net((8, 12))
    x = net.trunk()
    average, maximum = net.op("GlobalAveragePool", x), net.op("GlobalMaxPool", x)
    assert matched(net, net.op("Sum", average, maximum, average)) is None
    net = Net((8, 12), opset=13)
    x = net.trunk()
    for one in ("GlobalMaxPool", "GlobalAveragePool"):
        total = net.reduce("ReduceSum", x, [2, 3])
        assert matched(net, net.op("Add", total, net.op(one, x))) is None


@pytest.mark.parametrize(
    ("shape", "target", "is_map"),
    [
        ((2, 3), (0, -1), True),
        ((1, 8), (0, -1), True),
        ((2, 3), (0, 8, 6), False),  # still three axes
        ((2, 3), (2, -1), False),  # cuts an image into two
    ],
)
def test_a_flattened_map(shape: tuple[int, int], target: tuple[int, ...], is_map: bool) -> None:
    net = Net((2 * shape[0], 2 * shape[1]))
    x = net.trunk()
    pool = matched(net, net.op("Reshape", x, net.ints(*target)))
    assert (pool is not None) == is_map
    assert pool is None or (pool.kind, pool.conv, pool.layout) == ("flatten", x, "NCHW")


def test_a_vector_written_as_a_map_is_not_flattened() -> None:
    net = Net((8, 8))
    x = net.trunk()
    assert matched(net, net.flat(net.op("GlobalAveragePool", x))) is None
    net = Net((8, 8))
    assert matched(net, net.op("Flatten", net.op("Reshape", net.trunk(), net.ints(0, 8, 16)))) is None


def test_the_image_itself_is_no_feature_map() -> None:
    for kind in ("GlobalAveragePool", "ReduceMean", "Relu"):
        net = Net((8, 8), opset=13)
        image = net.inputs[0].name
        output = net.reduce(kind, image, [2, 3]) if kind == "ReduceMean" else net.op(kind, image)
        assert matched(net, output) is None
        assert match_pool(graph_of(net, output), image) is None
