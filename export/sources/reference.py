"""What a source itself computes."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from simmap.engine.contract import InputSpec
from simmap.engine.types import Array

from ..surgery.exposure import Exposure
from ..surgery.graph import Graph, plain_session

# From a normalised float32 batch (N, 3, height, width) and the artifact's outputs to pairs of what the
# artifact and its source give, by name.
Reference = Callable[[Array, dict[str, Array]], dict[str, tuple[Array, Array]]]


def onnx_reference(graph: Graph, exposure: Exposure) -> Reference:
    """The source file itself, unoptimised, one image at a time (its batch may be fixed at 1)."""
    wanted = {"conv": exposure.conv}
    if exposure.pooled is not None:
        wanted["pooled"] = exposure.pooled
    has_tail = exposure.tail is not None or exposure.gated is not None
    if has_tail and exposure.embedding is not None:
        wanted["embedding"] = exposure.embedding
    usual = _Outputs(graph, wanted.values())
    # A pool with a window of fixed size means something else at another size: there, conv alone counts.
    elsewhere = _Outputs(graph, [exposure.conv])

    def run(batch: Array, ours: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
        is_usual = batch.shape[2:] == graph.size
        values = (usual if is_usual else elsewhere).run(batch)
        result = {}
        for name, tensor in wanted.items():
            if tensor not in values:
                continue
            value = np.asarray(values[tensor], dtype=np.float32)
            if name == "conv":
                value = channels_first(value, exposure)
                if value.ndim == 3 and value.size == ours["conv"].size:
                    value = value.reshape(ours["conv"].shape)
            else:
                value = value.reshape(len(batch), -1)
                value = value / np.float32(exposure.pooled_scale if name == "pooled" else 1)
            result[name] = (ours[name], value)
        return result

    return run


class _Outputs:
    """Some tensors of a source, and no more of it than these need."""

    def __init__(self, graph: Graph, tensors: Iterable[str]) -> None:
        self.graph, self.tensors = graph, sorted(set(tensors))
        self._session: Any | None = None

    def run(self, batch: Array) -> dict[str, Array]:
        """The tensors for a normalised (N, 3, height, width) batch."""
        graph = self.graph
        session = self._session = self._session or self._open()
        dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.input_type)
        feed = batch.transpose(0, 2, 3, 1) if graph.channels_last else batch
        rows = [session.run(self.tensors, {graph.input.name: image[None].astype(dtype)}) for image in feed]
        return {t: np.concatenate([r[i] for r in rows]) for i, t in enumerate(self.tensors)}

    def _open(self) -> Any:
        probe = onnx.ModelProto()
        probe.CopyFrom(self.graph.model)
        nodes, needed = self.graph.upstream(self.tensors)
        # Old files list their weights among the inputs.
        for entries in (probe.graph.initializer, probe.graph.input):
            kept = [e for e in entries if e.name in needed or e.name == self.graph.input.name]
            del entries[:]
            entries.extend(kept)
        del probe.graph.output[:], probe.graph.node[:]
        probe.graph.output.extend(onnx.ValueInfoProto(name=t) for t in self.tensors)
        probe.graph.node.extend(nodes)
        return plain_session(probe)


def channels_first(value: Array, exposure: Exposure) -> Array:
    """A feature map in the source's layout as (N, C, ...)."""
    if exposure.layout == "NHWC":
        return value.transpose(0, 3, 1, 2)
    return value.transpose(0, 2, 1) if exposure.layout == "NLC" else value


def normalise(batch: npt.NDArray[np.uint8], spec: InputSpec) -> Array:
    """(N, height, width, 3) uint8 to the normalised (N, 3, height, width) float32 of training."""
    mean, std = np.array(spec.mean, dtype=np.float32), np.array(spec.std, dtype=np.float32)
    return as_channels_first((batch.astype(np.float32) / 255 - mean) / std)


def as_channels_first(batch: npt.NDArray[Any]) -> Array:
    """(N, height, width, 3) to (N, 3, height, width) float32."""
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype=np.float32)
