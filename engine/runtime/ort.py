"""ONNX Runtime itself: importing it, opening a graph, its errors in one line."""

from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, DeviceError

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


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


def create_session(ort: Any, model: Path | bytes, options: Any, providers: list[Any]) -> Any:
    """Open a graph, from its file or from its bytes.

    Raises:
        ArtifactError: ONNX Runtime cannot open it.
    """
    try:
        source = model if isinstance(model, bytes) else str(model)
        return ort.InferenceSession(source, options, providers=providers)
    except Exception as error:  # ORT's exceptions share no public base class
        name = "the graph" if isinstance(model, bytes) else model
        raise ArtifactError(
            f"{name}: is not an ONNX model that this ONNX Runtime can open ({one_line(error)})"
        ) from error


def cpu_session(model: Path | bytes, *, threads: int = 0, optimise: bool = True) -> Any:
    """Open a graph on the CPU, without a contract and without a cache.

    Args:
        model: the file, or its bytes.
        threads: of one run; 0 leaves the number to ONNX Runtime.
        optimise: false runs every node as the file has it: the reference.

    Raises:
        ArtifactError: ONNX Runtime cannot open it.
    """
    ort = import_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised, in one line
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return create_session(ort, model, options, [CPU])


def one_line(error: Exception) -> str:
    """ORT's message without its tag, on one line of bearable length."""
    text = " ".join(str(error).split())
    text = text.rpartition("] : ")[2] if text.startswith("[ONNXRuntimeError]") else text
    return text if len(text) <= 200 else text[:197] + "..."
