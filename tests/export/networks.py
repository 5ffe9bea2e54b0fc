"""Tiny ONNX networks, each with what it computes behind its feature map written out in NumPy.

Every builder gives a ``Network``; ``EXPORTABLE`` holds those that can be decomposed, by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Head = Callable[[Array], Array]


@dataclass(frozen=True)
class Network:
    """A graph and the truth about it.

    Attributes:
        model: the graph.
        conv: the tensor that is the feature map.
        pooling: what the contract must call the pooling.
        head: float64 feature map (C, H, W) to the embedding that the artifact must give (D,).
        pool: likewise to the pooled feature; None where there is none.
        layout: axes of ``conv``; for ``NLC`` the grid is ``grid``.
        grid: H and W.
        affine: whether the artifact must have ``parts``.
        flags: of the recipe.
        half: the source computes in float16.
    """

    model: onnx.ModelProto
    conv: str
    pooling: str
    head: Head
    pool: Head | None
    layout: str = "NCHW"
    grid: tuple[int, int] = (8, 8)
    affine: bool = False
    flags: dict[str, Any] = field(default_factory=dict)
    half: bool = False


def average(alpha: Array) -> Array:
    """Mean over the places of (C, H, W)."""
    return alpha.mean(axis=(1, 2))


def maximum(alpha: Array) -> Array:
    """Maximum over the places of (C, H, W)."""
    return alpha.max(axis=(1, 2))


def unit(vector: Array) -> Array:
    """A vector over its norm."""
    return vector / np.linalg.norm(vector)


class Net:
    """Writes a graph node by node; weights are drawn with a fixed seed."""

    def __init__(
        self,
        size: tuple[int, int] = (16, 16),
        *,
        opset: int = 17,
        batch: int | str = "N",
        nhwc: bool = False,
        dtype: int = TensorProto.FLOAT,
        name: str = "input",
        channels: int = 3,
        free: bool = False,
        seed: int = 0,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset, self.dtype, self.size = opset, dtype, size
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        sides: Sequence[int | str] = ("h", "w") if free else size
        shape = [batch, *sides, channels] if nhwc else [batch, channels, *sides]
        self.inputs = [helper.make_tensor_value_info(name, dtype, shape)]
        self.count = 0

    def name(self, stem: str) -> str:
        """A tensor name that is not taken."""
        self.count += 1
        return f"{stem}_{self.count}"

    def store(self, value: npt.ArrayLike, name: str | None = None) -> str:
        """An initializer; floats become float16 in a float16 network."""
        array = np.asarray(value)
        if array.dtype.kind == "f":
            array = array.astype(np.float16 if self.dtype == TensorProto.FLOAT16 else np.float32)
        name = name or self.name("weight")
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        """An int64 vector: a shape or axes."""
        return self.store(np.array(values, dtype=np.int64))

    def draw(self, *shape: int) -> Array:
        """Random numbers of a size that keeps activations near 1."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return (self.rng.normal(size=shape) / np.sqrt(fan)).astype(np.float16).astype(np.float64)

    def op(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        """Append a node and give its output."""
        output = to or self.name(kind.lower())
        if kind == "Cast":  # whose attribute is called to, as the output's name here
            attributes = {"to": attributes["to_type"]}
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"node_{output}", **attributes))
        return output

    def conv(
        self, x: str, inside: int, outside: int, *, kernel: int = 3, to: str | None = None, **attributes: Any
    ) -> str:
        """A convolution that keeps the size (but for its stride), with a bias."""
        weight = self.store(self.draw(outside, inside, kernel, kernel))
        pad = kernel // 2
        attributes.setdefault("pads", [pad] * 4)
        bias = self.store(self.draw(outside) * 0.1)
        return self.op("Conv", x, weight, bias, to=to, kernel_shape=[kernel, kernel], **attributes)

    def trunk(
        self, channels: int = 8, *, stride: int = 2, x: str | None = None, to: str | None = None
    ) -> str:
        """Two convolutions; the feature map, ReLU behind it, is as large as the input over ``stride``."""
        x = self.conv(x or self.inputs[0].name, 3, 6, strides=[stride, stride])
        x = self.op("Relu", x)
        return self.op("Relu", self.conv(x, 6, channels), to=to)

    def flat(self, x: str) -> str:
        """(N, C, 1, 1) to (N, C)."""
        return self.op("Flatten", x, axis=1)

    def gemm(self, x: str, inside: int, outside: int, *, to: str | None = None) -> tuple[str, Array, Array]:
        """A linear layer, and its matrix (D, F) and bias."""
        weight, bias = self.draw(outside, inside), self.draw(outside)
        return self.op("Gemm", x, self.store(weight), self.store(bias), to=to, transB=1), weight, bias

    def norm(self, x: str, size: int, *, to: str | None = None) -> tuple[str, Array, Array]:
        """BatchNormalization as scale and shift (F,)."""
        gamma, beta, mean = 1 + self.draw(size) * 0.3, self.draw(size), self.draw(size)
        variance = (1 + self.draw(size) ** 2).astype(np.float32).astype(np.float64)
        gamma, beta, mean = (np.float32(v).astype(np.float64) for v in (gamma, beta, mean))
        stored = [self.store(v) for v in (gamma, beta, mean, variance)]
        scale = gamma / np.sqrt(variance + 1e-5)
        return self.op("BatchNormalization", x, *stored, to=to, epsilon=1e-5), scale, beta - mean * scale

    def reduce(self, kind: str, x: str, axes: Sequence[int], *, keep: int = 1) -> str:
        """A reduction, its axes written as the opset wants them."""
        first = {"ReduceSum": 13}.get(kind, 18)
        if self.opset >= first:
            return self.op(kind, x, self.ints(*axes), keepdims=keep)
        return self.op(kind, x, axes=list(axes), keepdims=keep)

    def squeeze_excite(self, x: str, channels: int) -> str:
        """x times a gate that a pool of x gives."""
        gate = self.op("GlobalAveragePool", x)
        gate = self.op("Relu", self.conv(gate, channels, 4, kernel=1))
        gate = self.op("Sigmoid", self.conv(gate, 4, channels, kernel=1))
        return self.op("Mul", x, gate)

    def done(self, *outputs: str, listed: bool = False, ir: int | None = None) -> onnx.ModelProto:
        """The model; ``listed`` names the weights as inputs too, as old exporters do."""
        inputs = [*self.inputs]
        if listed:
            inputs += [helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in self.weights]
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            inputs,
            [onnx.ValueInfoProto(name=o) for o in outputs],
            initializer=self.weights,
        )
        for output in graph.output:
            output.type.tensor_type.elem_type = (
                self.dtype if self.dtype != TensorProto.UINT8 else TensorProto.FLOAT
            )
        imports = [helper.make_opsetid("", self.opset)]
        version = ir or max(8, helper.find_min_ir_version_for(imports))
        return helper.make_model(graph, opset_imports=imports, ir_version=version)


