"""The device that is asked for is the device that is taken."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, DeviceError
from .cache import cache_folder, create_cached
from .ort import CPU, CUDA, import_runtime


def parse_device(device: str) -> tuple[str, int]:
    """The kind of a device and its number.

    Raises:
        DeviceError: it is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    """
    kind, colon, index = device.partition(":")
    numbered = kind == "cuda" and index.isascii() and index.isdigit() and len(index) < 4
    if kind not in ("auto", "cpu", "cuda") or (colon and not numbered):
        raise DeviceError(f"device is {device[:40]!r}, must be auto, cpu, cuda or cuda:N")
    return kind, int(index or 0)


def open_on_device(
    path: Path,
    options: Any,
    create: Callable[[list[Any]], Any],
    *,
    kind: str,
    index: int,
    tf32: bool,
    cache: bool,
) -> tuple[Any, str]:
    """Create the ``InferenceSession`` of an artifact, by way of the cache on the CPU.

    ONNX Runtime itself only warns where CUDA is unavailable (microsoft/onnxruntime#23372).

    Args:
        path: the artifact.
        options: ``SessionOptions``.
        create: makes a session of the file with these options, by the providers that it is given.
        kind, index: as ``parse_device`` gives them.
        tf32, cache: as for ``open_session``.

    Returns:
        The session, and the device taken: ``cpu`` or ``cuda:N``.

    Raises:
        DeviceError: CUDA is asked for and unavailable.
        ArtifactError: what ``create`` raises.
    """
    cuda_built = CUDA in import_runtime().get_available_providers()
    if kind == "cuda" and not cuda_built:
        raise DeviceError(
            "device 'cuda': this ONNX Runtime is built without CUDA; run: "
            "pip uninstall -y onnxruntime, then pip install 'simmap[gpu]'"
        )
    if kind == "cpu" or not cuda_built:
        folder = cache_folder() if cache else None
        inference = None if folder is None else create_cached(path, options, folder, create)
        return inference or create([CPU]), "cpu"
    inference, reason = _open_cuda(create, cuda_settings(index, tf32))
    if inference is not None:
        return inference, f"cuda:{index}"
    # A broken model fails on the CPU as well, and says so.
    inference = create([CPU])
    if kind == "cuda":
        raise DeviceError(
            f"device 'cuda:{index}' cannot be used: {reason}; check the driver with nvidia-smi, and the "
            "CUDA and cuDNN libraries with: pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
    return inference, "cpu"


def _open_cuda(create: Callable[[list[Any]], Any], settings: dict[str, str]) -> tuple[Any, str]:
    """A session that really got CUDA, or None and why not."""
    # What is printed of missing libraries would spoil a report on stdout; its first line is part of ours.
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            import_runtime().preload_dlls()
        inference = create([(CUDA, settings), CPU])
        if inference.get_providers()[0] == CUDA:
            return inference, ""
    except ArtifactError as error:
        return None, str(error)
    missing = printed.getvalue().splitlines()
    return None, missing[0].partition(":")[0] if missing else "the session fell back to the CPU"


def cuda_settings(index: int, tf32: bool) -> dict[str, str]:
    """Options of the CUDA provider."""
    # cuDNN's exhaustive search stalls on every new input shape.
    return {
        "device_id": str(index),
        "use_tf32": str(int(tf32)),
        "cudnn_conv_algo_search": "HEURISTIC",
    }
