"""A tail as steps that are linear given the image.

A gate, a norm's scale or any other factor that is read off the feature itself is held at the value that it
has for the image. What remains is linear, so that it can be applied to what each place adds:

- an affine layer acts on the places without its bias;
- a function y = f(z) with f(0) = 0 multiplies them by y / z;
- a product of two tensors acts on the one with fewer such functions behind it, and holds the other;
- a quotient holds its divisor; means, sums and stacks are linear anyway.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt
import onnx

from simmap.engine.types import Array

Rule = Literal["linear", "pick", "gate", "function", "scale", "sum", "mean", "norm", "concat"]
HELD = ("gate", "function", "scale", "norm")


class NotHeldError(Exception):
    """A node whose output is no sum over places, whatever is held."""

    def __init__(self, node: onnx.NodeProto) -> None:
        super().__init__(node.name)
        self.node = node


@dataclass(frozen=True, eq=False)
class Step:
    """One vector from others, for each image.

    Attributes:
        rule: ``linear``: ``matrix x + bias``; ``pick``: features by ``index``; ``gate``: a function of each
            number that is 0 at 0, held as y / z; ``function``: any function of each number, only for what is
            held; ``scale``: the first times (or over) the second, which is held; ``sum``: by ``signs``;
            ``mean``: of all features; ``norm``: their L2 norm, only for what is held; ``concat``.
        inputs, output: names of vectors.
        sizes: of the inputs.
        size: of the output.
        matrix: (D, F), or (F,) a diagonal, of ``linear``.
        bias: (D,) of ``linear``.
        index: (D,) of ``pick``.
        signs: 1 or -1 for each input of ``sum``.
        divides: ``scale`` divides.
        node: of ``gate`` and ``function``.
        constants: for each input of ``node`` its constant, a scalar or (F,); None for the next of ``inputs``.
    """

    rule: Rule
    inputs: tuple[str, ...]
    output: str
    sizes: tuple[int, ...]
    size: int
    matrix: Array | None = None
    bias: Array | None = None
    index: npt.NDArray[Any] | None = None
    signs: tuple[int, ...] = ()
    divides: bool = False
    node: onnx.NodeProto | None = None
    constants: tuple[Array | None, ...] = ()

    @property
    def is_linear(self) -> bool:
        """Whether nothing is held."""
        return self.rule not in HELD

    @property
    def carried(self) -> tuple[str, ...]:
        """The inputs that what each place adds flows through; the others are held."""
        return self.inputs[:1] if self.rule in ("scale", "gate") else self.inputs


@dataclass(frozen=True, eq=False)
class Gated:
    """The steps from the vector ``start`` (N, F) to the vector ``output`` (N, D).

    Attributes:
        start, output: names of vectors.
        steps: in an order in which they can be computed.
        dimension: D.
        opset: of the functions' nodes.
        start_bias: (F,), what of ``start`` no place owns; None where that depends on the image.
        bias: (D,), what no place owns, where that is the same for all images; None where it is not.
    """

    start: str
    output: str
    steps: tuple[Step, ...]
    dimension: int
    opset: int
    start_bias: Array | None
    bias: Array | None

    @property
    def is_affine(self) -> bool:
        """Whether nothing is held: the same linear map for each image."""
        return all(step.is_linear for step in self.steps)

    @property
    def carriers(self) -> frozenset[str]:
        """The vectors on the way of what each place adds."""
        wanted = {self.output}
        for step in reversed(self.steps):
            if step.output in wanted:
                wanted.update(step.carried)
        return frozenset(wanted)