EXPORTABLE: dict[str, Callable[[], Network]] = {}


def _case(name: str, build: Callable[..., Network], **arguments: Any) -> None:
    EXPORTABLE[name] = lambda: build(**arguments)


def pooled_only(
    kind: str = "GlobalAveragePool",
    *,
    opset: int = 17,
    size: tuple[int, int] = (16, 16),
    stride: int = 2,
    **attributes: Any,
) -> Network:
    """A trunk and one pooling node, no head."""
    net = Net(size, opset=opset)
    x = net.trunk(stride=stride)
    grid = (-(-size[0] // stride), -(-size[1] // stride))
    out = net.flat(net.op(kind, x, **attributes))
    pool = maximum if "Max" in kind else average
    return Network(net.done(out), x, "max" if "Max" in kind else "avg", pool, pool, grid=grid)


def fragile(size: tuple[int, int] = (16, 16)) -> Network:
    """x over its mean, then edges: a black image gives NaN, any other constant one a zero embedding."""
    net = Net(size)
    x = net.op("Div", net.inputs[0].name, net.op("GlobalAveragePool", net.inputs[0].name))
    kernels = net.draw(8, 3, 3, 3)
    kernels -= kernels.mean(axis=(1, 2, 3), keepdims=True) + 0.01
    x = net.op("Relu", net.op("Conv", x, net.store(kernels), kernel_shape=[3, 3], strides=[2, 2]))
    out = net.flat(net.op("GlobalAveragePool", x))
    grid = ((size[0] - 1) // 2, (size[1] - 1) // 2)
    return Network(net.done(out), x, "avg", average, average, grid=grid)


def reduced(
    kind: str,
    axes: Sequence[int],
    *,
    keep: int,
    opset: int,
    size: tuple[int, int] = (16, 16),
    nhwc: bool = False,
) -> Network:
    """A reduction over the places, on NCHW or behind a Transpose."""
    net = Net(size, opset=opset)
    x = net.trunk()
    conv = net.op("Transpose", x, perm=[0, 2, 3, 1]) if nhwc else x
    out = net.reduce(kind, conv, axes, keep=keep)
    if keep:
        out = net.flat(out)
    pool = maximum if kind == "ReduceMax" else average
    return Network(
        net.done(out), conv, "max" if kind == "ReduceMax" else "avg", pool, pool,
        layout="NHWC" if nhwc else "NCHW", grid=(size[0] // 2, size[1] // 2),
    )  # fmt: skip


def two_steps(kind: str, first: int, second: int, *, keep: int, nhwc: bool = False) -> Network:
    """A reduction over one side of the map, then over the other."""
    net = Net((16, 24), opset=13)
    x = net.trunk()
    conv = net.op("Transpose", x, perm=[0, 2, 3, 1]) if nhwc else x
    out = net.reduce(kind, net.reduce(kind, conv, [first], keep=keep), [second], keep=keep)
    if keep:
        out = net.flat(out)
    pool = maximum if kind == "ReduceMax" else average
    return Network(
        net.done(out), conv, "max" if kind == "ReduceMax" else "avg", pool, pool,
        layout="NHWC" if nhwc else "NCHW", grid=(8, 12),
    )  # fmt: skip


def gem(
    p: float = 3.0,
    *,
    opset: int = 17,
    floor: str = "Clip",
    window: bool = False,
    size: tuple[int, int] = (16, 16),
) -> Network:
    """Clip, Pow, pool, Pow, as torch writes it."""
    net = Net(size, opset=opset)
    x = net.trunk()
    if opset < 11:
        y = net.op("Clip", x, min=1e-6)
    elif floor == "none":
        y = x
    else:
        y = net.op(floor, x, net.store(1e-6))
    y = net.op("Pow", y, net.store([p]))
    grid = (size[0] // 2, size[1] // 2)
    y = net.op("AveragePool", y, kernel_shape=list(grid)) if window else net.op("GlobalAveragePool", y)
    root = net.store([1 / p]) if opset < 13 else net.op("Div", net.store([1.0]), net.store([p]))
    out = net.flat(net.op("Pow", y, root))

    def head(alpha: Array) -> Array:
        return (np.maximum(alpha, 1e-6) ** p).mean(axis=(1, 2)) ** (1 / p)

    return Network(net.done(out), x, "gem", head, head, grid=grid)


def avgmax(*, scale: str = "Mul") -> Network:
    """Average and maximum, half each."""
    net = Net()
    x = net.trunk()
    avg, top = net.op("GlobalAveragePool", x), net.op("GlobalMaxPool", x)
    if scale == "Mean":
        y = net.op("Mean", avg, top)
    else:
        y = net.op("Mul", net.store(0.5), net.op("Add", top, avg))
    head = lambda alpha: (average(alpha) + maximum(alpha)) / 2  # noqa: E731
    return Network(net.done(net.flat(y)), x, "avgmax", head, head)


def catavgmax(*, linear: bool = False) -> Network:
    """Average, then maximum, each flattened, stacked; with a Gemm or without."""
    net = Net()
    x = net.trunk()
    y = net.op(
        "Concat", net.flat(net.op("GlobalAveragePool", x)), net.flat(net.op("GlobalMaxPool", x)), axis=1
    )
    pool = lambda alpha: np.concatenate([average(alpha), maximum(alpha)])  # noqa: E731
    if not linear:
        return Network(net.done(y), x, "catavgmax", pool, pool)
    y, weight, bias = net.gemm(y, 16, 5)
    return Network(net.done(y), x, "catavgmax", lambda a: weight @ pool(a) + bias, pool, affine=True)


def classifier(
    kind: str = "Gemm", *, scores: str | None = "Softmax", pool: str = "GlobalAveragePool"
) -> Network:
    """A classifier behind the pool; with class scores it is left behind, without it is the embedding."""
    net = Net()
    x = net.trunk()
    y = net.op(pool, x)
    weight, bias = net.draw(5, 8), net.draw(5)
    if kind == "Conv":
        y = net.op("Conv", y, net.store(weight[:, :, None, None]), net.store(bias))
        y = net.op("Squeeze", y, net.ints(2, 3))
    elif kind == "MatMul":
        y = net.op("Add", net.op("MatMul", net.flat(y), net.store(weight.T)), net.store(bias))
    else:
        y = net.op("Gemm", net.flat(y), net.store(weight), net.store(bias), transB=1)
    beta = maximum if "Max" in pool else average
    name = "max" if "Max" in pool else "avg"
    if scores:
        y = net.op(scores, y)
        return Network(net.done(y), x, name, beta, beta)
    return Network(net.done(y), x, name, lambda a: weight @ beta(a) + bias, beta, affine=True)


def score_pool() -> Network:
    """SqueezeNet: a 1x1 convolution gives a map of class scores, and these are pooled."""
    net = Net()
    x = net.trunk()
    y = net.op("Relu", net.conv(x, 8, 5, kernel=1))
    out = net.op("Softmax", net.flat(net.op("GlobalAveragePool", y)), axis=1)
    return Network(net.done(out), y, "avg", average, average)


def attention(*, last: bool) -> Network:
    """Squeeze-and-excite in the trunk, or as its very last block before Flatten and Gemm."""
    net = Net()
    x = net.trunk()
    x = net.squeeze_excite(x, 8)
    if last:
        y, weight, bias = net.gemm(net.op("Flatten", x), 8 * 64, 5)
        return Network(net.done(y), x, "flatten", lambda a: weight @ a.reshape(-1) + bias, None, affine=True)
    x = net.squeeze_excite(net.op("Relu", net.conv(x, 8, 8)), 8)
    return Network(net.done(net.flat(net.op("GlobalAveragePool", x))), x, "avg", average, average)


def gate_pool() -> Network:
    """A gate beside the trunk: a maximum over the places that scales the map, and no head."""
    net = Net()
    x = net.trunk()
    gate = net.op("Sigmoid", net.reduce("ReduceMax", x, [2, 3]))
    mean = net.op("Sigmoid", net.op("ReduceMean", x, axes=[1], keepdims=1))
    y = net.op("Mul", net.op("Mul", x, gate), mean)
    y = net.op("Add", y, x)
    return Network(net.done(net.flat(net.op("GlobalAveragePool", y))), y, "avg", average, average)


def nhwc_input(*, flatten: bool = False) -> Network:
    """TensorFlow: NHWC photos, and the map transposed back before the pool or the Flatten."""
    net = Net((16, 12), opset=13, nhwc=True)
    x = net.trunk(x=net.op("Transpose", net.inputs[0].name, perm=[0, 3, 1, 2]))
    last = net.op("Transpose", x, perm=[0, 2, 3, 1])
    if not flatten:
        out = net.op("ReduceMean", last, axes=[1, 2], keepdims=0)
        return Network(net.done(out), last, "avg", average, average, layout="NHWC", grid=(8, 6))
    flat = net.op("Reshape", last, net.ints(-1, 8 * 48))
    y, weight, bias = net.gemm(flat, 8 * 48, 5)
    head = lambda a: weight @ a.transpose(1, 2, 0).reshape(-1) + bias  # noqa: E731
    return Network(net.done(y), x, "flatten", head, None, grid=(8, 6), affine=True)


def mobile_face(
    *, size: tuple[int, int] = (14, 10), bias: bool = True, channels: int = 8, dimension: int = 6
) -> Network:
    """MobileFaceNet: a depthwise convolution as large as the map, 1x1 Conv, BatchNormalization, Flatten."""
    net = Net(size)
    height, width = size[0] // 2, size[1] // 2
    x = net.trunk(channels)
    places = net.draw(channels, 1, height, width)
    shift = net.draw(channels) if bias else np.zeros(channels)
    stored = [net.store(places), *([net.store(shift)] if bias else [])]
    y = net.op("Conv", x, *stored, group=channels, kernel_shape=[height, width])
    weight = net.draw(dimension, channels)
    y = net.op("Conv", y, net.store(weight[:, :, None, None]))
    y, scale, offset = net.norm(y, dimension)
    pool = lambda a: (places[:, 0] * a).sum(axis=(1, 2)) + shift  # noqa: E731
    return Network(
        net.done(net.flat(y)), x, "weights", lambda a: scale * (weight @ pool(a)) + offset, pool,
        grid=(height, width), affine=True,
    )  # fmt: skip


def depthwise_only() -> Network:
    """A depthwise convolution as large as the map and nothing behind it."""
    net = Net((8, 8))
    x = net.trunk()
    places, shift = net.draw(8, 1, 4, 4), net.draw(8)
    y = net.op("Conv", x, net.store(places), net.store(shift), group=8)
    pool = lambda a: (places[:, 0] * a).sum(axis=(1, 2)) + shift  # noqa: E731
    return Network(net.done(net.flat(y)), x, "weights", pool, pool, grid=(4, 4), affine=True)


def arc_face(*, size: tuple[int, int] = (14, 10), opset: int = 11) -> Network:
    """ArcFace: BatchNormalization, Dropout, Flatten, Gemm, BatchNormalization."""
    net = Net(size, opset=opset)
    grid = (size[0] // 2, size[1] // 2)
    x, _, _ = net.norm(net.trunk(), 8)
    x = net.op("Dropout", x)
    inside = 8 * grid[0] * grid[1]
    y, weight, bias = net.gemm(net.op("Flatten", x), inside, 6)
    y, scale, offset = net.norm(y, 6)
    head = lambda a: scale * (weight @ a.reshape(-1) + bias) + offset  # noqa: E731
    return Network(net.done(y), x, "flatten", head, None, grid=grid, affine=True)


def full_conv() -> Network:
    """A dense convolution as large as the map is the head."""
    net = Net((12, 16))
    x = net.trunk()
    weight, bias = net.draw(5, 8, 6, 8), net.draw(5)
    y = net.flat(net.op("Conv", x, net.store(weight), net.store(bias)))
    head = lambda a: weight.reshape(5, -1) @ a.reshape(-1) + bias  # noqa: E731
    return Network(net.done(y), x, "flatten", head, None, grid=(6, 8), affine=True)


def normed(kind: str, *, linear: bool = True) -> Network:
    """A final L2 norm, in each way that exporters write it; the artifact's embedding is before it."""
    net = Net(opset=13)
    x = net.trunk()
    y = net.flat(net.op("GlobalAveragePool", x))
    head: Head = average
    if linear:
        y, weight, bias = net.gemm(y, 8, 5)
        head = lambda a: weight @ average(a) + bias  # noqa: E731
    if kind == "LpNormalization":
        y = net.op(kind, y, axis=1, p=2)
    elif kind == "torch":  # F.normalize
        length = net.op("Clip", net.op("ReduceL2", y, axes=[1], keepdims=1), net.store(1e-12))
        y = net.op("Div", y, net.op("Expand", length, net.op("Shape", y)))
    elif kind == "sum of squares":
        total = net.op("ReduceSum", net.op("Mul", y, y), net.ints(1), keepdims=1)
        y = net.op("Div", y, net.op("Sqrt", net.op("Add", total, net.store([1e-12]))))
    elif kind == "tensorflow":  # l2_normalize
        total = net.op("ReduceSum", net.op("Pow", y, net.store(2.0)), net.ints(-1), keepdims=1)
        root = net.op("Sqrt", net.op("Max", total, net.store([1e-12])))
        y = net.op("Mul", y, net.op("Reciprocal", root))
    return Network(net.done(y), x, "avg", head, average, affine=linear)


def tail(*kinds: str, opset: int = 13, batch: int | str = "N", dtype: int = TensorProto.FLOAT) -> Network:
    """A chain of affine nodes behind the pool, in the order of ``kinds``."""
    net = Net(opset=opset, batch=batch, dtype=dtype)
    x = net.trunk()
    y = net.op("GlobalAveragePool", x)
    steps: list[Head] = []
    size, is_flat = 8, False
    for kind in kinds:
        vector = net.draw(size) + 1.5
        shaped = vector if is_flat else vector[:, None, None]
        if kind == "Flatten":
            y, is_flat = net.flat(y), True
        elif kind == "Reshape fixed":
            y, is_flat = net.op("Reshape", y, net.ints(1, size)), True
        elif kind == "Reshape computed":
            count = net.op("Slice", net.op("Shape", y), net.ints(0), net.ints(1))
            y, is_flat = net.op("Reshape", y, net.op("Concat", count, net.ints(size), axis=0)), True
        elif kind == "Gemm":
            y, weight, bias = net.gemm(y, size, 6)
            steps.append(lambda v, w=weight, b=bias: w @ v + b)
            size = 6
        elif kind == "Gemm scaled":
            weight, bias = net.draw(size, 6), net.draw(6)
            y = net.op("Gemm", y, net.store(weight), net.store(bias[None]), alpha=0.5, beta=2.0)
            steps.append(lambda v, w=weight, b=bias: 0.5 * (w.T @ v) + 2 * b)
            size = 6
        elif kind == "MatMul":
            weight = net.draw(size, 7)
            y = net.op("MatMul", y, net.store(weight))
            steps.append(lambda v, w=weight: w.T @ v)
            size = 7
        elif kind == "Conv":
            y = net.op("Conv", y, net.store((weight := net.draw(4, size))[:, :, None, None]))
            steps.append(lambda v, w=weight: w @ v)
            size = 4
        elif kind == "grouped Conv":
            weight = net.draw(6, size // 2)
            y = net.op("Conv", y, net.store(weight[:, :, None, None]), group=2)
            steps.append(lambda v, w=weight, h=size // 2: np.concatenate([w[:3] @ v[:h], w[3:] @ v[h:]]))
            size = 6
        elif kind == "BatchNormalization":
            y, scale, shift = net.norm(y, size)
            steps.append(lambda v, s=scale, b=shift: s * v + b)
        elif kind == "Mul":
            y = net.op("Mul", net.store(shaped), y)
            steps.append(lambda v, s=vector: s * v)
        elif kind == "Div":
            y = net.op("Div", y, net.store(shaped))
            steps.append(lambda v, s=vector: v / s)
        elif kind == "Add":
            y = net.op("Add", net.store(shaped), y)
            steps.append(lambda v, s=vector: v + s)
        elif kind == "Sub":
            y = net.op("Sub", y, net.store(shaped))
            steps.append(lambda v, s=vector: v - s)
        elif kind == "Sub from":
            y = net.op("Sub", net.store(shaped), y)
            steps.append(lambda v, s=vector: s - v)
        elif kind == "Neg":
            y = net.op("Neg", y)
            steps.append(lambda v: -v)
        else:
            raise ValueError(kind)

    def head(alpha: Array) -> Array:
        vector = average(alpha)
        for step in steps:
            vector = step(vector)
        return vector

    half = dtype == TensorProto.FLOAT16
    return Network(net.done(y), x, "avg", head, average, affine=bool(steps), half=half)


def written_mean() -> Network:
    """ReduceSum over the places times a constant: an average in two nodes."""
    net = Net(opset=13)
    x = net.trunk()
    y = net.op("Mul", net.reduce("ReduceSum", x, [2, 3], keep=0), net.store(1 / 64))
    return Network(net.done(y), x, "avg", average, average)


def counted_mean() -> Network:
    """ReduceSum over as many places as Shape says."""
    net = Net(opset=13)
    x = net.trunk()
    sides = net.op("Slice", net.op("Shape", x), net.ints(2), net.ints(4))
    count = net.op("Cast", net.op("ReduceProd", sides, keepdims=0), to_type=TensorProto.FLOAT)
    y = net.op("Div", net.reduce("ReduceSum", x, [2, 3], keep=0), count)
    return Network(net.done(y), x, "avg", average, average)


def patches(*, size: tuple[int, int] = (16, 24), linear: bool = True, opset: int = 17) -> Network:
    """A transformer without attention: patch tokens (N, L, C), their mean, a linear head."""
    net = Net(size, opset=opset)
    grid = (size[0] // 4, size[1] // 4)
    tokens = grid[0] * grid[1]
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, tokens)), perm=[0, 2, 1])
    x = net.op("Add", x, net.store(net.draw(1, tokens, 8)))
    inner = net.op("Relu", net.op("MatMul", x, net.store(net.draw(8, 16))))
    x = net.op("Add", x, net.op("MatMul", inner, net.store(net.draw(16, 8))))
    y = net.reduce("ReduceMean", x, [1], keep=0)
    if not linear:
        return Network(net.done(y), x, "avg", average, average, layout="NLC", grid=grid)
    y, weight, bias = net.gemm(y, 8, 5)
    return Network(
        net.done(y),
        x,
        "avg",
        lambda a: weight @ average(a) + bias,
        average,
        layout="NLC",
        grid=grid,
        affine=True,
    )


def flattened_places() -> Network:
    """(N, C, H W) and a mean over the last axis."""
    net = Net()
    x = net.trunk()
    y = net.op("ReduceMean", net.op("Reshape", x, net.ints(0, 8, -1)), axes=[-1], keepdims=0)
    return Network(net.done(y), x, "avg", average, average)


def shuffle(*, constants: bool = False) -> Network:
    """Batch 1 in the input and in the Reshapes of a channel shuffle, as ShuffleNet has it."""
    net = Net(batch=1)
    x = net.trunk()

    def shape(*values: int) -> str:
        if not constants:
            return net.ints(*values)
        return net.op("Constant", value=numpy_helper.from_array(np.array(values, dtype=np.int64)))

    y = net.op("Reshape", x, shape(1, 2, 4, 8, 8), to="flat" if constants else None)
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    y = net.op("Reshape", y, shape(1, 8, 8, 8), to="grid" if constants else None)
    y = net.op("Relu", net.conv(y, 8, 8))
    weight = net.draw(5, 8)
    out = net.op("Reshape", net.op("GlobalAveragePool", y), net.ints(1, 8))
    out = net.op("Gemm", out, net.store(weight), transB=1)
    return Network(net.done(out), y, "avg", lambda a: weight @ average(a), average, affine=True)


def shuffle_flatten() -> Network:
    """Tensors called as our own parts of a flatten head, with fixed batch."""
    net = Net((8, 8), batch=1)
    x = net.trunk(to="cells")
    x = net.op("Relu", net.op("Reshape", x, net.ints(1, 8, 4, 4), to="flat"), to="grid")
    x = net.op("Reshape", x, net.ints(1, 8, 4, 4), to="each")
    y, weight, bias = net.gemm(net.op("Flatten", x), 8 * 16, 5, to="parts")
    head = lambda a: weight @ a.reshape(-1) + bias  # noqa: E731
    return Network(net.done(y), "each", "flatten", head, None, grid=(4, 4), affine=True)


def colliding() -> Network:
    """Every name of ours, for something else."""
    net = Net(name="image")
    x = net.op("Relu", net.conv("image", 3, 6, strides=[2, 2], to="embedding"), to="conv")
    x = net.op("Relu", net.conv(x, 6, 8, to="parts"), to="pooled")
    x = net.op("Relu", net.conv(x, 8, 8, to="simmap/beta_avg"), to="source/image")
    x = net.op("Relu", net.conv(x, 8, 8), to="source/source/image")
    _, weight, bias = net.gemm(net.flat(net.op("GlobalAveragePool", x)), 8, 5, to="simmap/head")
    head = lambda a: weight @ average(a) + bias  # noqa: E731
    return Network(net.done("simmap/head"), "source/source/image", "avg", head, average, affine=True)


def named_conv() -> Network:
    """The feature map is called conv already."""
    net = Net()
    x = net.trunk(to="conv")
    out = net.op("Flatten", net.op("GlobalAveragePool", x), to="pooled")
    return Network(net.done(out), x, "avg", average, average)


def bytes_input(*, nhwc: bool) -> Network:
    """uint8 photos, cast inside the network."""
    net = Net(dtype=TensorProto.UINT8, nhwc=nhwc)
    x = net.inputs[0].name
    if nhwc:
        x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    x = net.op("Mul", net.op("Cast", x, to_type=TensorProto.FLOAT), net.store(1 / 255))
    x = net.trunk(x=x)
    out = net.flat(net.op("GlobalAveragePool", x))
    return Network(net.done(out), x, "avg", average, average)


def listed_weights() -> Network:
    """Initializers that are graph inputs too, and an old IR."""
    net = Net(opset=9)
    x = net.trunk()
    y, weight, bias = net.gemm(net.flat(net.op("GlobalAveragePool", x)), 8, 5)
    head = lambda a: weight @ average(a) + bias  # noqa: E731
    return Network(net.done(y, listed=True, ir=3), x, "avg", head, average, affine=True)


def constant_nodes() -> Network:
    """All weights as Constant nodes."""
    network = tail("Flatten", "Gemm", "BatchNormalization")
    model = network.model
    nodes = [helper.make_node("Constant", [], [w.name], value=w) for w in model.graph.initializer]
    nodes += list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return network


def branch() -> Network:
    """An If in the trunk whose branches read the map from outside, which is called as an output of ours."""
    net = Net()
    x = net.trunk(to="embedding")
    branches = {}
    for name, factor in (("then_branch", 2.0), ("else_branch", 3.0)):
        weight = numpy_helper.from_array(np.float32(factor), f"{name}_factor")
        node = helper.make_node("Mul", [x, weight.name], [f"{name}_out"])
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph([node], name, [], [out], initializer=[weight])
    y = net.op("If", net.store(np.array(False)), to="chosen", **branches)
    z = net.op("Relu", net.conv(y, 8, 8))
    out = net.flat(net.op("GlobalAveragePool", z))
    return Network(net.done(out), z, "avg", average, average)


def two_outputs() -> Network:
    """The embedding and the map: only one is a vector."""
    net = Net()
    x = net.trunk()
    y, weight, bias = net.gemm(net.flat(net.op("GlobalAveragePool", x)), 8, 5)
    head = lambda a: weight @ average(a) + bias  # noqa: E731
    return Network(net.done(x, y), x, "avg", head, average, affine=True)


def dynamic() -> Network:
    """Fully convolutional, free sides."""
    net = Net((16, 24), free=True)
    x = net.trunk()
    y, weight, bias = net.gemm(net.flat(net.op("GlobalMaxPool", x)), 8, 5)
    head = lambda a: weight @ maximum(a) + bias  # noqa: E731
    flags = {"dynamic": True, "size": "16x24"}
    return Network(net.done(y), x, "max", head, maximum, grid=(8, 12), affine=True, flags=flags)


def overridden(pool: str) -> Network:
    """A classifier with a non-linearity, and a pooling of the user's own on its map."""
    net = Net()
    x = net.trunk()
    y, _, _ = net.gemm(net.op("Flatten", x), 8 * 64, 6)
    out, _, _ = net.gemm(net.op("Relu", y), 6, 4)

    def head(alpha: Array) -> Array:
        both = [average(alpha), maximum(alpha)]
        if pool == "gem":
            return (np.maximum(alpha, 1e-6) ** 2.5).mean(axis=(1, 2)) ** (1 / 2.5)
        return {"avg": both[0], "max": both[1], "avgmax": sum(both) / 2, "catavgmax": np.concatenate(both)}[
            pool
        ]

    flags: dict[str, Any] = {"conv_layer": x, "pool": pool, **({"p": 2.5} if pool == "gem" else {})}
    return Network(net.done(out), x, pool, head, head, flags=flags)


for _opset in (7, 9, 11, 13, 17, 21, 24):
    _case(f"average, opset {_opset}", pooled_only, opset=_opset)
for _kind in ("AveragePool", "MaxPool"):
    _case(f"{_kind} as large as the map", pooled_only, kind=_kind, kernel_shape=[8, 8])
    _case(
        f"{_kind} 7x7 with pads on 6x6",
        pooled_only,
        kind=_kind,
        size=(12, 12),
        kernel_shape=[7, 7],
        pads=[0, 0, 1, 1],
    )
    _case(
        f"{_kind} SAME",
        pooled_only,
        kind=_kind,
        size=(12, 12),
        kernel_shape=[7, 7],
        strides=[7, 7],
        auto_pad="SAME_UPPER",
    )
_case("GlobalMaxPool", pooled_only, kind="GlobalMaxPool")
for _size in ((2, 96), (32, 16)):
    _case(f"map of {_size[0] // 2}x{_size[1] // 2}", pooled_only, size=_size)
    _case(f"maximum of {_size[0] // 2}x{_size[1] // 2}", pooled_only, kind="GlobalMaxPool", size=_size)
for _opset in (13, 18):
    for _keep in (0, 1):
        _case(
            f"ReduceMean, opset {_opset}, keepdims {_keep}",
            reduced,
            kind="ReduceMean",
            axes=[-1, -2],
            keep=_keep,
            opset=_opset,
        )
_case("ReduceMean, axes 2 3", reduced, kind="ReduceMean", axes=[2, 3], keep=1, opset=11)
_case("ReduceMax", reduced, kind="ReduceMax", axes=[2, 3], keep=0, opset=18)
_case("ReduceMean, NHWC", reduced, kind="ReduceMean", axes=[1, 2], keep=0, opset=13, size=(16, 12), nhwc=True)
_case("ReduceMax, NHWC", reduced, kind="ReduceMax", axes=[-3, -2], keep=1, opset=18, size=(16, 12), nhwc=True)
_case("mean over width, then height", two_steps, kind="ReduceMean", first=3, second=2, keep=1)
_case("mean over height, then width", two_steps, kind="ReduceMean", first=2, second=2, keep=0)
_case("maximum over width, then height", two_steps, kind="ReduceMax", first=-1, second=-1, keep=0)
_case("mean in two steps, NHWC", two_steps, kind="ReduceMean", first=1, second=1, keep=0, nhwc=True)
_case("mean in two steps, NHWC, keepdims", two_steps, kind="ReduceMean", first=2, second=1, keep=1, nhwc=True)
for _p in (1.0, 2.5, 3.0):
    _case(f"GeM {_p}", gem, p=_p)
_case("GeM, opset 7", gem, opset=7)
_case("GeM, window", gem, window=True, size=(8, 16))
_case("GeM, Max", gem, floor="Max")
_case("GeM, no floor", gem, floor="none")
_case("avgmax, half the sum", avgmax)
_case("avgmax, Mean", avgmax, scale="Mean")
_case("catavgmax", catavgmax)
_case("catavgmax, Gemm", catavgmax, linear=True)
for _kind in ("Gemm", "MatMul", "Conv"):
    _case(f"{_kind} classifier left behind", classifier, kind=_kind)
    _case(f"{_kind} classifier kept", classifier, kind=_kind, scores=None, pool="GlobalMaxPool")
_case("Sigmoid scores", classifier, scores="Sigmoid")
_case("pool over scores", score_pool)
_case("squeeze-and-excite", attention, last=False)
_case("squeeze-and-excite last", attention, last=True)
_case("gate pools", gate_pool)
_case("NHWC input", nhwc_input)
_case("NHWC Flatten", nhwc_input, flatten=True)
_case("MobileFaceNet", mobile_face)
_case("MobileFaceNet, 64 features", mobile_face, channels=40, dimension=64)
_case("MobileFaceNet, no bias", mobile_face, bias=False)
_case("depthwise alone", depthwise_only)
_case("ArcFace", arc_face)
_case("ArcFace, opset 7", arc_face, opset=7)
_case("full-map Conv", full_conv)
for _kind in ("LpNormalization", "torch", "sum of squares", "tensorflow"):
    _case(f"final norm, {_kind}", normed, kind=_kind)
_case("final norm, no head", normed, kind="torch", linear=False)
for _kinds in (
    ("Flatten", "Gemm", "BatchNormalization"),
    ("BatchNormalization", "Flatten", "MatMul", "Add"),
    ("Mul", "Add", "Neg", "Sub", "Div", "Flatten"),
    ("Sub from", "Reshape fixed", "Gemm scaled"),
    ("Reshape computed", "Gemm", "Sub from"),
    ("Conv", "Flatten"),
    ("grouped Conv", "Flatten", "Gemm"),
    ("Flatten", "Gemm", "MatMul", "Mul"),
):
    _case(" ".join(_kinds), lambda kinds: tail(*kinds), kinds=_kinds)
_case("float16", tail, dtype=TensorProto.FLOAT16)
_case("float16, Gemm", lambda: tail("Flatten", "Gemm", dtype=TensorProto.FLOAT16))
_case("fixed batch", lambda: tail("Reshape fixed", "Gemm", batch=1))
_case("sum times a constant", written_mean)
_case("sum over a count", counted_mean)
_case("patch tokens", patches)
_case("patch tokens, no head, square", patches, size=(16, 16), linear=False, opset=18)
_case("places flattened, then their mean", flattened_places)
_case("channel shuffle, batch 1", shuffle)
_case("channel shuffle, Constant shapes, our names", shuffle, constants=True)
_case("flatten, our names", shuffle_flatten)
_case("colliding names", colliding)
_case("map called conv", named_conv)
_case("uint8 input", bytes_input, nhwc=False)
_case("uint8 NHWC input", bytes_input, nhwc=True)
_case("weights listed as inputs", listed_weights)
_case("Constant nodes", constant_nodes)
_case("If", branch)
_case("two outputs", two_outputs)
_case("dynamic sides", dynamic)
for _kind in ("avg", "max", "gem", "avgmax", "catavgmax"):
    _case(f"overridden by {_kind}", overridden, pool=_kind)


def summed(*, padded: bool = False) -> Network:
    """Poolings whose feature is a multiple of the average: a sum, or an average that counts its pads."""
    net = Net((12, 12), opset=13)
    x = net.trunk()
    if padded:
        y = net.op("AveragePool", x, kernel_shape=[7, 7], pads=[0, 0, 1, 1], count_include_pad=1)
    else:
        y = net.reduce("ReduceSum", x, [2, 3])
    y, weight, bias = net.gemm(net.flat(y), 8, 5)
    factor = 36 / 49 if padded else 36.0
    head = lambda a: weight @ (average(a) * factor) + bias  # noqa: E731
    return Network(net.done(y), x, "avg", head, average, grid=(6, 6), affine=True)


_case("ReduceSum, Gemm", summed)
_case("average that counts its pads, Gemm", summed, padded=True)


def gated() -> Network:
    """Two square linear layers with a gate between them."""
    net = Net()
    x = net.trunk()
    y, first, shift = net.gemm(net.flat(net.op("GlobalAveragePool", x)), 8, 8)
    y, second, offset = net.gemm(net.op("LeakyRelu", y, alpha=0.3), 8, 8)

    def head(alpha: Array) -> Array:
        z = first @ average(alpha) + shift
        return second @ np.where(z > 0, z, 0.3 * z) + offset

    return Network(net.done(y), x, "avg", head, average)


def attended() -> Network:
    """Attention of the mean token to all places and itself."""
    net = Net()
    x = net.trunk()
    places = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 64)), perm=[0, 2, 1])
    tokens = net.op("Concat", net.op("ReduceMean", places, axes=[1], keepdims=1), places, axis=1)
    k, v = (net.op("MatMul", tokens, net.store(net.draw(8, 8))) for _ in range(2))
    scores = net.op("MatMul", k, net.op("Transpose", k, perm=[0, 2, 1]))
    y = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    y = net.op("Gather", y, net.store(np.array(0, dtype=np.int64)), axis=1)
    return Network(net.done(y), x, "attention", average, None)


def class_token() -> Network:
    """A class token that attends to 2 x 3 patches and passes a norm and a gate."""
    net = Net((8, 12))
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 6)), perm=[0, 2, 1])
    x = net.op("Concat", net.store(net.draw(1, 1, 8)), x, axis=1)
    q, v = (net.op("MatMul", x, net.store(net.draw(8, 8))) for _ in range(2))
    scores = net.op("MatMul", q, net.op("Transpose", q, perm=[0, 2, 1]))
    attended = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    x = net.op("Add", x, net.op("MatMul", attended, net.store(net.draw(8, 8))))
    y = net.op("LayerNormalization", x, net.store(net.draw(8)), axis=-1)
    y = net.op("Gather", y, net.store(np.array(0, dtype=np.int64)), axis=1)
    out, _, _ = net.gemm(y, 8, 5)
    return Network(net.done(net.op("Tanh", out)), x, "token", average, None)


