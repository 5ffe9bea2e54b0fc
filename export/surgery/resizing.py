"""Nodes that bring photos of any size to the network's input, as ``engine.images.preprocess`` does.

Resampling is a weighted sum along columns and then along rows, so each is one matrix that is made of the
photo's size while the graph runs.
"""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from simmap.engine.contract import InputSpec

from .nodes import Nodes

OPSET = 11  # Range, Round
CUBIC = -0.75  # the A of OpenCV's INTER_CUBIC


def add_resize(nodes: Nodes, photo: str, spec: InputSpec) -> str:
    """uint8 (N, height, width, 3) of photos (N, any height, any width, 3) in the same order of colours.

    Within rounding as OpenCV resizes: a channel may differ by 1 where a mean lies between two numbers.
    """
    return _Resize(nodes, photo, spec).add()


class _Resize:
    """The nodes for one photo; their names begin with the photo's."""

    def __init__(self, nodes: Nodes, photo: str, spec: InputSpec) -> None:
        self.nodes, self.photo, self.spec = nodes, photo, spec
        self.count = 0

    def add(self) -> str:
        """All of it."""
        shape = self._op("Shape", self.photo)
        sides = [
            self._op("Cast", self._op("Gather", shape, self._whole([axis])), to=TensorProto.FLOAT)
            for axis in (1, 2)
        ]
        targets = (self.spec.height, self.spec.width)
        ends = [self._placed(side, target, sides) for side, target in zip(sides, targets, strict=True)]
        axes = list(zip(sides, targets, ends, strict=True))
        matrices = [self._matrix(side, target, *end) for side, target, end in axes]
        pixels = self._op("Cast", self.photo, to=TensorProto.FLOAT)
        columns = self._op("Reshape", pixels, self._whole([0, 0, -1]))  # (N, h, w 3)
        rows = self._op("MatMul", matrices[0], columns)
        grid = self._op("Reshape", rows, self._whole([0, self.spec.height, -1, 3]))
        resized = self._op("MatMul", matrices[1], grid)  # (N, height, width, 3)
        if self.spec.resize == "letterbox":
            masks = [self._inside(target, *end) for _, target, end in axes]
            resized = self._bordered(resized, masks)
        rounded = self._op("Round", resized)
        clipped = self._op("Min", self._op("Max", rounded, self._number(0)), self._number(255))
        return self._op("Cast", clipped, to=TensorProto.UINT8)

    def _placed(self, side: str, target: int, sides: list[str]) -> tuple[str, str]:
        """To how many pixels a side is resized, and which of these is the input's first."""
        spec = self.spec
        if spec.resize == "squash":
            return self._number(target, (1,)), self._number(0, (1,))
        wanted = self._number(target)
        scales = [
            self._op("Div", self._number(size), other)
            for size, other in zip((spec.height, spec.width), sides, strict=True)
        ]
        if spec.resize == "crop":
            scale = self._op("Div", self._op("Max", *scales), self._number(spec.crop_fraction))
            resized = self._op("Max", self._op("Round", self._op("Mul", side, scale)), wanted)
            spare = self._op("Sub", resized, wanted)
            return resized, self._op("Floor", self._op("Mul", spare, self._number(0.5)))
        scale = self._op("Min", *scales)
        resized = self._op("Max", self._op("Round", self._op("Mul", side, scale)), self._number(1))
        resized = self._op("Min", resized, wanted)
        spare = self._op("Sub", wanted, resized)
        return resized, self._op("Neg", self._op("Floor", self._op("Mul", spare, self._number(0.5))))

    def _bordered(self, resized: str, masks: list[str]) -> str:
        """The photo on a ground of the colour mean; a mask (side, 1) says which rows lie on the photo."""
        down = self._op("Reshape", masks[0], self._whole([self.spec.height, 1, 1]))
        across = self._op("Reshape", masks[1], self._whole([1, self.spec.width, 1]))
        inside = self._op("Mul", down, across)
        colour = np.clip([round(255 * mean) for mean in self.spec.mean], 0, 255).astype(np.float32)
        border = self._op("Mul", self._op("Sub", self._number(1), inside), self._float(colour))
        return self._op("Add", self._op("Mul", resized, inside), border)

    def _at(self, target: int, first: str) -> str:
        """The input's rows or columns, counted from the resized photo's first (target, 1)."""
        return self._op("Add", self._float(np.arange(target, dtype=np.float32)[:, None]), first)

    def _inside(self, target: int, resized: str, first: str) -> str:
        at = self._at(target, first)
        before = self._op("Less", at, self._number(0))
        inside = self._op("And", self._op("Not", before), self._op("Less", at, resized))
        return self._op("Cast", inside, to=TensorProto.FLOAT)

    def _matrix(self, side: str, target: int, resized: str, first: str) -> str:
        """The weights (target, side) of one axis."""
        at = self._at(target, first)
        scalar = self._op("Reshape", side, self._whole([], "scalar"))
        pixels = self._op("Range", self._number(0), scalar, self._number(1))  # (side,)
        step = self._op("Div", side, resized)
        if self.spec.kernel != "area":
            return self._sampled(at, step, pixels, side)
        shrinks = self._op("Not", self._op("Less", side, resized))
        small, large = self._area(at, step, pixels), self._enlarged(at, step, pixels, side)
        return self._op("Where", shrinks, small, large)

    def _area(self, at: str, step: str, pixels: str) -> str:
        """INTER_AREA of a side that does not grow: the share of each pixel in a cell."""
        start = self._op("Mul", at, step)
        end = self._op("Mul", self._op("Add", at, self._number(1)), step)
        left = self._op("Max", start, pixels)
        right = self._op("Min", end, self._op("Add", pixels, self._number(1)))
        overlap = self._op("Max", self._op("Sub", right, left), self._number(0))
        return self._op("Div", overlap, step)

    def _enlarged(self, at: str, step: str, pixels: str, side: str) -> str:
        """INTER_AREA of a side that grows: two neighbours, blended where a cell lies on both."""
        floor = self._op("Floor", self._op("Mul", at, step))
        after = self._op("Add", floor, self._number(1))
        ahead = self._op("Sub", self._op("Add", at, self._number(1)), self._op("Div", after, step))
        ahead = self._op("Max", ahead, self._number(0))
        share = self._op("Sub", ahead, self._op("Floor", ahead))
        rest = self._op("Sub", self._number(1), share)
        return self._taps({0: rest, 1: share}, floor, pixels, side)

    def _sampled(self, at: str, step: str, pixels: str, side: str) -> str:
        """INTER_LINEAR or INTER_CUBIC: two or four neighbours of a cell's centre."""
        half = self._number(0.5)
        centre = self._op("Sub", self._op("Mul", self._op("Add", at, half), step), half)
        floor = self._op("Floor", centre)
        share = self._op("Sub", centre, floor)
        one = self._number(1)
        rest = self._op("Sub", one, share)
        if self.spec.kernel == "linear":
            return self._taps({0: rest, 1: share}, floor, pixels, side)
        # Keys' kernel beyond and within one pixel.
        outer = (CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC)
        inner = (CUBIC + 2, -(CUBIC + 3), 0.0, 1.0)
        weights = {
            -1: self._cubic(self._op("Add", share, one), outer),
            0: self._cubic(share, inner),
            1: self._cubic(rest, inner),
            2: self._cubic(self._op("Add", rest, one), outer),
        }
        return self._taps(weights, floor, pixels, side)

    def _cubic(self, distance: str, coefficients: tuple[float, ...]) -> str:
        """A polynomial of degree 3, highest power first."""
        value = self._number(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self._op("Add", self._op("Mul", value, distance), self._number(coefficient))
        return value

    def _taps(self, weights: dict[int, str], floor: str, pixels: str, side: str) -> str:
        """The matrix of weights at pixels counted from ``floor``; beyond the photo its edge counts."""
        last = self._op("Sub", side, self._number(1))
        matrices = []
        for offset, weight in weights.items():
            index = self._op("Max", self._op("Add", floor, self._number(offset)), self._number(0))
            hit = self._op("Equal", self._op("Min", index, last), pixels)
            matrices.append(self._op("Mul", self._op("Cast", hit, to=TensorProto.FLOAT), weight))
        total = matrices[0]
        for matrix in matrices[1:]:
            total = self._op("Add", total, matrix)
        return total

    def _op(self, kind: str, *inputs: str, **attributes: int) -> str:
        return self.nodes.add(kind, list(inputs), self._name(kind), **attributes)

    def _number(self, value: float, shape: tuple[int, ...] = ()) -> str:
        return self._float(np.full(shape, value, dtype=np.float32))

    def _float(self, value: npt.NDArray[np.float32]) -> str:
        return self.nodes.floats(value, self._name("float"))

    def _whole(self, values: list[int], name: str = "shape") -> str:
        return self.nodes.constant(np.array(values, dtype=np.int64), self._name(name))

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"resize_{self.photo}/{kind}{self.count}"
