"""Nodes that surgery adds to a graph, and the poolings among them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from simmap.engine.contract import Contract

from .exposure import Exposure

Pooled = Exposure | Contract  # both name a pooling, its p and its eps
RESERVED = ("image", "conv", "pooled", "embedding", "parts", "tokens", "last_attention")
# Tensors that are added are called OURS..., those of the source whose names clash SOURCE....
OURS, SOURCE = "simmap/", "source/"


class Nodes:
    """Collects nodes and weights of ours, and has the poolings."""

    def __init__(
        self, shape: tuple[int, int, int], *, dynamic: bool, reserved: tuple[str, ...] = RESERVED
    ) -> None:
        self.shape, self.dynamic, self.reserved = shape, dynamic, reserved
        self.weights: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, value: npt.NDArray[Any], name: str) -> str:
        """Store a weight under a name of ours."""
        name = f"{OURS}{name}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def floats(self, value: npt.NDArray[np.floating[Any]] | float, name: str) -> str:
        """Store a float32 weight."""
        return self.constant(np.asarray(value, dtype=np.float32), name)

    def floats_once(self, value: npt.NDArray[np.floating[Any]] | float, name: str) -> str:
        """As ``floats``, for a weight that several nodes read: the first one stores it."""
        stored = f"{OURS}{name}"
        return stored if any(weight.name == stored for weight in self.weights) else self.floats(value, name)

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """Append a node with one output and give the output's name."""
        output = name if name in self.reserved else f"{OURS}{name}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{OURS}{name}", **attributes))
        return output

    def add_pools(self, conv: str, exposure: Pooled, *, needs_parts: bool) -> tuple[str, str | None]:
        """beta (N, C', 1, 1) of a feature map (N, C, H, W), and alpha_hat (N, C', H, W) if asked for."""
        kind = exposure.pooling
        if kind not in ("avgmax", "catavgmax"):
            return self._add_simple(kind, conv, exposure, needs_parts=needs_parts)
        (avg, avg_hat), (top, top_hat) = (
            self._add_simple(part, conv, exposure, needs_parts=needs_parts) for part in ("avg", "max")
        )
        has_parts = avg_hat is not None and top_hat is not None
        if kind == "catavgmax":
            maps = self.add("Concat", [avg, top], "both", axis=1)
            hats = [str(avg_hat), str(top_hat)]
            return maps, self.add("Concat", hats, "both_hat", axis=1) if has_parts else None
        half = self.floats(0.5, "half")
        maps = self.add("Mul", [self.add("Add", [avg, top], "sum"), half], "mean")
        if not has_parts:
            return maps, None
        total = self.add("Add", [str(avg_hat), str(top_hat)], "sum_hat")
        return maps, self.add("Mul", [total, half], "mean_hat")

    def _add_simple(
        self, kind: str, conv: str, exposure: Pooled, *, needs_parts: bool
    ) -> tuple[str, str | None]:
        """beta (N, C, 1, 1), and alpha_hat (N, C, H, W) if asked for."""
        if kind == "gem":
            assert exposure.p is not None
            # max(conv, eps); Max itself does not broadcast before opset 8.
            floor = self.floats(exposure.eps or 0.0, "eps")
            above = self.add("Relu", [self.add("Sub", [conv, floor], "over")], "above")
            clipped = self.add("Add", [above, floor], "clipped")
            # Relative to the maximum, a large p neither overflows nor loses everything to zero.
            top = self.add("GlobalMaxPool", [clipped], "top")
            relative = self.add("Div", [clipped, top], "relative")
            powers = self.add("Pow", [relative, self.floats(exposure.p, "p")], "powers")
            mean = self.add("GlobalAveragePool", [powers], "power_mean")
            root = self.add("Pow", [mean, self.floats(1 / exposure.p, "one_over_p")], "root")
            beta = self.add("Mul", [root, top], "beta")
            if not needs_parts:
                return beta, None
            share = self.add("Div", [powers, mean], "share")
            return beta, self._per_place(self.add("Mul", [share, beta], "gem_total"), "gem_hat")
        if kind == "max":
            beta = self.add("GlobalMaxPool", [conv], "beta_max")
            if not needs_parts:
                return beta, None
            # Not(Less) is Equal in words that opset 7 has for floats; ties share the maximum.
            less = self.add("Less", [conv, beta], "less")
            winner = self.add("Cast", [self.add("Not", [less], "wins")], "winner", to=TensorProto.FLOAT)
            mean = self.add("GlobalAveragePool", [winner], "winner_mean")
            taken = self.add("Mul", [self.add("Div", [winner, mean], "winner_share"), beta], "max_total")
            return beta, self._per_place(taken, "max_hat")
        beta = self.add("GlobalAveragePool", [conv], "beta_avg")
        return beta, self._per_place(conv, "avg_hat") if needs_parts else None

    def _per_place(self, tensor: str, name: str) -> str:
        """Divide a map by the number of its places."""
        if not self.dynamic:
            _, height, width = self.shape
            return self.add("Mul", [tensor, self.floats(1 / (height * width), f"{name}_share")], name)
        sizes = self.add("Shape", [tensor], f"{name}_sizes")
        sides = [
            self.add(
                "Gather",
                [sizes, self.constant(np.array([axis], dtype=np.int64), f"{name}_axis{axis}")],
                f"{name}_side{axis}",
            )
            for axis in (2, 3)
        ]
        places = self.add(
            "Cast", [self.add("Mul", sides, f"{name}_places")], f"{name}_count", to=TensorProto.FLOAT
        )
        return self.add("Div", [tensor, places], name)
