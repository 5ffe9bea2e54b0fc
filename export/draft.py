"""An artifact that is complete but not yet proven."""

from dataclasses import dataclass, replace

import onnx

from simmap.engine.contract import InputSpec, Precision

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
    """

    model: onnx.ModelProto
    maps: onnx.ModelProto
    exposure: Exposure
    spec: InputSpec
    precision: Precision

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
