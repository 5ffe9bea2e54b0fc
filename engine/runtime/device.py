"""The device that was asked for is the device that is taken."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, DeviceError
from .cache import cache_folder, create_cached
from .ort import CPU, CUDA, create_session

if TYPE_CHECKING:
    pass


def parse_device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise DeviceError(f"device is {device!r}, must be auto, cpu, cuda or cuda:N")
    return kind, int(index or 0)


def open_on_device(
    ort: Any, path: Path, options: Any, kind: str, index: int, tf32: bool, cache: bool
) -> tuple[Any, str]:
    """Create the session; ORT itself only warns when CUDA is not to be had (onnxruntime#23372)."""
    cuda_built = CUDA in ort.get_available_providers()
    if kind == "cuda" and not cuda_built:
        raise DeviceError(
            "device 'cuda': this ONNX Runtime is built without CUDA; run: "
            "pip uninstall -y onnxruntime, then pip install 'simmap[gpu]'"
        )
    if kind == "cpu" or not cuda_built:
        folder = cache_folder() if cache else None
        run = None if folder is None else create_cached(ort, path, options, folder)
        return run or create_session(ort, path, options, [CPU]), "cpu"
    run, reason = _open_cuda(ort, path, options, cuda_settings(index, tf32))
    if run is not None:
        return run, f"cuda:{index}"
    # A broken model fails on the CPU as well, and says so.
    run = create_session(ort, path, options, [CPU])
    if kind == "cuda":
        raise DeviceError(
            f"device 'cuda:{index}' cannot be used: {reason}; check the driver with nvidia-smi, and the "
            "CUDA and cuDNN libraries with: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return run, "cpu"


def _open_cuda(ort: Any, path: Path, options: Any, settings: dict[str, str]) -> tuple[Any, str]:
    """A session that really got CUDA, or None and why not."""
    told = io.StringIO()
    # What ONNX Runtime prints and logs of missing libraries would spoil a report on stdout or an error on
    # stderr; the first line of it is part of ours.
    ort.set_default_logger_severity(4)
    try:
        with redirect_stdout(told):
            ort.preload_dlls()
        run = create_session(ort, path, options, [(CUDA, settings), CPU])
        if run.get_providers()[0] == CUDA:
            return run, ""
    except ArtifactError as error:
        return None, str(error)
    finally:
        ort.set_default_logger_severity(2)
    missing = told.getvalue().splitlines()
    return None, missing[0].partition(":")[0] if missing else "the session fell back to the CPU"


def cuda_settings(index: int, tf32: bool) -> dict[str, str]:
    # cuDNN's exhaustive search stalls on every new input shape.
    return {
        "device_id": str(index),
        "use_tf32": str(int(tf32)),
        "cudnn_conv_algo_search": "HEURISTIC",
    }
