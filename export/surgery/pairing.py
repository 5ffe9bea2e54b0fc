"""The graph of a pair: two photos through one network, and the score and its maps behind it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, compose, helper

from simmap.engine import decompose
from simmap.engine.pair import PairContract

from .graph import raise_opset
from .nodes import Nodes
from .resizing import OPSET, add_resize

NETWORK = "network/"
INPUTS = ("a", "b")
# Added to a squared norm before it divides: the least normal float32, so that zero gives zero.
TINY = float(np.finfo(np.float32).tiny)
Size = int | None  # None: known when the graph runs


def pair_graph(model: onnx.ModelProto, described: PairContract) -> onnx.ModelProto:
    """The pair graph of an artifact, without metadata.

    Only operators that mean the same in every opset from 7 to 24 are added, so the artifact keeps its own;
    resizing photos needs opset 11.

    Args:
        model: the artifact.
        described: which pair graph.

    Raises:
        ExportError: the artifact's opset cannot be raised to 11.
    """
    if described.photo:
        model = raise_opset(model, OPSET, "resizing photos in the graph")
    network = compose.add_prefix(model, NETWORK)
    builder = _Pairing(described, _opset(model))
    builder.add_photos(network.graph.input[0].name)
    front, builder.nodes = builder.nodes, []
    builder.add_maps()
    graph = helper.make_graph(
        [*front, *network.graph.node, *builder.nodes],
        "simmap_pair",
        builder.inputs(),
        builder.outputs(),
        initializer=[*network.graph.initializer, *builder.weights],
    )
    pair = helper.make_model(
        graph,
        opset_imports=model.opset_import,
        functions=network.functions,
        producer_name="simmap",
        ir_version=model.ir_version,
    )
    onnx.checker.check_model(pair)
    return pair


def _opset(model: onnx.ModelProto) -> int:
    return int(next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")))


class _Pairing(Nodes):
    """Collects the nodes in front of the network and behind it.

    The two photos of a pair follow one another in the network's batch: a_1, b_1, a_2, b_2 and so on. Stacking
    them so refuses batches of unequal length.
    """

    def __init__(self, described: PairContract, opset: int) -> None:
        contract = described.contract
        shape = (contract.channels, contract.grid_height, contract.grid_width)
        is_free = contract.input.dynamic and not described.photo
        super().__init__(shape, dynamic=is_free, reserved=described.outputs)
        self.described, self.contract, self.opset = described, contract, opset
        spec = contract.input
        self.size: tuple[Size, Size] = (None, None) if is_free else (spec.height, spec.width)
        self.grid: tuple[Size, Size] = (None, None) if is_free else shape[1:]

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """``a`` and ``b``."""
        values = []
        for name in INPUTS:
            sides: Sequence[int | str] = (self.contract.input.height, self.contract.input.width)
            if self.described.photo:
                sides = (f"height_{name}", f"width_{name}")
            elif self.dynamic:
                sides = ("height", "width")
            values.append(helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", *sides, 3]))
        return values

    def outputs(self) -> list[onnx.ValueInfoProto]:
        """As ``PairContract`` names them."""
        height, width = ("H", "W") if self.dynamic else self.shape[1:]
        places = "HW" if self.dynamic else self.shape[1] * self.shape[2]
        values = []
        for name in self.described.outputs:
            shape: list[int | str] = ["N"]
            if name == "points":
                shape += [places, places]
            elif name.startswith(("map", "influence")):
                shape += [height, width]
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return values

    def add_photos(self, image: str) -> None:
        """The network's input ``image`` (2 N, height, width, 3) of ``a`` and ``b``."""
        sides = (*self.size, 3)
        photos = list(INPUTS)
        if self.described.photo:
            photos = [add_resize(self, name, self.contract.input) for name in INPUTS]
        each = [
            self._grouped(photo, 1, sides, f"photo_{name}")
            for photo, name in zip(photos, INPUTS, strict=True)
        ]
        stacked = self.add("Concat", each, "photos", axis=1)
        target = self._sized([-1], sides, stacked, (2, 3, 4), "photos")
        self.nodes.append(helper.make_node("Reshape", [stacked, target], [image], name="simmap/image"))

    def add_maps(self) -> None:
        """Score, maps, residuals and influence, and the points if they are wanted."""
        contract = self.contract
        embedding = f"{NETWORK}{contract.explained[0]}"
        pairs = self._grouped(embedding, 2, (contract.dimension,), "pairs")  # (N, 2, D)
        turned = self.add("Transpose", [pairs], "turned", perm=[0, 2, 1])
        four = self.ints([-1, 4], "four")
        products = self.add("Reshape", [self.add("MatMul", [pairs, turned], "gram"), four], "products")
        squares = self.add("Gather", [products, self.ints([0, 3], "own")], "squares", axis=1)  # (N, 2)
        # 1 / |e|, and 0 for a zero embedding.
        divisors = self.add("Add", [squares, self.floats(TINY, "tiny")], "divisors")
        inverse = self.add("Div", [self.add("Sqrt", [squares], "norms"), divisors], "inverse")
        column = self.add("Reshape", [inverse, self.ints([-1, 2, 1], "column")], "inverse_column")
        row = self.add("Reshape", [inverse, self.ints([-1, 1, 2], "row")], "inverse_row")
        scales = self.add("Reshape", [self.add("MatMul", [column, row], "outer"), four], "scales")
        scale = self._pick(scales, 1, "scale")  # (N,): 1 / (|e_a| |e_b|)
        self.add("Mul", [self._pick(products, 1, "product"), scale], "score")
        places = self._add_places()
        self._add_pair_maps(pairs, places, scales)
        self._add_residuals(pairs, scale)
        if self.described.points:
            self._add_points(places, scale)

    def constant(self, value: npt.NDArray[Any], name: str) -> str:
        """Store a weight under a name of ours; a single number keeps having no axes."""
        super().constant(value, name)
        self.weights[-1].dims[:] = value.shape
        return self.weights[-1].name

    def ints(self, values: Sequence[int] | int, name: str) -> str:
        """Store whole numbers, as shapes and indices are."""
        return self.constant(np.array(values, dtype=np.int64), name)

    def _add_places(self) -> str:
        """What each place adds to the embedding (2 N, D, H W)."""
        contract, dimension = self.contract, self.contract.dimension
        if contract.has_parts:
            rows = self.add(
                "Reshape", [f"{NETWORK}parts", self.ints([0, -1, dimension], "rows")], "part_rows"
            )
            return self.add("Transpose", [rows], "places", perm=[0, 2, 1])
        eps = decompose.GEM_EPS if contract.eps is None else contract.eps
        hats = self.add_pools(f"{NETWORK}conv", replace(contract, eps=eps), needs_parts=True)[1]
        assert hats is not None
        return self.add("Reshape", [hats, self.ints([0, dimension, -1], "columns")], "places")

    def _add_pair_maps(self, pairs: str, places: str, scales: str) -> None:
        """Maps by every place against both embeddings, and influence by the image's own map."""
        twice = self.add("Concat", [pairs, pairs], "twice", axis=1)
        directions = self.add(
            "Reshape", [twice, self.ints([-1, 2, self.contract.dimension], "each_pair")], "directions"
        )  # (2 N, 2, D)
        each = self.add("MatMul", [directions, places], "each")  # (2 N, 2, H W)
        source = f"{NETWORK}{self.contract.explained[1]}"
        axes = (1, 2) if self.contract.has_parts else (2, 3)
        target = self._sized([-1, 4], self.grid, source, axes, "maps")
        maps = self.add("Reshape", [each, target], "unscaled")
        factors = self.add("Reshape", [scales, self.ints([-1, 4, 1, 1], "factor_shape")], "factors")
        maps = self.add(
            "Mul", [maps, factors], "maps"
        )  # (N, 4, H, W): a with a, a with b, b with a, b with b
        score = self.add("Reshape", ["score", self.ints([-1, 1, 1], "score_shape")], "score_column")
        for name, own, other in (("a", 0, 1), ("b", 3, 2)):
            contribution = self._pick(maps, other, f"map_{name}")
            alone = self.add("Mul", [self._pick(maps, own, f"self_{name}"), score], f"expected_{name}")
            self.add("Sub", [contribution, alone], f"influence_{name}")

    def _add_residuals(self, pairs: str, scale: str) -> None:
        """``rest . u_other / |e_self|``."""
        contract = self.contract
        if contract.rest == "image":
            for name in INPUTS:
                flat = self.add("Reshape", [f"map_{name}", self.ints([0, -1], f"flat_{name}")], f"row_{name}")
                self.add("Sub", ["score", self._sum(flat, f"sum_{name}")], f"residual_{name}")
        elif contract.bias_vector is not None:
            bias = self.floats(contract.bias_vector[:, None], "bias")
            both = self.add("MatMul", [pairs, bias], "bias_products")  # (N, 2, 1)
            both = self.add("Reshape", [both, self.ints([-1, 2], "two")], "bias_row")
            for name, other in (("a", 1), ("b", 0)):
                self.add("Mul", [self._pick(both, other, f"bias_{name}"), scale], f"residual_{name}")
        else:
            for name in INPUTS:
                self.add("Mul", ["score", self.floats(0.0, f"none_{name}")], f"residual_{name}")

    def _add_points(self, places: str, scale: str) -> None:
        """What a place of one image and a place of the other add to the score together."""
        if self.dynamic:
            target = self._sized([-1, 2, self.contract.dimension], (None,), places, (2,), "point_places")
        else:
            cells = self.shape[1] * self.shape[2]
            target = self.ints([-1, 2, self.contract.dimension, cells], "point_places_shape")
        both = self.add("Reshape", [places, target], "point_places")
        first = self.add("Transpose", [self._pick(both, 0, "places_a")], "rows_a", perm=[0, 2, 1])
        products = self.add("MatMul", [first, self._pick(both, 1, "places_b")], "point_products")
        shaped = self.add("Reshape", [scale, self.ints([-1, 1, 1], "point_scale_shape")], "point_scale")
        self.add("Mul", [products, shaped], "points")

    def _pick(self, tensor: str, index: int, name: str) -> str:
        """``tensor[:, index]``."""
        return self.add("Gather", [tensor, self.ints(index, f"{name}_index")], name, axis=1)

    def _sum(self, tensor: str, name: str) -> str:
        """The sum over axis 1, which opset 13 made an input."""
        if self.opset < 13:
            return self.add("ReduceSum", [tensor], name, axes=[1], keepdims=0)
        return self.add("ReduceSum", [tensor, self.ints([1], f"{name}_axis")], name, keepdims=0)

    def _grouped(self, tensor: str, count: int, sizes: Sequence[Size], name: str) -> str:
        """(n count, *sizes) as (n, count, *sizes)."""
        target = self._sized([-1, count], sizes, tensor, range(1, 1 + len(sizes)), f"{name}_group")
        return self.add("Reshape", [tensor, target], name)

    def _sized(
        self, head: list[int], sizes: Sequence[Size], tensor: str, axes: Sequence[int], name: str
    ) -> str:
        """The shape (*head, *sizes); where a size is not known, all are read off these axes of ``tensor``."""
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes):
            return self.ints([*head, *known], f"{name}_shape")
        shape = self.add("Shape", [tensor], f"{name}_sizes")
        kept = self.add("Gather", [shape, self.ints(list(axes), f"{name}_axes")], f"{name}_kept")
        return self.add("Concat", [self.ints(head, f"{name}_head"), kept], f"{name}_shape", axis=0)
