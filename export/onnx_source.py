"""Find, in an ONNX graph, the feature map whose pooling is the embedding.

The search does not trust op names or positions: a tensor counts only if every path from the image to
the embedding passes through it (it dominates the embedding). So the pools inside squeeze-and-excite
blocks and gates are never taken, whatever they are called, and however many there are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from simmap.engine.contract import Pooling
from simmap.engine.decompose import GEM_EPS
from simmap.engine.errors import ExportError

Array = npt.NDArray[np.floating[Any]]
Layout = Literal["NCHW", "NHWC", "NLC"]

RESHAPES = {"Identity", "Dropout", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Transpose"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div"}
DENSE = {"Gemm", "MatMul", "Conv"}
AFFINE = RESHAPES | ELEMENTWISE | DENSE | {"BatchNormalization", "Neg"}
SCORES = {"Softmax", "LogSoftmax", "Sigmoid"}


@dataclass(frozen=True)
class Affine:
    """``e = matrix f + bias``; a one-dimensional ``matrix`` (F,) is a diagonal.

    In float64, but for a single dense matrix, which keeps the source's float32.
    """

    matrix: Array
    bias: Array

    @property
    def dimension(self) -> int:
        """D, the size of e."""
        return int(self.bias.size)

    def then(self, matrix: Array, bias: Array) -> "Affine":
        """Follow this map by another one, diagonal (F,) or dense (D, F)."""
        scaled: Array
        if matrix.ndim == 1:
            scaled = matrix * self.matrix if self.matrix.ndim == 1 else matrix[:, None] * self.matrix
            return Affine(scaled, matrix * self.bias + bias)
        # Heads of flattened maps are large: no copy is made that is not needed.
        if self.matrix.ndim == 2:
            scaled = matrix.astype(np.float64) @ self.matrix
        else:
            scaled = matrix if (self.matrix == 1).all() else matrix * self.matrix
        return Affine(scaled, matrix @ self.bias + bias if self.bias.any() else bias)


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
            embedding; None where nothing follows.
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
    pooled: str | None = None
    embedding: str | None = None
    pooled_scale: float = 1.0
    is_normed: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pool:
    """A node (or two) that sums a feature map over its places."""

    kind: Pooling
    conv: str
    layout: Layout
    output: str
    scale: float = 1.0
    node: onnx.NodeProto | None = field(default=None, compare=False)


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, external data included.

    Raises:
        ExportError: missing, not ONNX, or not a valid graph.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such model file")
    try:
        model = onnx.load(str(path))
        if not model.graph.node:
            raise ValueError("it has no nodes")
    except Exception as error:
        raise ExportError(f"{path}: is not an ONNX model ({_one_line(error)})") from error
    return model


class Graph:
    """An ONNX graph with the look-ups that surgery needs, and its values at one probing run."""

    def __init__(self, model: onnx.ModelProto, *, name: str, size: tuple[int, int] | None) -> None:
        """Index ``model`` and run it once at ``size`` (or at its own) to learn every shape.

        Raises:
            ExportError: the graph has not exactly one image input, or does not run.
        """
        self.model, self.name = model, name
        graph = model.graph
        self.nodes = list(graph.node)
        self.producer = {output: node for node in self.nodes for output in node.output if output}
        self.initializers = {i.name: i for i in graph.initializer}
        inputs = [i for i in graph.input if i.name not in self.initializers]
        images = [i for i in inputs if len(i.type.tensor_type.shape.dim) == 4]
        if len(inputs) != 1 or len(images) != 1:
            told = ", ".join(i.name for i in inputs) or "none"
            raise ExportError(f"{name}: must have one image input of four axes, has the inputs: {told}")
        self.input = images[0]
        self.input_type = self.input.type.tensor_type.elem_type
        self.channels_last, self.size = self._read_input(size)
        self.outputs = [o.name for o in graph.output]
        self.sized = self._reachable()
        self.dynamic = self._reachable(blind=("Shape", "Size"))
        self.values = self._probe()

    def _read_input(self, size: tuple[int, int] | None) -> tuple[bool, tuple[int, int]]:
        dims = [d.dim_value for d in self.input.type.tensor_type.shape.dim]
        channels_last = dims[3] == 3 and dims[1] != 3
        if not channels_last and dims[1] not in (0, 3):
            raise ExportError(
                f"{self.name}: its input {self.input.name!r} has shape {dims}; an image input has 3 channels"
            )
        own = (dims[1], dims[2]) if channels_last else (dims[2], dims[3])
        wanted = size or (own[0] or 224, own[1] or 224)
        if any(o and o != w for o, w in zip(own, wanted, strict=True)):
            raise ExportError(
                f"{self.name}: takes {own[0]} x {own[1]} only, size is {wanted[0]} x {wanted[1]}; "
                "leave size out"
            )
        return channels_last, wanted

    def _reachable(self, blind: tuple[str, ...] = ()) -> set[str]:
        """Names of the tensors that depend on the image, not counting what ``blind`` operators pass on."""
        seen = {self.input.name}
        for node in self.nodes:
            if node.op_type not in blind and any(i in seen for i in reads(node)):
                seen.update(node.output)
        return seen

    def upstream(self, tensors: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that ``tensors`` need, in order, and the names of all that these read."""
        needed = set(tensors)
        kept: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(i for i in reads(node) if i)
        return kept[::-1], needed

    def _probe(self) -> dict[str, npt.NDArray[Any]]:
        """Every tensor after one run on noise at batch 1; small ones whole, large ones by shape only."""
        probe = onnx.ModelProto()
        probe.CopyFrom(self.model)
        del probe.graph.output[:]
        names = [o for n in self.nodes for o in n.output if o]
        probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        try:
            session = plain_session(probe)
            shape = (1, *self.size, 3) if self.channels_last else (1, 3, *self.size)
            noise = np.random.default_rng(0).normal(size=shape)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(self.input_type)
            if dtype == np.uint8:
                noise = (noise * 64 + 128).clip(0, 255)
            values = session.run(names, {self.input.name: noise.astype(dtype)})
        except Exception as error:
            raise ExportError(f"{self.name}: the graph does not run ({_one_line(error)})") from error
        kept = {}
        for name, value in zip(names, values, strict=True):
            array = np.asarray(value)
            # Activations are wanted for their shape only; a broadcast view holds one number.
            is_data = name in self.dynamic
            kept[name] = np.broadcast_to(array.dtype.type(0), array.shape) if is_data else array
        return kept

    def free_size(self) -> None:
        """Let the input take any height and width."""
        dims = self.input.type.tensor_type.shape.dim
        for axis in (1, 2) if self.channels_last else (2, 3):
            dims[axis].dim_param = f"side{axis}"
        del self.model.graph.value_info[:]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The tensor's shape at batch 1."""
        if tensor == self.input.name:
            return (1, *self.size, 3) if self.channels_last else (1, 3, *self.size)
        if tensor in self.initializers:
            return tuple(self.initializers[tensor].dims)
        return tuple(self.values[tensor].shape)

    def constant(self, tensor: str) -> npt.NDArray[Any] | None:
        """The value of a tensor that does not depend on the image (but for its shape), else None."""
        if tensor in self.initializers:
            return np.asarray(numpy_helper.to_array(self.initializers[tensor]))
        return None if tensor in self.dynamic else self.values.get(tensor)

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """The inputs through which the image flows; shapes computed from tensors do not count."""
        candidates = node.input[:1] if node.op_type in RESHAPES else reads(node)
        return [i for i in candidates if i in self.dynamic]

    def dominators(self, target: str) -> list[str]:
        """Tensors that every path from the image to ``target`` crosses, from ``target`` back."""
        order = {self.input.name: 0}
        sets: dict[str, frozenset[str]] = {self.input.name: frozenset([self.input.name])}
        for node in self.nodes:
            inputs = [i for i in self.data_inputs(node) if i in sets]
            if not inputs:
                continue
            common = frozenset.intersection(*(sets[i] for i in inputs))
            for output in node.output:
                order[output] = len(order)
                sets[output] = common | {output}
        return sorted(sets.get(target, frozenset()), key=order.__getitem__, reverse=True)

    def describe(self, node: onnx.NodeProto) -> str:
        """A node as an error names it."""
        return f"{node.op_type} {node.name or node.output[0]!r}"


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads, those of its subgraphs included."""
    names = list(node.input)
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                names += reads(inner)
            names += [o.name for o in graph.output]
    return names


def plain_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU without optimisations: the reference, as the file is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def raise_opset(model: onnx.ModelProto, least: int, purpose: str) -> onnx.ModelProto:
    """A copy of the model at opset ``least``, or at its own where that is later.

    Raises:
        ExportError: it cannot be converted; ``purpose`` says what needs the opset.
    """
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if opset >= least:
        return copy
    try:
        return onnx.version_converter.convert_version(copy, least)
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{purpose} needs opset {least}, and the graph cannot be converted ({told})"
        ) from error


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
        ExportError: there is no such feature map, or something that is not affine follows it; the
            message names the node and what to do.
    """
    if conv_layer is not None and pool is not None:
        conv = _named_tensor(graph, conv_layer)
        layout, shape = _layout(graph, conv, None)
        return Exposure(conv, layout, shape, pool, *_gem(pool, p))
    target, notes, end = _target(graph, embedding)
    wanted = _origin(graph, _named_tensor(graph, conv_layer)) if conv_layer else None
    found, blockers = _find_pool(graph, target, wanted)
    if found is None:
        raise ExportError(_no_pool(graph, target, wanted))
    if pool is not None:
        layout, shape = _layout(graph, found.conv, found.layout)
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