def refused() -> dict[str, tuple[onnx.ModelProto, dict[str, Any], str]]:
    """Graphs that cannot be exported, with flags and what the error must say (a regular expression)."""
    found: dict[str, tuple[onnx.ModelProto, dict[str, Any], str]] = {}

    net = Net()
    x = net.op("Conv", net.inputs[0].name, net.store(net.draw(8, 3, 4, 4)), strides=[4, 4])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, 8, 16)), perm=[0, 2, 1])
    token = net.op("Expand", net.store(net.draw(1, 1, 8)), net.ints(1, 1, 8))
    x = net.op("Concat", token, x, axis=1)
    mixed = net.op("Softmax", net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1])), axis=-1)
    x = net.op("MatMul", mixed, x)
    x = net.op("Gather", x, net.store(np.array(0, dtype=np.int64)), axis=1)
    out, _, _ = net.gemm(x, 8, 5)
    reason = r"class token is read from node MatMul 'node_matmul_\d+', which is no sum of residual branches"
    found["class token"] = net.done(out), {}, reason

    net = Net()
    x = net.trunk()
    boxes = [net.op("Reshape", net.conv(x, 8, 5, strides=[s, s]), net.ints(0, 5, -1)) for s in (1, 2)]
    found["detector"] = net.done(net.op("Concat", *boxes, axis=2)), {}, "detector or a segmenter"

    net = Net()
    net.inputs.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["N", 3, 16, 16]))
    x = net.trunk(x=net.op("Add", net.inputs[0].name, "other"))
    out = net.flat(net.op("GlobalAveragePool", x))
    found["two inputs"] = net.done(out), {}, "has the inputs: input, other"

    net = Net(channels=1)
    x = net.op("Relu", net.conv(net.inputs[0].name, 1, 8))
    out = net.flat(net.op("GlobalAveragePool", x))
    found["one channel"] = net.done(out), {}, "image input has 3 channels"

    net = Net()
    x = net.trunk()
    first, _, _ = net.gemm(net.flat(net.op("GlobalAveragePool", x)), 8, 5, to="first")
    second, _, _ = net.gemm(net.flat(net.op("GlobalMaxPool", x)), 8, 5, to="second")
    found["two vectors"] = (
        net.done(first, second),
        {},
        "has the outputs first, second; name the embedding with --embedding",
    )

    flat = arc_face()
    found["flatten, dynamic"] = flat.model, {"dynamic": True}, "takes one size only; leave --dynamic out"
    found["another size"] = flat.model, {"size": 20}, "takes 14 x 10 only, size is 20 x 20"
    found["no such tensor"] = flat.model, {"conv_layer": "nothing"}, "has no tensor or node 'nothing'"

    found["sum, dynamic"] = summed().model, {"dynamic": True}, "changes with the size; leave --dynamic out"

    net = Net()
    x = net.trunk()
    found["flattened map itself"] = net.done(net.op("Flatten", x)), {}, f"--conv-layer '{x}' --pool avg"

    net = Net()
    x = net.trunk()
    y = net.op("GlobalAveragePool", x)
    y = net.op("Hardmax", net.flat(y), axis=1)
    found["choice of a feature"] = net.done(y), {}, r"node Hardmax 'node_hardmax_\d+' .* is not linear"

    net = Net()
    x = net.trunk()
    y = net.flat(net.op("GlobalAveragePool", x))
    y = net.op("Add", y, net.store(net.draw(4, 1)))
    found["broadcast to a table"] = net.done(y), {}, r"node Add 'node_add_\d+'"

    net = Net(batch=1)
    x = net.trunk()
    x = net.op("Reshape", net.op("Reshape", x, net.ints(8, 8, 8)), net.ints(1, 8, 8, 8))
    out = net.flat(net.op("GlobalAveragePool", net.op("Relu", x)))
    found["batch folded away"] = net.done(out), {}, "fails at batch 3"

    return found


