"""The steps of a tail as they are found, and what is known of the vector that each gives."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simmap.engine.types import Array

from .steps import HELD, Gated, Rule, Step

START = "start"


@dataclass(frozen=True, eq=False)
class Fact:
    """What is known of a vector.

    Attributes:
        size: its numbers.
        is_carried: what places add up to; otherwise it is only ever held.
        functions: the steps behind it that are not linear, by number.
        rest: (size,), what no place owns, where it is the same for all images.
    """

    size: int
    is_carried: bool
    functions: frozenset[int]
    rest: Array | None


class Tape:
    """Steps in an order in which they can be computed.

    Each method writes one down and returns the name of its vector.

    Attributes:
        facts: of each vector, by name.
    """

    def __init__(self, size: int, bias: Array | None) -> None:
        """Begin with the vector ``START``: its size, and what of it no place owns."""
        self.facts = {START: Fact(size, True, frozenset(), bias)}
        self._bias = bias
        self._steps: list[Step] = []

    def up_to(self, output: str, opset: int) -> Gated:
        """The steps that a vector needs."""
        wanted, kept = {output}, []
        for step in reversed(self._steps):
            if step.output in wanted:
                wanted.update(step.inputs)
                kept.append(step)
        fact = self.facts[output]
        return Gated(START, output, tuple(kept[::-1]), fact.size, opset, self._bias, fact.rest)

    def linear(self, vector: str, matrix: Array, bias: Array) -> str:
        """``matrix x + bias``; a matrix (F,) is a diagonal."""
        rest = self.facts[vector].rest
        if rest is not None:
            rest = (matrix * rest if matrix.ndim == 1 else matrix @ rest) + bias
        return self.step("linear", (vector,), len(matrix), rest=rest, matrix=matrix, bias=bias)

    def concat(self, vectors: tuple[str, ...]) -> str:
        """One after the other."""
        facts = [self.facts[v] for v in vectors]
        rests = [f.rest for f in facts if f.rest is not None]
        rest = np.concatenate(rests) if len(rests) == len(facts) else None
        return self.step("concat", vectors, sum(f.size for f in facts), rest=rest)

    def pick(self, vector: str, index: npt.NDArray[Any]) -> str:
        """Its numbers by index."""
        rest = self.facts[vector].rest
        rest = None if rest is None else rest[index]
        return self.step("pick", (vector,), index.size, rest=rest, index=index)

    def sum(self, first: str, second: str, size: int, *, sign: int) -> str:
        """``first + sign second``, of which one may be a single number."""
        one, other = self.facts[first].rest, self.facts[second].rest
        rest = None
        if one is not None and other is not None:
            rest = np.broadcast_to(one + sign * other, (size,))
        return self.step("sum", (first, second), size, rest=rest, signs=(1, sign))

    def scale(self, vector: str, gate: str, size: int, *, divides: bool) -> str:
        """``vector`` times or over ``gate``, which is held."""
        fact = self.facts[vector]
        rest = np.zeros(size) if fact.rest is not None and not fact.rest.any() else None
        return self.step(
            "scale", (vector, gate), size, rest=rest, divides=divides, is_carried=fact.is_carried
        )

    def mean(self, vector: str) -> str:
        """Of all numbers."""
        rest = self.facts[vector].rest
        return self.step("mean", (vector,), 1, rest=None if rest is None else rest.mean(keepdims=True))

    def norm(self, vector: str) -> str:
        """The L2 norm."""
        return self.step("norm", (vector,), 1, is_carried=False)

    def step(
        self,
        rule: Rule,
        inputs: tuple[str, ...],
        size: int,
        *,
        rest: Array | None = None,
        is_carried: bool | None = None,
        **details: Any,
    ) -> str:
        """Any step, with its details (see ``Step``).

        Args:
            is_carried: by default where all its inputs are.
        """
        facts = [self.facts[i] for i in inputs]
        own = {len(self._steps)} if rule in HELD else set()
        functions = frozenset(own).union(*(f.functions for f in facts))
        carried = all(f.is_carried for f in facts) if is_carried is None else is_carried
        output = f"step{len(self._steps)}"
        self.facts[output] = Fact(size, carried, functions, rest if carried else None)
        self._steps.append(Step(rule, inputs, output, tuple(f.size for f in facts), size, **details))
        return output
