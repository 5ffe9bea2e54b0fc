"""ONNX Runtime itself: importing it, opening a graph, its errors in one line."""

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, DeviceError

if TYPE_CHECKING:
    pass

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


def create_session(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ORT's exceptions share no public base class
        raise ArtifactError(
            f"{path}: is not an ONNX model that this ONNX Runtime can open ({one_line(error)})"
        ) from error


def one_line(error: Exception) -> str:
    """ORT's message without its tag, on one line of bearable length."""
    text = " ".join(str(error).split())
    text = text.rpartition("] : ")[2] if text.startswith("[ONNXRuntimeError]") else text
    return text if len(text) <= 200 else text[:197] + "..."
