"""Write the artifact's graph: uint8 photos in, feature map, pooled feature and parts out."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from simmap.engine.contract import InputSpec
from simmap.engine.errors import ExportError
from simmap.engine.runtime.ort import one_line

from .carrying import TAIL_FEATURE, TAIL_PARTS, add_attention, add_tail
from .exposure import Exposure
from .graph import Graph, attribute
from .nodes import OURS, RESERVED, SOURCE, Nodes
from .rows import ReadRows
from .token_orders import add_last_attention, add_token_states
from .token_parts import BlockNodes, add_token_head
from .tokens import Tokens, one_size

# The matrices (H W, C, D) of a flattened map's places.
FLAT_HEAD = f"{OURS}head"
NORMALISED, NETWORK_INPUT = f"{OURS}normalised", f"{OURS}network_input"


def expose(graph: Graph, exposure: Exposure, spec: InputSpec) -> onnx.ModelProto:
    """Cut ``graph`` at its feature map, put the input and the heads of the artifact on.

    Only operators that mean the same in every opset from 7 to 24 are added, so the source keeps its own.

    Returns:
        A model with the input ``image`` (N, height, width, 3) uint8 and the outputs of
        ``engine.artifact``; without metadata.

    Raises:
        ExportError: the source's opset is below 7, or its head takes one size only and ``spec`` any.
    """
    opset = next((o.version for o in graph.model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < 7:
        raise ExportError(
            f"{graph.name}: has opset {opset}; opsets from 7 on are supported, convert it first"
        )
    if spec.dynamic and exposure.pooling in ("weights", "flatten"):
        raise ExportError(
            f"{graph.name}: pooling {exposure.pooling!r} has a weight for each place, so it takes one size "
            "only; leave --dynamic out"
        )
    if spec.dynamic and exposure.pooling == "attention":
        raise ExportError(
            f"{graph.name}: its attention pooling has a position for each place, so it takes one size only; "
            "leave --dynamic out"
        )
    is_sum = exposure.pooling == "avg" and exposure.pooled_scale != 1
    if spec.dynamic and is_sum and exposure.has_head:
        raise ExportError(
            f"{graph.name}: the head reads {exposure.pooled_scale:g} times the average over the places (a "
            "sum, or pads that count), which changes with the size; leave --dynamic out"
        )
    if spec.dynamic and exposure.tokens is not None:
        raise one_size(graph.name)
    builder = _Builder(graph, exposure, dynamic=spec.dynamic)
    builder.add_input(spec)
    if exposure.tokens is not None:
        builder.add_tokens(exposure.tokens, exposure)
        return builder.model(spec)
    builder.add_conv(exposure)
    builder.add_heads(exposure)
    return builder.model(spec)


class _Builder(Nodes):
    """Collects all of the artifact under construction."""

    def __init__(self, graph: Graph, exposure: Exposure, *, dynamic: bool) -> None:
        super().__init__(exposure.shape, dynamic=dynamic)
        self.source = graph
        conv = exposure.conv
        is_conv = exposure.layout == "NCHW" and graph.values[conv].dtype == np.float32
        self.renamed = {conv: "conv"} if is_conv else {}
        self.front: list[onnx.NodeProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        attention = exposure.attention
        body, needed = graph.upstream(
            [conv] if attention is None else [conv, attention.weights, attention.values]
        )
        self.body = [self._copy(n) for n in body]
        self.conv = self._name(conv)
        self.image = self._name(graph.input.name)
        for name in graph.initializers:
            if name in needed:
                tensor = onnx.TensorProto()
                tensor.CopyFrom(graph.initializers[name])
                tensor.name = self._name(name)
                self.weights.append(tensor)
        self._free_the_batch(body)

    def _name(self, name: str) -> str:
        """A name of the source's; those that are ours to give are moved out of the way."""
        if name in self.renamed:
            return self.renamed[name]
        return f"{SOURCE}{name}" if name in RESERVED or name.startswith((OURS, SOURCE)) else name

    def _copy(self, node: onnx.NodeProto) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self._rename(copy)
        return copy

    def _rename(self, node: onnx.NodeProto) -> None:
        """Give the tensors of a node, and of its subgraphs, their names in the artifact."""
        if node.name.startswith((OURS, SOURCE)):
            node.name = f"{SOURCE}{node.name}"
        node.input[:] = [self._name(i) for i in node.input]
        node.output[:] = [self._name(o) for o in node.output]
        for item in node.attribute:
            for graph in [item.g, *item.graphs]:
                for inner in graph.node:
                    self._rename(inner)
                for value in [*graph.input, *graph.output, *graph.initializer]:
                    value.name = self._name(value.name)

    def _free_the_batch(self, nodes: list[onnx.NodeProto]) -> None:
        """Let reshapes that write the batch size 1 down keep the batch that they are given."""
        for node, copy in zip(nodes, list(self.body), strict=True):
            if node.op_type == "Concat":
                self._repeat_constants(node, copy)
            if node.op_type != "Reshape" or node.input[0] not in self.source.dynamic:
                continue
            shape = self.source.constant(node.input[1])
            if shape is None or shape.size == 0 or shape[0] != 1 or node.input[1] in self.source.sized:
                continue
            if self.source.shape(node.input[0])[0] == 1:
                # 0 keeps the axis of the input; with allowzero it would be an empty axis.
                free = shape.astype(np.int64)
                free[0] = 0
                if any(a.name == "allowzero" and a.i for a in node.attribute):
                    free[0] = -1
                    if (free[1:] == -1).any():
                        continue
                copy.input[1] = self.constant(free, f"reshape/{node.output[0]}")

    def _repeat_constants(self, node: onnx.NodeProto, copy: onnx.NodeProto) -> None:
        """Repeat what is written down for one image, such as a class token, for each image of the batch."""
        rank = len(self.source.shape(node.output[0]))
        if node.output[0] not in self.source.dynamic or rank < 3 or attribute(node, "axis", 0) % rank == 0:
            return
        for at, name in enumerate(node.input):
            if name in self.source.sized or self.source.shape(name)[0] != 1:
                continue
            prefix = f"{SOURCE}repeat/{node.output[0]}/{at}"
            ones = self.constant(np.ones(rank - 1, dtype=np.int64), f"{prefix}/ones")
            first = self.constant(np.zeros(1, dtype=np.int64), f"{prefix}/first")
            made = [
                helper.make_node("Shape", [self.image], [f"{prefix}/shape"]),
                helper.make_node("Gather", [f"{prefix}/shape", first], [f"{prefix}/batch"]),
                helper.make_node("Concat", [f"{prefix}/batch", ones], [f"{prefix}/sizes"], axis=0),
                helper.make_node("Expand", [copy.input[at], f"{prefix}/sizes"], [prefix]),
            ]
            self.body[self.body.index(copy) : self.body.index(copy)] = made
            copy.input[at] = prefix

    def add_input(self, spec: InputSpec) -> None:
        """uint8 NHWC to what the network takes; transposing bytes first is the cheap order."""
        self.nodes, behind = self.front, self.nodes
        is_uint8 = self.source.input_type == TensorProto.UINT8
        tensor = "image"
        if not self.source.channels_last:
            tensor = self.add("Transpose", [tensor], "channels_first", perm=[0, 3, 1, 2])
        if not is_uint8:
            shape = (1, 1, 1, 3) if self.source.channels_last else (1, 3, 1, 1)
            mean, std = (np.asarray(v, dtype=np.float64).reshape(shape) for v in (spec.mean, spec.std))
            tensor = self.add("Cast", [tensor], "float", to=TensorProto.FLOAT)
            tensor = self.add("Mul", [tensor, self.floats(1 / (255 * std), "scale")], "scaled")
            tensor = self.add("Add", [tensor, self.floats(-mean / std, "shift")], "normalised")
            if self.source.input_type != TensorProto.FLOAT:
                tensor = self.add("Cast", [tensor], "typed", to=self.source.input_type)
        self.front.append(helper.make_node("Identity", [tensor], [self.image], name=NETWORK_INPUT))
        self.nodes = behind

    def add_conv(self, exposure: Exposure) -> None:
        """The feature map as (N, C, H, W) float32."""
        tensor = self.conv
        if exposure.layout == "NHWC":
            tensor = self.add("Transpose", [tensor], "conv_channels_first", perm=[0, 3, 1, 2])
        if exposure.layout == "NLC":
            channels, height, width = exposure.shape
            tensor = self.add("Transpose", [tensor], "tokens_last", perm=[0, 2, 1])
            grid = self.constant(np.array([0, channels, height, width], dtype=np.int64), "token_grid")
            tensor = self.add("Reshape", [tensor, grid], "grid")
        if tensor != "conv":
            self.add("Cast", [tensor], "conv", to=TensorProto.FLOAT)
        self._output("conv", ["N", exposure.shape[0], "H", "W"])

    def add_tokens(self, tokens: Tokens, exposure: Exposure) -> None:
        """``parts`` of the patch tokens, ``embedding``, and what other methods order the tokens by."""
        tail, gated = exposure.tail, exposure.gated
        blocks = BlockNodes(tokens, self._name)
        self.weights += blocks.weights
        self._insert(blocks.nodes)
        whole, kept = self.body, {blocks.total, blocks.states, blocks.rows}
        self.body = ReadRows(whole, blocks.index, kept, self._shape, self._value, self.constant).moved()
        dimension = add_token_head(self, tokens, tail, gated, blocks.total, blocks.states)
        self._output("embedding", ["N", dimension])
        self._output("parts", ["N", *tokens.cells, dimension])
        # The states of all tokens are asked for by other methods alone: see ``optional``.
        made = {name for node in self.body for name in node.output}
        self.body += [node for node in whole if made.isdisjoint(node.output)]
        add_token_states(self, tokens, tail, gated, self.conv)
        self._output("tokens", ["N", *tokens.cells, dimension])
        add_last_attention(self, tokens, blocks.rows)
        self._output("last_attention", ["N", *tokens.cells])

    def _shape(self, name: str) -> tuple[int, ...] | None:
        """The shape at batch 1 of a tensor of the network; None for those of ours."""
        source = name.removeprefix(SOURCE) if name.removeprefix(SOURCE) in RESERVED else name
        known = source in self.source.values or source in self.source.initializers
        return self.source.shape(source) if known else None

    def _value(self, name: str) -> npt.NDArray[Any] | None:
        """The value of a tensor of the network that does not depend on the image, at batch 1, else None."""
        for tensor in self.weights:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        return self.source.constant(name)

    def _insert(self, nodes: list[onnx.NodeProto]) -> None:
        """Put nodes into the network, each as early as its inputs are there.

        Behind the network, they would keep the attention weights of every block in memory.
        """
        unmade = {name for node in [*self.body, *nodes] for name in node.output}
        waiting, ordered = list(nodes), []
        for node in self.body:
            ordered.append(node)
            unmade.difference_update(node.output)
            while waiting and unmade.isdisjoint(waiting[0].input):
                ordered.append(waiting.pop(0))
                unmade.difference_update(ordered[-1].output)
        self.body = ordered + waiting

    def _output(self, name: str, shape: list[str | int]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def add_heads(self, exposure: Exposure) -> None:
        """``pooled``, and with a head ``parts`` and ``embedding``."""
        if exposure.attention is not None:
            weights, values = (self._name(n) for n in (exposure.attention.weights, exposure.attention.values))
            feature, parts = add_attention(self, exposure.attention, weights, values)
        elif exposure.pooling == "flatten":
            feature, parts = self._add_flat_head(exposure)
        else:
            beta, shared = self._add_pooled(exposure)
            if shared is None:
                return
            feature, parts = self._add_affine(exposure, beta, shared)
        if exposure.gated is not None:
            add_tail(self, exposure.gated, feature, parts)
        self._output("embedding", ["N", exposure.dimension])
        self._output("parts", ["N", "H", "W", exposure.dimension])

    def _add_affine(self, exposure: Exposure, beta: str, shared: str) -> tuple[str, str]:
        """The affine tail of the pooled feature and of what each place adds to it.

        Returns:
            Names of tensors (N, D) and (N, H, W, D): the embedding and parts, or what ``gated`` reads.
        """
        feature, name = _names(exposure)
        # (N, C', H, W) -> (N, H, W, C') -> parts
        parts = self.add("Transpose", [shared], "shared_last", perm=[0, 2, 3, 1])
        tail, bias = exposure.tail, exposure.tail_bias
        if tail is None:
            linear = beta
            parts = self.add("Identity", [parts], name)
        else:
            dense = tail.matrix.ndim == 2
            matrix = self.floats(tail.matrix.T if dense else tail.matrix, "head")
            op = "MatMul" if dense else "Mul"
            parts = self.add(op, [parts, matrix], name)
            linear = self.add(op, [beta, matrix], "linear")
        if bias is None:
            return linear, parts
        # The whole constant in one: what the contract says of it stays true when the matrix is rounded.
        return self.add("Add", [linear, self.floats(bias, "bias")], feature), parts

    def _add_pooled(self, exposure: Exposure) -> tuple[str, str | None]:
        """``pooled`` (N, C'); gives the part of it that places add, and that by place where a head needs it.

        Returns:
            Names of tensors (N, C') and (N, C', H, W).
        """
        if exposure.pooling == "weights":
            assert exposure.place_weights is not None
            assert exposure.place_bias is not None
            places = exposure.shape[1] * exposure.shape[2]
            weights = self.floats(exposure.place_weights[None], "place_weights")
            weighted = self.add("Mul", ["conv", weights], "shared")
            mean = self.add("GlobalAveragePool", [weighted], "weighted_mean")
            total = self.add("Mul", [mean, self.floats(float(places), "places")], "weighted_sum")
            beta = self.add("Flatten", [total], "weighted_flat", axis=1)
            self.add("Add", [beta, self.floats(exposure.place_bias, "place_bias")], "pooled")
            shared: str | None = weighted
        else:
            maps, shared = self.add_pools("conv", exposure, needs_parts=exposure.has_head)
            beta = self.add("Flatten", [maps], "pooled", axis=1)
        self._output("pooled", ["N", exposure.pooled_channels])
        return beta, shared

    def _add_flat_head(self, exposure: Exposure) -> tuple[str, str]:
        """parts[n, x] = W_x alpha[n, x], one matrix a place; the embedding is their sum."""
        tail, (feature, name) = exposure.tail, _names(exposure)
        assert tail is not None
        channels, height, width = exposure.shape
        places = height * width
        cube = tail.matrix.reshape(tail.dimension, channels, places).transpose(2, 1, 0)  # (HW, C, D)
        rows = self.constant(np.array([0, channels, places], dtype=np.int64), "flat_shape")
        flat = self.add("Reshape", ["conv", rows], "flat")
        by_place = self.add("Transpose", [flat], "by_place", perm=[2, 0, 1])  # (HW, N, C)
        each = self.add(
            "MatMul", [by_place, self.floats(cube, FLAT_HEAD.removeprefix(OURS))], "each"
        )  # (HW, N, D)
        mean = self.add("Transpose", [each], "each_last", perm=[1, 2, 0])  # (N, D, HW)
        grid = self.constant(np.array([0, tail.dimension, height, width], dtype=np.int64), "grid_shape")
        cells = self.add("Reshape", [mean, grid], "cells")  # (N, D, H, W)
        parts = self.add("Transpose", [cells], name, perm=[0, 2, 3, 1])
        average = self.add("GlobalAveragePool", [cells], "cell_mean")
        total = self.add("Mul", [average, self.floats(float(places), "places")], "cell_sum")
        summed = self.add("Flatten", [total], "cell_flat", axis=1)
        return self.add("Add", [summed, self.floats(tail.bias, "bias")], feature), parts

    def model(self, spec: InputSpec) -> onnx.ModelProto:
        """Put everything together."""
        source = self.source.model
        size: list[str | int] = ["height", "width"] if self.dynamic else [spec.height, spec.width]
        if not self.dynamic:
            _, height, width = self.shape
            fixed = {"H": height, "W": width}
            for output in self.outputs:
                for axis in output.type.tensor_type.shape.dim:
                    if axis.dim_param in fixed:
                        axis.dim_value = fixed[axis.dim_param]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *size, 3])
        graph = helper.make_graph(
            [*self.front, *self.body, *self.nodes], "simmap", [image], self.outputs, initializer=self.weights
        )
        model = helper.make_model(
            graph,
            opset_imports=source.opset_import,
            functions=source.functions,
            producer_name="simmap",
            # Below 4, weights would have to be inputs as well.
            ir_version=max(source.ir_version, 8),
        )
        try:
            onnx.checker.check_model(model)
        except Exception as error:
            raise ExportError(
                f"{self.source.name}: the exposed graph is not valid ({one_line(error)})"
            ) from error
        return model


def normalises(model: onnx.ModelProto) -> bool:
    """Whether mean and std are folded into the artifact; a source that takes bytes has its own."""
    return any(NORMALISED in node.output for node in model.graph.node)


def _names(exposure: Exposure) -> tuple[str, str]:
    """What the affine tail gives, and its parts: those of the artifact, or what a gated tail begins with."""
    return ("embedding", "parts") if exposure.gated is None else (TAIL_FEATURE, TAIL_PARTS)