def _named_tensor(graph: Graph, name: str) -> str:
    """A tensor by its own name or by its node's."""
    if name in graph.producer and name in graph.dynamic:
        return name
    for node in graph.nodes:
        if node.name == name and node.output[0] in graph.dynamic:
            return str(node.output[0])
    raise ExportError(f"{graph.name}: has no tensor or node {name!r} that depends on the image")


def _origin(graph: Graph, tensor: str) -> str:
    """The tensor that ``tensor`` is another name of."""
    while (node := graph.producer.get(tensor)) is not None and node.op_type == "Identity":
        tensor = str(node.input[0])
    return tensor


def _target(graph: Graph, embedding: str) -> tuple[str, list[str], Literal["norm", "scores"] | None]:
    """The tensor that is the embedding: class scores and a final L2 norm are left behind.

    Returns:
        Its name, notes, and what was left behind.
    """
    if embedding not in ("output", "pooled"):
        return _named_tensor(graph, embedding), [], None
    names = [o for o in graph.outputs if o in graph.dynamic]
    if len(names) > 1:
        flat = [o for o in names if np.prod(graph.shape(o)[1:]) == max(graph.shape(o)[1:], default=0)]
        if len(flat) != 1:
            raise ExportError(
                f"{graph.name}: has the outputs {', '.join(names)}; name the embedding with --embedding NAME"
            )
        names = flat
    if not names:
        raise ExportError(f"{graph.name}: no output depends on the image")
    target, notes = names[0], []
    target = _skip(graph, target, lambda n: n.op_type in RESHAPES)
    normed = _before_norm(graph, target)
    if normed is not None:
        notes.append("a final L2 norm is left out of the artifact: the cosine does not see it")
        return normed, notes, "norm"
    node = graph.producer.get(target)
    if node is None or node.op_type not in SCORES:
        return names[0], notes, None
    activation = graph.describe(node)
    target = _skip(graph, str(node.input[0]), lambda n: n.op_type in RESHAPES)
    node = graph.producer.get(target)
    bias = node is not None and node.op_type == "Add" and len(graph.data_inputs(node)) == 1
    if node is not None and bias:
        before = graph.producer.get(graph.data_inputs(node)[0])
        node = before if before is not None and before.op_type in ("MatMul", "Conv") else node
    if (
        node is not None
        and node.op_type in DENSE
        and len(graph.data_inputs(node)) == 1
        and _is_flat(graph, node)
    ):
        notes.append(
            f"the classifier ({activation}) is left behind: the embedding is the feature that it reads"
        )
        return graph.data_inputs(node)[0], notes, "scores"
    notes.append(
        f"{activation} is left behind, and what is pooled is the class scores themselves; another map "
        "is taken with --conv-layer TENSOR --pool avg"
    )
    return target, notes, "scores"


