"""Attention branches: their steps in numbers, and the node that an error names where there are none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from networks import Net
from simmap.engine.errors import ExportError
from simmap.export.surgery.blocks import Stream, find_stream
from simmap.export.surgery.graph import Graph, plain_session

TOKENS, FEATURES, HEADS = 7, 8, 2
Steps = Callable[[Net, str], str]


def tokens(net: Net) -> str:
    """(N, 7, 8): a class token and 2 x 3 patches."""
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 6)), perm=[0, 2, 1])
    return net.op("Concat", net.store(net.draw(1, 1, 8)), x, axis=1)


def heads_of(net: Net, x: str, merged: bool) -> str:
    split = net.op("Reshape", net.op("MatMul", x, net.store(net.draw(8, 8))), net.ints(0, TOKENS, HEADS, 4))
    split = net.op("Transpose", split, perm=[0, 2, 1, 3])
    return net.op("Reshape", split, net.ints(-1, TOKENS, 4)) if merged else split


def attended(
    net: Net,
    x: str,
    *,
    merged: bool = False,
    axis: int = -1,
    behind: Steps = lambda net, a: a,
    mix: bool = False,
) -> str:
    """(N, 7, 8): the heads side by side; ``behind`` is done to the attention weights."""
    query, value = heads_of(net, x, merged), heads_of(net, x, merged)
    last = [0, 2, 1] if merged else [0, 1, 3, 2]
    weights = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", query, perm=last)), axis=axis)
    y = net.op("MatMul", behind(net, weights), value)
    y = net.op("Reshape", y, net.ints(-1, HEADS, TOKENS, 4)) if merged else y
    y = y if mix else net.op("Transpose", y, perm=[0, 2, 1, 3])
    return net.op("Reshape", y, net.ints(0, TOKENS, FEATURES))


def stream_of(net: Net, state: str) -> Stream:
    return find_stream(Graph(net.done(state), name="net", size=None), state, TOKENS)


def values_of(net: Net, *names: str) -> list[np.ndarray[Any, Any]]:
    image = np.random.default_rng(1).normal(size=(1, 3, *net.size)).astype(np.float32)
    found = plain_session(net.done(*names)).run(None, {net.inputs[0].name: image})
    return [np.asarray(value, np.float64) for value in found]


def check_branches(net: Net, stream: Stream, state: str) -> None:
    """The sum of the terms is the state, and each branch what its block says."""
    first, last, *branches = values_of(net, stream.start, state, *stream.branches)
    np.testing.assert_allclose(
        first + sum(b.reshape(first.shape) for b in branches), last, rtol=1e-4, atol=1e-5
    )
    for block in stream.blocks:
        assert (block.heads, block.width) == (HEADS, 4)
        weights, values, branch = values_of(net, block.weights, block.values, block.branch)
        each = weights.reshape(HEADS, TOKENS, TOKENS) @ values.reshape(HEADS, TOKENS, 4)
        found = block.apply(each.transpose(1, 0, 2).reshape(TOKENS, FEATURES)) + block.bias()
        np.testing.assert_allclose(found, branch.reshape(TOKENS, FEATURES), rtol=1e-4, atol=1e-5)


def flat_gemm(net: Net, x: str, **attributes: Any) -> str:
    """A Gemm on (7, 8), as some exporters write a linear layer."""
    x = net.op("Reshape", x, net.ints(-1, FEATURES))
    y = net.op("Gemm", x, net.store(net.draw(8, 8)), net.store(net.draw(8)), **attributes)
    return net.op("Reshape", y, net.ints(-1, TOKENS, FEATURES))


STEPS: dict[str, Steps] = {
    "nothing": lambda net, x: x,
    "matrix": lambda net, x: net.op("MatMul", x, net.store(net.draw(8, 8))),
    "matrix and bias": lambda net, x: net.op(
        "Add", net.store(net.draw(8)), net.op("MatMul", x, net.store(net.draw(8, 8)))
    ),
    "Gemm": flat_gemm,
    "Gemm, transposed": lambda net, x: flat_gemm(net, x, transB=1),
    "Gemm, a weighted bias": lambda net, x: flat_gemm(net, x, transB=1, beta=0.5),
    "a scale for each feature": lambda net, x: net.op("Mul", x, net.store(net.draw(8))),
    "one scale": lambda net, x: net.op("Mul", net.store(0.5), x),
    "one scale with axes": lambda net, x: net.op("Mul", x, net.store([[[0.5]]])),
    "bias, matrix, bias, scale": lambda net, x: net.op(
        "Mul",
        net.op(
            "Add",
            net.op("MatMul", net.op("Add", x, net.store(net.draw(8))), net.store(net.draw(8, 8))),
            net.store(net.draw(1, 1, 8)),
        ),
        net.store(net.draw(8)),
    ),
}


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("steps", STEPS)
def test_the_steps_of_a_branch_give_what_its_nodes_give(steps: str, merged: bool) -> None:
    net = Net((8, 12))
    x = tokens(net)
    state = net.op("Add", x, STEPS[steps](net, attended(net, x, merged=merged)))
    stream = stream_of(net, state)
    assert stream.start == x and [block.is_merged for block in stream.blocks] == [merged]
    assert len(stream.branches) == 1
    check_branches(net, stream, state)


def test_two_blocks_and_two_mlps_in_their_order() -> None:
    net = Net((8, 12))
    x = first = tokens(net)
    expected = []
    for _ in range(2):
        branch = net.op("MatMul", attended(net, x), net.store(net.draw(8, 8)))
        x = net.op("Identity", net.op("Add", branch, x))
        inner = net.op("Relu", net.op("MatMul", x, net.store(net.draw(8, 16))))
        x = net.op("Sum", x, net.op("MatMul", inner, net.store(net.draw(16, 8))))
        expected.append(branch)
    stream = stream_of(net, net.op("Reshape", x, net.ints(0, -1, 8)))
    assert stream.start == first and [block.branch for block in stream.blocks] == expected
    assert len(stream.branches) == 4 and set(expected) < set(stream.branches)
    check_branches(net, stream, x)


def test_the_embedded_patches_are_one_term_whatever_is_added_to_them_by_name() -> None:
    # Position embeddings are constant: no data flows through them, so they belong to the start.
    net = Net((8, 12))
    x = net.op("Add", tokens(net), net.store(net.draw(1, TOKENS, 8)))
    state = net.op("Add", x, attended(net, x))
    stream = stream_of(net, state)
    assert stream.start == x
    check_branches(net, stream, state)


def gated(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x))


@pytest.mark.parametrize(
    ("branch", "told"),
    [
        (lambda net, x: attended(net, x, mix=True), "mixes tokens"),
        (
            lambda net, x: net.op("MatMul", attended(net, x, mix=True), net.store(net.draw(8, 8))),
            r"node MatMul .* reads the heads in an order that mixes tokens",
        ),
        (lambda net, x: attended(net, x, axis=2), "has no softmax over the tokens as its weights"),
        (
            lambda net, x: attended(net, x, behind=lambda net, a: net.op("Mul", a, net.store(2.0))),
            r"node Mul .* changes the attention weights behind their softmax",
        ),
        (
            lambda net, x: attended(net, x, behind=lambda net, a: net.op("Transpose", a, perm=[0, 1, 3, 2])),
            r"node Transpose .* changes the attention weights",
        ),
        (
            lambda net, x: gated(net, attended(net, x)),
            r"node Mul .* stands between attention and the residual",
        ),
        (lambda net, x: net.op("Relu", attended(net, x)), r"node Relu .* stands between"),
        (
            lambda net, x: net.op("LayerNormalization", attended(net, x), net.store(net.draw(8))),
            "normalises an attention branch before it is added",
        ),
        (
            lambda net, x: net.op("Mul", attended(net, x), net.store(net.draw(TOKENS, 1))),
            "scales or shifts tokens differently",
        ),
        (
            lambda net, x: net.op("Add", attended(net, x), net.store(net.draw(TOKENS, 8))),
            "scales or shifts tokens differently",
        ),
        (
            lambda net, x: net.op("MatMul", net.store(net.draw(TOKENS, TOKENS)), attended(net, x)),
            "has no constant weight",
        ),
        (lambda net, x: flat_gemm(net, attended(net, x), alpha=2.0), "is no plain matrix product"),
        (
            lambda net, x: net.op("MatMul", attended(net, x), net.store(net.draw(1, 8, 8))),
            "is no plain matrix product",
        ),
    ],
)
def test_what_is_not_linear_in_each_token_is_refused_by_its_node(branch: Steps, told: str) -> None:
    net = Net((8, 12))
    x = tokens(net)
    state = net.op("Add", x, branch(net, x))
    with pytest.raises(ExportError, match=told):
        stream_of(net, state)


def test_weights_may_pass_notation_behind_their_softmax() -> None:
    net = Net((8, 12))
    x = tokens(net)
    passes = lambda net, a: net.op("Dropout", net.op("Cast", net.op("Identity", a), to_type=1))  # noqa: E731
    state = net.op("Add", x, attended(net, x, behind=passes))
    check_branches(net, stream_of(net, state), state)


def test_attention_to_some_tokens_is_refused() -> None:
    # The class token is no key.
    net = Net((8, 12))
    x = tokens(net)
    query, value = (heads_of(net, x, merged=False) for _ in range(2))
    key, value = (net.op("Slice", y, net.ints(1), net.ints(TOKENS), net.ints(2)) for y in (query, value))
    weights = net.op("Softmax", net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2])), axis=-1)
    y = net.op("Transpose", net.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    state = net.op("Add", x, net.op("Reshape", y, net.ints(0, TOKENS, FEATURES)))
    told = r"attends by weights \(1, 2, 7, 6\) to values \(1, 2, 6, 4\), not among all 7 tokens"
    with pytest.raises(ExportError, match=told):
        stream_of(net, state)


def test_a_state_that_is_no_sum_or_has_no_attention_is_refused() -> None:
    net = Net((8, 12))
    state = net.op("Relu", tokens(net))
    with pytest.raises(ExportError, match=r"is read from node Relu .*, which is no sum of residual branches"):
        stream_of(net, state)
    net = Net((8, 12))
    x = tokens(net)
    state = net.op("Add", x, net.op("Relu", net.op("MatMul", x, net.store(net.draw(8, 8)))))
    with pytest.raises(ExportError, match="has 1 terms before any attention and 0 attention branches"):
        stream_of(net, state)
    net = Net((8, 12))
    x, other = tokens(net), tokens(net)
    state = net.op("Add", net.op("Add", x, other), attended(net, other))
    with pytest.raises(ExportError, match="has 2 terms before any attention and 1 attention branches"):
        stream_of(net, state)


def test_a_sum_with_a_vector_for_all_tokens_is_no_residual_sum() -> None:
    net = Net((8, 12))
    x = tokens(net)
    mean = net.op("ReduceMean", x, axes=[1], keepdims=1)
    with pytest.raises(ExportError, match=r"is read from node Add .*, which is no sum"):
        stream_of(net, net.op("Add", x, mean))
