"""An artifact that is complete but not yet proven."""

from dataclasses import dataclass, replace

import numpy as np
import onnx

from simmap.engine.contract import InputSpec, Precision
from simmap.engine.types import Array

from .held import as_stored
from .surgery.exposure import Exposure


@dataclass(frozen=True)
class Draft:
    """What the gate proves before it is written.

    Attributes:
        model: the artifact's graph, without metadata.
        maps: its graph of maps (see ``surgery.maps``).
        exposure: where the feature map lies in the source, and what follows it, with the weights of a gated
            tail as ``model`` stores them.
        spec: the input.
        precision: of ``model``.
        reference: (H, W, D) float32, what ``parts`` are counted from; None for zero.
    """

    model: onnx.ModelProto
    maps: onnx.ModelProto
    exposure: Exposure
    spec: InputSpec
    precision: Precision
    reference: Array | None = None

    @property
    def bias(self) -> Array | None:
        """The constant rest (D,), float64: the head's own and what the reference takes from the parts.

        None where the rest depends on the image, which then holds both.
        """
        bias = self.exposure.bias
        if self.exposure.rest == "image" or self.reference is None or not self.reference.any():
            return bias
        total = self.reference.sum(axis=(0, 1), dtype=np.float64)
        return np.asarray(total if bias is None else total + bias)

    def stored(self, model: onnx.ModelProto, precision: Precision) -> "Draft":
        """The same artifact with its graph in another precision."""
        exposure = self.exposure
        if exposure.gated is not None:
            exposure = as_stored(exposure, exposure.gated, model)
        return replace(self, model=model, exposure=exposure, precision=precision)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) to prove it at: a dynamic artifact at a second one too."""
        usual = (self.spec.height, self.spec.width)
        # Steps of 32 suit every common stride.
        return (usual, (usual[0] + 32, usual[1] + 64)) if self.spec.dynamic else (usual,)