def _is_flat(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether the node sees vectors, not maps: a classifier behind the pooling, not before it."""
    shape = graph.shape(graph.data_inputs(node)[0])[1:]
    return bool(np.prod(shape) == max(shape, default=1))


def _skip(graph: Graph, tensor: str, passes: Callable[[onnx.NodeProto], bool]) -> str:
    """Walk back over nodes that keep the values and their order by place and feature."""
    while (node := graph.producer.get(tensor)) is not None and passes(node):
        inputs = graph.data_inputs(node)
        if len(inputs) != 1 or np.prod(graph.shape(inputs[0])) != np.prod(graph.shape(tensor)):
            break
        if np.prod(graph.shape(tensor)[1:]) != max(graph.shape(inputs[0])[1:], default=0):
            break  # a flattened map: more than a change of notation
        tensor = inputs[0]
    return tensor


def _before_norm(graph: Graph, tensor: str) -> str | None:
    """x where ``tensor`` is x / |x|, by LpNormalization or written out, else None."""
    node = graph.producer.get(tensor)
    if node is None:
        return None
    shape = graph.shape(tensor)
    if node.op_type == "LpNormalization":
        axis = _attribute(node, "axis", -1)
        is_l2 = _attribute(node, "p", 2) == 2 and shape[axis] == np.prod(shape)
        return str(node.input[0]) if is_l2 else None
    if node.op_type not in ("Div", "Mul"):
        return None
    for x, divisor in (node.input, tuple(reversed(node.input))):
        if node.op_type == "Div" and x != node.input[0]:
            continue
        # The divisor must be a scalar an image, computed from x alone, by a norm.
        between = _between(graph, x, divisor)
        ops = {n.op_type for n in between}
        is_norm = "ReduceL2" in ops or ("Sqrt" in ops and ops & {"ReduceSum", "ReduceSumSquare"})
        inverse = "Reciprocal" in ops or "Div" in ops
        powers = all(_is_square(graph, n) for n in between if n.op_type == "Pow")
        # One number an image: of all its features, and of no other image.
        reductions = [n for n in between if n.op_type.startswith("Reduce")]
        axes = [_axes(graph, n, len(graph.shape(n.input[0]))) for n in reductions]
        alone = all(a is not None and 0 not in a for a in axes) and all(
            np.prod(graph.shape(n.output[0])) == 1 for n in reductions
        )
        known = ops <= {
            "ReduceL2", "Sqrt", "ReduceSum", "ReduceSumSquare", "Mul", "Pow", "Abs", "Add", "Clip", "Max",
            "Expand", "Unsqueeze", "Reshape", "Reciprocal", "Div", "Identity", "Cast", "Shape",
        }  # fmt: skip
        if between and is_norm and alone and known and powers and inverse == (node.op_type == "Mul"):
            return str(x)
    return None


def _is_square(graph: Graph, node: onnx.NodeProto) -> bool:
    exponent = graph.constant(node.input[1])
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(())) in (2.0, 0.5)


def _between(graph: Graph, start: str, end: str) -> list[onnx.NodeProto]:
    """The nodes that compute ``end`` from ``start`` alone; empty if something else flows in."""
    nodes: dict[int, onnx.NodeProto] = {}
    pending = [end]
    while pending:
        tensor = pending.pop()
        if tensor == start or tensor not in graph.dynamic:
            continue
        node = graph.producer.get(tensor)
        if node is None or len(nodes) > 30:
            return []
        if id(node) not in nodes:
            nodes[id(node)] = node
            pending.extend(graph.data_inputs(node))
    return list(nodes.values())


def _find_pool(graph: Graph, target: str, wanted: str | None) -> tuple[Pool | None, list[onnx.NodeProto]]:
    """The pool nearest to ``target`` among its dominators, and the non-affine nodes on the way."""
    blockers: list[onnx.NodeProto] = []
    for tensor in graph.dominators(target):
        found = _match_pool(graph, tensor)
        if found is not None and (wanted is None or _origin(graph, found.conv) == wanted):
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


def _match_pool(graph: Graph, tensor: str) -> Pool | None:
    """The pool that gives ``tensor``, if one does."""
    node = graph.producer.get(tensor)
    if node is None:
        return None
    simple = _match_simple(graph, node)
    if simple is not None:
        return simple
    if node.op_type == "Pow":
        return _match_gem(graph, node)
    if node.op_type in ("Concat", "Add", "Sum", "Mean") and len(node.input) == 2:
        return _match_pair(graph, node)
    if node.op_type in ("Flatten", "Reshape"):
        before, after = graph.shape(node.input[0]), graph.shape(tensor)
        # Two axes longer than 1 besides the batch: features and places, not a vector written as a map.
        is_map = len(before) == 4 and int(np.prod(before[1:])) > max(before[1:]) and before[2] * before[3] > 1
        if node.input[0] in graph.dynamic and is_map and len(after) == 2:
            return Pool("flatten", node.input[0], "NCHW", tensor, node=node)
    return None


def _match_simple(graph: Graph, node: onnx.NodeProto) -> Pool | None:
    """Average, maximum, sum, or a convolution as large as the map."""
    if not node.input or node.input[0] not in graph.dynamic or node.input[0] == graph.input.name:
        return None
    source, output = str(node.input[0]), str(node.output[0])
    shape = graph.shape(source)
    op = node.op_type
    if op in ("GlobalAveragePool", "GlobalMaxPool") and len(shape) == 4 and shape[2] * shape[3] > 1:
        return Pool("avg" if op == "GlobalAveragePool" else "max", source, "NCHW", output, node=node)
    if op in ("AveragePool", "MaxPool") and len(shape) == 4 and shape[2] * shape[3] > 1:
        return _match_window(graph, node, source, output)
    if op in ("ReduceMean", "ReduceMax", "ReduceSum"):
        return _match_reduce(graph, node, source, output)
    if op == "Conv" and len(shape) == 4 and shape[2] * shape[3] > 1:
        after, kernel = graph.shape(output), graph.shape(node.input[1])
        if after[2:] == (1, 1) and kernel[2:] == shape[2:] and not any(_attribute(node, "pads", [0])):
            if _attribute(node, "group", 1) == shape[1] and after[1] == shape[1]:
                return Pool("weights", source, "NCHW", output, node=node)
            if _attribute(node, "group", 1) == 1:
                return Pool("flatten", source, "NCHW", source, node=node)
    return None


def _match_window(graph: Graph, node: onnx.NodeProto, source: str, output: str) -> Pool | None:
    """A window pool whose one window covers the whole map, pads or not."""
    after = graph.shape(output)
    height, width = graph.shape(source)[2:]
    if after[2:] != (1, 1) or any(d != 1 for d in _attribute(node, "dilations", [1, 1])):
        return None
    kernel, pads = _attribute(node, "kernel_shape", []), _attribute(node, "pads", [0, 0, 0, 0])
    if _attribute(node, "auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        # SAME pads of a single window: the window reaches over the whole map if it is as large.
        pads = [0, 0, max(0, kernel[0] - height), max(0, kernel[1] - width)]
    if pads[0] + height > kernel[0] or pads[1] + width > kernel[1]:
        return None
    if node.op_type == "MaxPool":
        return Pool("max", source, "NCHW", output, node=node)
    padded = bool(_attribute(node, "count_include_pad", 0)) and any(pads)
    scale = height * width / (kernel[0] * kernel[1]) if padded else 1.0
    return Pool("avg", source, "NCHW", output, scale, node=node)


def _match_reduce(graph: Graph, node: onnx.NodeProto, source: str, output: str) -> Pool | None:
    """A reduction over the places, axes by attribute or by input, in one node or in two."""
    shape = graph.shape(source)
    axes = _axes(graph, node, len(shape))
    if axes is None:
        return None
    op = node.op_type
    kind: Pooling = "max" if op == "ReduceMax" else "avg"
    places = int(np.prod([shape[a] for a in axes]))
    before = graph.producer.get(source)
    if len(axes) == 1 and before is not None and before.op_type == op and before.input[0] in graph.dynamic:
        # A reduction of one side behind that of the other: together one of the places.
        first = graph.shape(before.input[0])
        inner = _axes(graph, before, len(first))
        if len(first) == 4 and inner is not None and len(inner) == 1:
            outer = axes[0] + (len(shape) == 3 and axes[0] >= inner[0])
            layouts: dict[tuple[int, ...], Layout] = {(2, 3): "NCHW", (1, 2): "NHWC"}
            layout = layouts.get(tuple(sorted((inner[0], outer))))
            total = first[inner[0]] * first[outer]
            if layout is not None and total > 1:
                scale = float(total) if op == "ReduceSum" else 1.0
                return Pool(kind, str(before.input[0]), layout, output, scale, node=node)
    if places <= 1:
        return None
    scale = float(places) if node.op_type == "ReduceSum" else 1.0
    if len(shape) == 4 and axes == [2, 3]:
        return Pool(kind, source, "NCHW", output, scale, node=node)
    if len(shape) == 4 and axes == [1, 2]:
        return Pool(kind, source, "NHWC", output, scale, node=node)
    is_flattened = before is not None and before.op_type == "Reshape" and before.input[0] in graph.dynamic
    if before is not None and is_flattened and len(shape) == 3 and axes == [2]:
        # (N, C, H W), a map flattened over its places
        first = graph.shape(before.input[0])
        if len(first) == 4 and first[1] == shape[1]:
            return Pool(kind, str(before.input[0]), "NCHW", output, scale, node=node)
    if len(shape) == 3 and axes == [1]:
        return Pool(kind, source, "NLC", output, scale, node=node)
    return None


def _axes(graph: Graph, node: onnx.NodeProto, rank: int) -> list[int] | None:
    """Axes of a reduction, from 0 and sorted; None if they are not constant."""
    axes = _attribute(node, "axes", None)
    if axes is None and len(node.input) > 1 and node.input[1]:
        given = graph.constant(node.input[1])
        axes = None if given is None else given.tolist()
    if axes is None:
        return None
    return sorted(a % rank for a in axes)


def _match_gem(graph: Graph, node: onnx.NodeProto) -> Pool | None:
    """``mean(max(x, eps)^p)^(1/p)``."""
    inner = _skip(graph, str(node.input[0]), lambda n: n.op_type in RESHAPES)
    average = _match_pool(graph, inner)
    if average is None or average.kind != "avg" or average.scale != 1:
        return None
    power = graph.producer.get(average.conv)
    if power is None or power.op_type != "Pow":
        return None
    p, q = _single(graph.constant(power.input[1])), _single(graph.constant(node.input[1]))
    if p is None or q is None or not np.isclose(p * q, 1, atol=1e-4):
        return None
    return Pool("gem", str(power.input[0]), average.layout, str(node.output[0]), node=power)


def _match_pair(graph: Graph, node: onnx.NodeProto) -> Pool | None:
    """Average and maximum of the same map, added or stacked."""
    pools = [_match_pool(graph, _skip(graph, str(i), lambda n: n.op_type in RESHAPES)) for i in node.input]
    first, second = pools
    if (
        first is None
        or second is None
        or first.conv != second.conv
        or {first.kind, second.kind} != {"avg", "max"}
    ):
        return None
    if first.scale != 1 or second.scale != 1:
        return None
    output = str(node.output[0])
    if node.op_type == "Concat":
        # Only the order average, maximum has a name in the contract.
        return replace(first, kind="catavgmax", output=output, node=node) if first.kind == "avg" else None
    scale = 1.0 if node.op_type == "Mean" else 2.0
    return replace(first, kind="avgmax", output=output, scale=scale, node=node)


def _single(value: npt.NDArray[Any] | None) -> float | None:
    """The one number that an array holds, however often."""
    if value is None or value.size == 0 or not (value == value.reshape(-1)[0]).all():
        return None
    return float(value.reshape(-1)[0])


def _layout(graph: Graph, conv: str, layout: Layout | None) -> tuple[Layout, tuple[int, int, int]]:
    """Axes and C, H, W of a feature map."""
    shape = graph.shape(conv)
    if layout is None:
        if len(shape) not in (3, 4):
            raise ExportError(f"{graph.name}: {conv!r} has shape {shape}; a feature map has 3 or 4 axes")
        layout = "NLC" if len(shape) == 3 else "NHWC" if _is_channels_last(graph, conv) else "NCHW"
    if layout == "NCHW":
        return layout, (shape[1], shape[2], shape[3])
    if layout == "NHWC":
        return layout, (shape[3], shape[1], shape[2])
    return layout, (shape[2], *_token_grid(graph, conv, shape[1]))


def _is_channels_last(graph: Graph, conv: str) -> bool:
    """Whether a Transpose from (N, C, H, W) to (N, H, W, C) gives the map."""
    node = graph.producer.get(conv)
    return node is not None and node.op_type == "Transpose" and _attribute(node, "perm", []) == [0, 2, 3, 1]


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


def _expose(graph: Graph, found: Pool, target: str, notes: list[str], *, is_normed: bool) -> Exposure:
    """Put the pool and the affine tail together."""
    p = eps = None
    place_weights = place_bias = None
    conv, layout = found.conv, found.layout
    if found.kind == "gem" and found.node is not None:
        p = _single(graph.constant(found.node.input[1]))
        conv, eps = _before_clip(graph, conv)
    layout, shape = _layout(graph, conv, layout)
    start = found.output
    order: Callable[[Array], Array] | None = None
    if found.kind == "weights" and found.node is not None:
        place_weights = np.asarray(graph.constant(found.node.input[1]), dtype=np.float64)[:, 0]
        place_bias = (
            np.asarray(graph.constant(found.node.input[2]), dtype=np.float64)
            if len(found.node.input) > 2
            else np.zeros(shape[0])
        )
    if found.kind == "flatten" and _is_channels_last(graph, conv):
        # The flat order is that of places, then channels.
        conv = str(graph.producer[conv].input[0])
        layout, shape = _layout(graph, conv, "NCHW")
        channels, height, width = shape

        def order(matrix: Array) -> Array:
            """Columns from (H, W, C) order into (C, H, W) order."""
            cube = matrix.reshape(-1, height, width, channels)
            return np.ascontiguousarray(cube.transpose(0, 3, 1, 2)).reshape(len(matrix), -1)

    size = (
        int(np.prod(shape)) if found.kind == "flatten" else shape[0] * (2 if found.kind == "catavgmax" else 1)
    )
    tail = _tail(graph, start, target, size)
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
            floor = next((_single(graph.constant(i)) for i in node.input if i not in graph.dynamic), None)
            ceiling = None
        else:
            given = [_single(graph.constant(i)) for i in node.input[1:]] + [None, None]
            floor, ceiling = _attribute(node, "min", given[0]), _attribute(node, "max", given[1])
        is_open = ceiling is None or ceiling > 1e30
        if floor is not None and 0 < floor < 1e-2 and is_open:
            return graph.data_inputs(node)[0], float(floor)
    return tensor, GEM_EPS


def _tail(graph: Graph, start: str, target: str, size: int) -> Affine | None:
    """The affine map from ``start``, a vector of ``size`` features, to ``target``; None if they are one."""
    chain: list[onnx.NodeProto] = []
    tensor = target
    while tensor != start:
        node = graph.producer[tensor]
        chain.append(node)
        tensor = graph.data_inputs(node)[0]
    state = Affine(np.ones(size), np.zeros(size))
    for node in reversed(chain):
        after = int(np.prod(graph.shape(node.output[0])))
        matrix: Array = np.ones(state.dimension)
        bias: Array = np.zeros(state.dimension)
        if node.op_type not in RESHAPES:
            matrix, bias = _affine(graph, node, state.dimension)
        if matrix.shape[-1] != state.dimension or len(matrix) != after or len(bias) != after:
            raise ExportError(
                f"{graph.name}: node {graph.describe(node)} mixes places and features; name the feature map "
                "with --conv-layer"
            )
        if node.op_type not in RESHAPES:
            state = state.then(matrix, bias)
    only_notation = all(n.op_type in RESHAPES for n in chain)
    return None if only_notation else state


def _affine(graph: Graph, node: onnx.NodeProto, size: int) -> tuple[Array, Array]:
    """One node behind the pooling as ``matrix x + bias``: diagonal (F,) or dense (D, F), in float64."""
    op = node.op_type
    data = graph.data_inputs(node)[0]
    constants = [None if i == data or not i else graph.constant(i) for i in node.input]
    values = [None if c is None else c.astype(np.float64) if c.ndim < 2 else _full(c) for c in constants]

    def vector(value: Array | None, default: float) -> Array:
        if value is None:
            return np.full(size, default)
        shape = graph.shape(node.output[0])
        return np.broadcast_to(value, shape).reshape(-1).astype(np.float64)

    if op == "Neg":
        return -np.ones(size), np.zeros(size)
    if op in ELEMENTWISE:
        second = data == node.input[1]
        constant = vector(values[0] if second else values[1], 0.0)
        if op == "Mul":
            return constant, np.zeros(size)
        if op == "Div":
            if second:
                raise ExportError(
                    f"{graph.name}: node {graph.describe(node)} divides by the feature; not affine"
                )
            return 1 / constant, np.zeros(size)
        if op == "Add":
            return np.ones(size), constant
        return (-np.ones(size), constant) if second else (np.ones(size), -constant)
    if op == "BatchNormalization":
        gamma, beta, mean, variance = (np.asarray(v) for v in values[1:5])
        scale = gamma / np.sqrt(variance + _attribute(node, "epsilon", 1e-5))
        return scale, beta - mean * scale
    weight = values[1]
    if weight is None:
        raise ExportError(f"{graph.name}: node {graph.describe(node)} has no constant weight; not affine")
    if op == "MatMul":
        return weight.T, np.zeros(weight.shape[1])
    if op == "Gemm":
        if _attribute(node, "transA", 0):
            raise ExportError(f"{graph.name}: node {graph.describe(node)} transposes the batch; not affine")
        matrix = weight if _attribute(node, "transB", 0) else weight.T
        alpha = _attribute(node, "alpha", 1.0)
        matrix = matrix if alpha == 1 else matrix * alpha
        bias: Array = np.zeros(len(matrix))
        if len(values) > 2 and values[2] is not None:
            bias = np.broadcast_to(values[2] * _attribute(node, "beta", 1.0), (1, len(matrix)))[0]
        return matrix, bias
    # Conv on a 1 x 1 map, or as large as the map that was flattened.
    bias = values[2] if len(values) > 2 and values[2] is not None else np.zeros(len(weight))
    group = _attribute(node, "group", 1)
    matrix = weight.reshape(len(weight), -1)
    if group == 1:
        return matrix, np.asarray(bias)
    dense = np.zeros((len(weight), size))
    rows, columns = len(weight) // group, matrix.shape[1]
    for g in range(group):
        dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = matrix[g * rows : (g + 1) * rows]
    return dense, np.asarray(bias)


def _full(value: npt.NDArray[Any]) -> Array:
    """At least float32."""
    return value.astype(np.promote_types(value.dtype, np.float32), copy=False)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            value = onnx.helper.get_attribute_value(attribute)
            return list(value) if isinstance(value, Iterable) and not isinstance(value, bytes) else value
    return default


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."
