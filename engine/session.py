"""ONNX Runtime sessions: the device that was asked for is the device that is taken."""

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simmap.engine.artifact import Contract
from simmap.engine.errors import ArtifactError, DeviceError

if TYPE_CHECKING:
    import onnxruntime

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Session:
    """An open artifact.

    Attributes:
        run: ONNX Runtime's session.
        contract: what the artifact says of itself, checked against the graph's own signature.
        device: the device really taken, ``cpu`` or ``cuda:N``.
        path: the artifact's file.
    """

    run: "onnxruntime.InferenceSession"
    contract: Contract
    device: str
    path: Path


def import_runtime() -> Any:
    """Import onnxruntime, or say how to install it.

    Raises:
        DeviceError: no runtime is installed, or both are, which overwrite each other's files
            (microsoft/onnxruntime#26996).
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise DeviceError(
            "onnxruntime and onnxruntime-gpu are both installed and break each other; run: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'simmap[cpu]' or 'simmap[gpu]'"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceError(
            f"ONNX Runtime cannot be imported ({error}); run: pip install 'simmap[cpu]', "
            "or on a CUDA machine: pip install 'simmap[gpu]'"
        ) from error
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def open_session(path: str | Path, *, device: str = "auto", threads: int = 0, tf32: bool = False) -> Session:
    """Open an artifact on a device and check that its contract tells the truth.

    Args:
        path: the ``.onnx`` file.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: CUDA where it can be had, else the CPU.
        threads: of one run on the CPU; 0 takes every CPU that this process may use.
        tf32: let CUDA round float32 products to TF32: faster, and maps differ in the third digit.

    Raises:
        DeviceError: the device is not to be had; the message says what is missing.
        ArtifactError: the file is missing, not ONNX, not an artifact, or its contract does not hold.
    """
    path = Path(path)
    kind, index = _parse_device(device)
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder; give the .onnx file in it")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such model file")
    ort = import_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(_affinity())
    options.log_severity_level = 4  # what goes wrong is raised below, in one line
    run, taken = _open(ort, path, options, kind, index, tf32)
    meta = run.get_modelmeta().custom_metadata_map
    contract = Contract.from_metadata(meta, name=str(path))
    _check_signature(run, contract, path)
    return Session(run, contract, taken, path)


def _affinity() -> set[int]:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _parse_device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise DeviceError(f"device is {device!r}, must be auto, cpu, cuda or cuda:N")
    return kind, int(index or 0)


def _open(ort: Any, path: Path, options: Any, kind: str, index: int, tf32: bool) -> tuple[Any, str]:
    """Create the session; ORT itself only warns when CUDA is not to be had (onnxruntime#23372)."""
    cuda_built = CUDA in ort.get_available_providers()
    if kind == "cuda" and not cuda_built:
        raise DeviceError(
            "device 'cuda': this ONNX Runtime is built without CUDA; run: "
            "pip uninstall -y onnxruntime, then pip install 'simmap[gpu]'"
        )
    if kind == "cpu" or not cuda_built:
        return _create(ort, path, options, [CPU]), "cpu"
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    settings = {
        "device_id": str(index),
        "use_tf32": str(int(tf32)),
        # The exhaustive search stalls on every new input shape.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    reason = "the session fell back to the CPU"
    try:
        run = _create(ort, path, options, [(CUDA, settings), CPU])
        if run.get_providers()[0] == CUDA:
            return run, f"cuda:{index}"
    except ArtifactError as error:
        # A broken model fails on the CPU as well, and says so there.
        reason = str(error)
        run = _create(ort, path, options, [CPU])
    if kind == "cuda":
        raise DeviceError(
            f"device 'cuda:{index}' cannot be used: {reason}; check the driver with nvidia-smi, and the "
            "CUDA and cuDNN libraries with: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return run, "cpu"


def _create(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ORT's exceptions share no public base class
        raise ArtifactError(
            f"{path}: is not an ONNX model that this ONNX Runtime can open ({_one_line(error)})"
        ) from error


def _one_line(error: Exception) -> str:
    """ORT's message without its tag, on one line of bearable length."""
    text = " ".join(str(error).split())
    text = text.rpartition("] : ")[2] if text.startswith("[ONNXRuntimeError]") else text
    return text if len(text) <= 200 else text[:197] + "..."


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
    if contract.head == "none":
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
