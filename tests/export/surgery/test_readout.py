"""Norms and the token that is read: each way to write them, and what only looks like one."""

from typing import Any

import numpy as np
import pytest

from networks import Net
from simmap.export.surgery.graph import Graph, plain_session
from simmap.export.surgery.readout import Norm, match_norm, match_readout

TOKENS, FEATURES = 7, 8


def tokens(net: Net) -> str:
    """(N, 7, 8): a class token and 2 x 3 patches."""
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 6)), perm=[0, 2, 1])
    return net.op("Concat", net.store(net.draw(1, 1, 8)), x, axis=1)


def graph_of(net: Net, output: str) -> Graph:
    return Graph(net.done(output), name="net", size=None)


def value_of(net: Net, *outputs: str) -> list[np.ndarray[Any, Any]]:
    image = np.random.default_rng(1).normal(size=(1, 3, *net.size)).astype(np.float32)
    return list(plain_session(net.done(*outputs)).run(None, {net.inputs[0].name: image}))


def check_norm(net: Net, output: str) -> Norm:
    """A norm whose gain, bias and epsilon say what the nodes give, in numbers."""
    norm = match_norm(graph_of(net, output), output)
    assert norm is not None and norm.output == output
    x, y = value_of(net, norm.input, output)
    centred = x - x.mean(axis=-1, keepdims=True)
    sigma = np.sqrt((centred.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + norm.epsilon)
    np.testing.assert_allclose(y, norm.gain * centred / sigma + norm.bias, rtol=1e-4, atol=1e-5)
    return norm


def written_out(net: Net, x: str, **changed: Any) -> str:
    """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gain + bias`` node by node."""
    given: dict[str, Any] = {
        "axis": -1, "spread_axis": -1, "square": "Pow", "power": 2.0, "from": x, "of": x, "last": "Add",
        "scale": "Mul", "divide": "Div", "root": "Sqrt", "centre": "Sub", "epsilon": net.store(0.5),
        **changed,
    }  # fmt: skip
    mean = net.op("ReduceMean", given["of"], axes=[given["axis"]], keepdims=1)
    centred = net.op(given["centre"], x, mean)
    again = net.op("Sub", given["from"], mean) if changed.get("twice") else centred
    again = net.op("Cast", again, to_type=1) if changed.get("cast") else again
    if given["square"] == "Pow":
        square = net.op("Pow", again, net.store(given["power"]))
    else:
        square = net.op("Mul", again, net.op("Identity", again) if changed.get("other") else again)
    variance = net.op("ReduceMean", square, axes=[given["spread_axis"]], keepdims=1)
    sigma = net.op(given["root"], net.op("Add", variance, given["epsilon"]))
    y = net.op(given["divide"], centred, sigma)
    y = net.op(given["scale"], y, net.store(1.5 + net.draw(FEATURES)))
    return net.op(given["last"], net.store(net.draw(FEATURES)), y)


@pytest.mark.parametrize(
    "changed", [{}, {"square": "Mul"}, {"twice": True}, {"twice": True, "cast": True}, {"axis": 2}]
)
def test_a_norm_written_out_is_one(changed: dict[str, Any]) -> None:
    net = Net((8, 12))
    norm = check_norm(net, written_out(net, tokens(net), **changed))
    assert norm.epsilon == 0.5


@pytest.mark.parametrize(
    "changed",
    [
        {"power": 3.0},
        {"square": "Mul", "other": True},  # a product of two tensors, however equal
        {"axis": 1, "spread_axis": -1},
        {"axis": -1, "spread_axis": 1},
        {"last": "Mul"},
        {"scale": "Add"},
        {"divide": "Mul"},
        {"root": "Exp"},
        {"centre": "Add"},
        {"epsilon": "vector"},
    ],
)
def test_what_only_looks_like_a_norm_is_none(changed: dict[str, Any]) -> None:
    net = Net((8, 12))
    if changed.get("epsilon"):
        changed = {"epsilon": net.store(0.1 + np.arange(TOKENS, dtype=float)[:, None])}
    output = written_out(net, tokens(net), **changed)
    assert match_norm(graph_of(net, output), output) is None


def test_a_norm_of_another_tensors_mean_is_none() -> None:
    net = Net((8, 12))
    x = tokens(net)
    output = written_out(net, x, of=net.op("Neg", x))
    assert match_norm(graph_of(net, output), output) is None
    net = Net((8, 12))
    x = tokens(net)
    output = written_out(net, x, **{"twice": True, "from": net.op("Neg", x)})
    assert match_norm(graph_of(net, output), output) is None


@pytest.mark.parametrize(
    ("attributes", "epsilon"),
    [({}, 1e-5), ({"epsilon": 0.25}, 0.25), ({"axis": 2}, 1e-5), ({"axis": -1}, 1e-5)],
)
def test_a_norm_in_one_node(attributes: dict[str, Any], epsilon: float) -> None:
    for has_bias in (True, False):
        net = Net((8, 12))
        weights = [net.store(1 + net.draw(FEATURES)), *([net.store(net.draw(FEATURES))] if has_bias else [])]
        norm = check_norm(net, net.op("LayerNormalization", tokens(net), *weights, **attributes))
        assert norm.epsilon == pytest.approx(epsilon, rel=1e-6) and norm.bias.any() == has_bias


def test_a_norm_of_more_than_the_features_or_by_a_gain_of_the_image_is_none() -> None:
    for axis in (1, -2):
        net = Net((8, 12))
        output = net.op("LayerNormalization", tokens(net), net.store(net.draw(TOKENS, FEATURES)), axis=axis)
        assert match_norm(graph_of(net, output), output) is None
    net = Net((8, 12))
    x = tokens(net)
    gain = net.op("Reshape", net.op("Gather", x, net.store(np.array(1)), axis=1), net.ints(8))
    output = net.op("LayerNormalization", x, gain)
    assert match_norm(graph_of(net, output), output) is None


@pytest.mark.parametrize(
    ("op", "index", "read"),
    [
        ("Gather", 0, 0),
        ("Gather", -1, 6),
        ("Gather", 3, 3),
        ("Slice", 0, 0),
        ("Slice", 2, 2),
        ("Slice", -1, 6),
    ],
)
@pytest.mark.parametrize("normed", ["before", "after", "none"])
def test_one_token_is_read(op: str, index: int, read: int, normed: str) -> None:
    net = Net((8, 12))
    x = state = tokens(net)
    gain = net.store(1.5 + net.draw(FEATURES))
    x = net.op("LayerNormalization", x, gain) if normed == "before" else x
    if op == "Gather":
        x = net.op("Gather", x, net.store(np.array(index)), axis=1)
    else:
        x = net.op("Slice", x, net.ints(index), net.ints(index + 1 or 2**31), net.ints(-2))
    x = net.op("LayerNormalization", x, gain) if normed == "after" else x
    found = match_readout(graph_of(net, x), x)
    assert found is not None
    assert (found.state, found.tokens, found.weights, found.output) == (state, (read,), (1.0,), x)
    assert (found.norm is not None) == (normed != "none")
    whole, y = value_of(net, state, x)
    expected = whole[:, read].astype(np.float64)
    if found.norm is not None:
        spread = np.sqrt(expected.var() + found.norm.epsilon)
        expected = found.norm.gain * (expected - expected.mean()) / spread + found.norm.bias
    np.testing.assert_allclose(y.reshape(1, -1), expected, rtol=1e-4, atol=1e-5)


def test_a_slice_of_everything_and_identities_are_looked_through() -> None:
    net = Net((8, 12))
    state = tokens(net)
    x = net.op("Slice", net.op("Identity", state), net.ints(0), net.ints(1000), net.ints(1))
    x = net.op("Gather", x, net.store(np.array(0)), axis=1)
    found = match_readout(graph_of(net, x), x)
    assert found is not None and found.state == state
    net = Net((8, 12))
    part = net.op("Slice", tokens(net), net.ints(1), net.ints(1000), net.ints(1))
    x = net.op("Gather", part, net.store(np.array(0)), axis=1)
    found = match_readout(graph_of(net, x), x)
    assert found is not None and found.state == part  # not the tokens before it, whose number 0 is another


@pytest.mark.parametrize(
    ("inputs", "axis"), [((0, 2), 1), ((0,), 2), ((0, 1), 2)], ids=["two tokens", "a feature", "two features"]
)
def test_a_gather_of_something_else_reads_no_token(inputs: tuple[int, ...], axis: int) -> None:
    net = Net((8, 12))
    x = net.op("Gather", tokens(net), net.ints(*inputs), axis=axis)
    assert match_readout(graph_of(net, x), x) is None


def test_a_feature_of_as_many_tokens_as_features_is_no_token() -> None:
    net = Net((8, 12))
    x = net.op("Gather", net.op("MatMul", tokens(net), net.store(net.draw(8, 7))), net.ints(0), axis=2)
    assert match_readout(graph_of(net, x), x) is None


def test_a_map_has_no_tokens_and_a_single_token_is_no_choice() -> None:
    net = Net((8, 12))
    x = net.op("Gather", net.trunk(), net.ints(0), axis=1)
    assert match_readout(graph_of(net, x), x) is None
    net = Net((8, 12))
    x = net.op("Gather", net.op("ReduceMean", tokens(net), axes=[1], keepdims=1), net.ints(0), axis=1)
    assert match_readout(graph_of(net, x), x) is None


def added(net: Net, state: str, other: str, *, first_gain: str = "", second_gain: str = "") -> str:
    """The sum of token 0 of one tensor and token 1 of another, each normed where a gain is given."""
    one, two = (
        net.op("LayerNormalization", x, gain) if gain else x
        for x, gain in ((state, first_gain), (other, second_gain))
    )
    if state == other and first_gain == second_gain:
        two = one
    picked = [net.op("Gather", x, net.store(np.array(at)), axis=1) for at, x in enumerate((one, two))]
    return net.op("Add", *picked)


def test_a_sum_of_tokens_of_one_state_is_read() -> None:
    for gain in ("", "normed"):
        net = Net((8, 12))
        state = tokens(net)
        gain = net.store(1.5 + net.draw(FEATURES)) if gain else ""
        x = added(net, state, state, first_gain=gain, second_gain=gain)
        found = match_readout(graph_of(net, x), x)
        assert found is not None
        assert (found.state, found.tokens, found.weights) == (state, (0, 1), (1.0, 1.0))
        assert (found.norm is not None) == bool(gain)


def test_a_sum_of_tokens_of_two_states_or_behind_two_norms_is_none() -> None:
    net = Net((8, 12))
    state = tokens(net)
    x = added(net, state, net.op("Neg", state))
    assert match_readout(graph_of(net, x), x) is None
    net = Net((8, 12))
    state = tokens(net)
    gains = [net.store(1.5 + net.draw(FEATURES)) for _ in range(2)]
    x = added(net, state, state, first_gain=gains[0], second_gain=gains[1])
    assert match_readout(graph_of(net, x), x) is None
    net = Net((8, 12))
    state = tokens(net)
    x = added(net, state, state, first_gain=net.store(1.5 + net.draw(FEATURES)))
    assert match_readout(graph_of(net, x), x) is None
    net = Net((8, 12))
    x = tokens(net)
    x = net.op("Add", net.op("Gather", x, net.ints(0), axis=1), net.store(net.draw(FEATURES)))
    assert match_readout(graph_of(net, x), x) is None
