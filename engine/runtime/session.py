"""An open artifact whose contract has been held against its graph."""

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..contract import MAPS_KEY, Contract
from ..errors import ArtifactError
from ..types import Array, Pixels
from .cpus import usable_cpus
from .cuda import Lanes
from .device import cuda_settings, open_on_device, parse_device
from .ort import CPU, CUDA, import_runtime, one_line

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Session:
    """An open artifact.

    Attributes:
        run: ONNX Runtime's session.
        contract: what the artifact says of itself, checked against the graph's own signature.
        device: the device really taken, ``cpu`` or ``cuda:N``.
        path: the artifact's file.
        lanes: how CUDA runs it; None on the CPU.
    """

    run: "onnxruntime.InferenceSession"
    contract: Contract
    device: str
    path: Path
    lanes: Lanes | None = None

    def infer(self, images: Sequence[Pixels], outputs: Sequence[str]) -> list[Array]:
        """Run the network.

        Args:
            images: N arrays (height, width, 3) of one size.
            outputs: names of outputs; on CUDA the others are not copied from the device.

        Returns:
            The outputs (N, ...) in their order.

        Raises:
            ArtifactError: the network failed.
        """
        try:
            if self.lanes is not None:
                return self.lanes.infer(images, outputs)
            feed = {self.run.get_inputs()[0].name: np.stack(images)}
            return cast(list[Array], self.run.run(list(outputs), feed))
        except Exception as error:  # ORT's exceptions share no public base class
            raise ArtifactError(f"{self.path}: the network failed: {one_line(error)}") from error

    def infer_maps(self, images: Sequence[Pixels], directions: Array) -> tuple[Array, Array] | None:
        """Embeddings (N, D) and ``parts . directions`` (N, H, W), the feature map staying where it is.

        Args:
            images: N arrays (height, width, 3) of one size.
            directions: (N, D).

        Returns:
            None on the CPU, where nothing is gained, and for an artifact without a graph of maps.

        Raises:
            ArtifactError: the network failed.
        """
        if self.lanes is None or self.lanes.maps is None:
            return None
        try:
            return self.lanes.infer_maps(images, *self.contract.explained, directions)
        except Exception as error:
            raise ArtifactError(f"{self.path}: the network failed: {one_line(error)}") from error


def open_session(
    path: str | Path,
    *,
    device: str = "auto",
    threads: int = 0,
    tf32: bool = False,
    cache: bool = False,
) -> Session:
    """Open an artifact on a device and check that its contract tells the truth.

    Args:
        path: the ``.onnx`` file.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it can be had, else the CPU.
        threads: of one run on the CPU; 0 takes every CPU that this process may use.
        tf32: let CUDA round float32 products to TF32: faster, and maps differ in the third digit.
        cache: on the CPU, keep the optimised graph for the next time, and take it where it is kept.

    Raises:
        DeviceError: the device is not to be had; the message says what is missing.
        ArtifactError: the file is missing, not ONNX, not an artifact, or its contract does not hold.
    """
    path = Path(path)
    kind, index = parse_device(device)
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder; give the .onnx file in it")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such model file")
    ort = import_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus()
    # Threads that spin while they wait cost a busy machine more than they save an idle one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what goes wrong is raised below, in one line
    run, taken = open_on_device(ort, path, options, kind, index, tf32, cache)
    meta = run.get_modelmeta().custom_metadata_map
    contract = Contract.from_metadata(meta, name=str(path))
    _check_signature(run, contract, path)
    if taken == "cpu":
        return Session(run, contract, taken, path)
    maps = _open_maps(ort, path, options, cuda_settings(index, tf32), meta.get(MAPS_KEY))
    return Session(run, contract, taken, path, Lanes(run, maps, "cuda", index))


def _open_maps(ort: Any, path: Path, options: Any, settings: dict[str, str], graph: str | None) -> Any:
    """The artifact's graph of maps on the same device; None where there is none."""
    if graph is None:
        return None
    try:
        return ort.InferenceSession(b64decode(graph), options, providers=[(CUDA, settings), CPU])
    except Exception as error:
        raise ArtifactError(
            f"{path}: its {MAPS_KEY} is no graph ({one_line(error)}); export it again"
        ) from error


def _check_signature(run: Any, contract: Contract, path: Path) -> None:
    """Hold the contract against the graph's own inputs and outputs."""
    inputs = run.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(uint8)" or len(inputs[0].shape) != 4:
        raise ArtifactError(
            f"{path}: its input must be one uint8 tensor (N, height, width, 3), is "
            f"{', '.join(f'{i.name} {i.type} {i.shape}' for i in inputs)}; export it again"
        )
    spec = contract.input
    size: tuple[int | None, ...] = (None, None) if spec.dynamic else (spec.height, spec.width)
    cells = (None, None) if spec.dynamic else (contract.grid_height, contract.grid_width)
    _check_shape(path, "input", inputs[0].shape, (None, *size, 3))
    expected: dict[str, tuple[int | None, ...]] = {
        "conv": (None, contract.channels, *cells),
        "pooled": (None, None),
        "embedding": (None, contract.dimension),
        "parts": (None, *cells, contract.dimension),
    }
    if not contract.has_parts:
        expected["pooled"] = (None, contract.dimension)
    outputs = {output.name: output for output in run.get_outputs()}
    for name in contract.outputs:
        if name not in outputs:
            raise ArtifactError(f"{path}: lacks the output {name!r} that its contract names; export it again")
        if outputs[name].type != "tensor(float)":
            raise ArtifactError(f"{path}: its output {name!r} is {outputs[name].type}, must be float32")
        _check_shape(path, f"output {name!r}", outputs[name].shape, expected[name])


def _check_shape(path: Path, what: str, actual: list[Any], expected: tuple[int | None, ...]) -> None:
    """Compare where both sides are numbers; a symbolic axis may be anything."""
    fits = len(actual) == len(expected) and all(
        not (isinstance(a, int) and e is not None) or a == e for a, e in zip(actual, expected, strict=True)
    )
    if not fits:
        told = tuple("any" if e is None else e for e in expected)
        raise ArtifactError(
            f"{path}: its {what} has shape {tuple(actual)}, but its contract says {told}; export it again"
        )