def bent(kind: str, *, flatten: bool = False, nhwc: bool = False) -> tuple[onnx.ModelProto, str]:
    """What cannot be held between two linear layers; the name of the node that an error must tell."""
    net = Net((8, 8))
    x = net.trunk()
    if nhwc:
        x = net.op("Transpose", x, perm=[0, 2, 3, 1])
    y = net.op("Flatten", x) if flatten else net.flat(net.op("GlobalAveragePool", x))
    y, _, _ = net.gemm(y, 8 * 16 if flatten else 8, 6)
    if kind == "larger":  # what crosses every path is not the first input of the Max
        z, blocker = net.op("Max", net.op("Neg", y), y), "Max"
    elif kind == "bilinear":  # either factor could be the gate of the other
        z, blocker = net.op("Mul", net.op("Neg", y), y), "Mul"
    elif kind == "grouped":  # a norm of each half
        halves = net.op("Reshape", y, net.ints(0, 2, 3))
        z = net.op("Div", halves, net.op("ReduceL2", halves, axes=[2], keepdims=1))
        z, blocker = net.op("Reshape", z, net.ints(0, 6)), "ReduceL2"
    elif kind == "shrink":
        z, blocker = net.op("Div", net.op("Sigmoid", y), net.op("Exp", y)), "Sigmoid"
    else:
        z = net.op(kind, y)
        blocker = kind
    out, _, _ = net.gemm(z, 6, 4)
    return net.done(out), blocker
