"""ONNX Runtime itself: importing it, opening a graph, its errors in one line."""

import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, DeviceError, printable

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
_FATAL = 4  # a level of its loggers; what goes wrong is raised, in one line


@cache
def import_runtime() -> Any:
    """Import onnxruntime and silence its logger, whose lines would stand beside an error or a report.

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
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def session_options(threads: int, *, optimise: bool = True) -> Any:
    """``SessionOptions`` that are quiet.

    Args:
        threads: of one run on the CPU; 0 leaves the choice to ONNX Runtime.
        optimise: rewrite the graph to run faster; without it the graph runs as the file is written.
    """
    ort = import_runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin while they wait cost a busy machine more than they save an idle one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def create_session(model: Path | bytes, options: Any, providers: list[Any]) -> Any:
    """An ``InferenceSession`` of a file, or of a model in memory.

    Raises:
        ArtifactError: it is no model, or one that this ONNX Runtime cannot run.
    """
    try:
        given = model if isinstance(model, bytes) else str(model)
        # Its own way of trying again on the CPU prints a banner on stdout.
        return import_runtime().InferenceSession(given, options, providers=providers, enable_fallback=0)
    except Exception as error:  # ORT's exceptions share no public base class
        name = "the model" if isinstance(model, bytes) else printable(str(model))
        raise ArtifactError(
            f"{name}: is not an ONNX model that this ONNX Runtime can open ({one_line(error)})"
        ) from error


def cpu_session(model: Path | bytes, *, threads: int = 0, optimise: bool = True) -> Any:
    """A quiet ``InferenceSession`` on the CPU.

    Args:
        model: a file, or the bytes of a model.
        threads, optimise: as for ``session_options``.

    Raises:
        ArtifactError: as for ``create_session``.
    """
    return create_session(model, session_options(threads, optimise=optimise), [CPU])


def one_line(error: Exception) -> str:
    """An error of ONNX Runtime without its codes, on one line of at most 200 characters."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    text = re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )|^Error in execution: ", "", text)
    return text if len(text) <= 200 else text[:197] + "..."
