"""ONNX Runtime sessions: the device that was asked for is the device that is taken.

On the CPU the graph that ONNX Runtime has optimised is kept in a cache, which halves the next opening and
its peak memory. The cache lies in ``$SIMMAP_CACHE``, else ``$XDG_CACHE_HOME/simmap``, else
``~/.cache/simmap``; ``SIMMAP_CACHE=`` (empty) or ``SIMMAP_CACHE=0`` switches it off.
"""

import hashlib
import io
import math
import os
import platform
import tempfile
import time
import zlib
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from simmap.engine.artifact import CONTRACT_KEY, MAPS_KEY, Contract
from simmap.engine.cuda import Array, Lanes, Pixels
from simmap.engine.errors import ArtifactError, DeviceError

if TYPE_CHECKING:
    import onnxruntime

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

CACHE_BYTES = 2 << 30  # of all cached graphs; the one that was used longest ago goes first
_GRAPH, _PART = ".simmap-graph", ".simmap-part"


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
            raise ArtifactError(f"{self.path}: the network failed: {_one_line(error)}") from error

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
            raise ArtifactError(f"{self.path}: the network failed: {_one_line(error)}") from error


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
    kind, index = _parse_device(device)
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
    run, taken = _open(ort, path, options, kind, index, tf32, cache)
    meta = run.get_modelmeta().custom_metadata_map
    contract = Contract.from_metadata(meta, name=str(path))
    _check_signature(run, contract, path)
    if taken == "cpu":
        return Session(run, contract, taken, path)
    maps = _open_maps(ort, path, options, _cuda_settings(index, tf32), meta.get(MAPS_KEY))
    return Session(run, contract, taken, path, Lanes(run, maps, "cuda", index))


def usable_cpus(process: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs that this process may use: its affinity, and what its control groups (Linux) allow in time.

    Args:
        process: the file that names the groups of the process.
        mount: where the groups lie, of version 1 or 2.

    Returns:
        A quota of 1.5 CPUs counts as 2, so that none of it lies idle.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        groups = process.read_text().splitlines()
    except OSError:  # not Linux
        return count
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / controllers
        folder = root / path.strip("/")
        # Any group above may set a limit. A container sees its own at the root, under whatever name.
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                count = min(count, _quota(place))
    return max(1, count)


def _quota(group: Path) -> int:
    """CPUs that a control group allows; very many where it sets no limit."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:  # -1 and "max": no limit
            return math.ceil(int(quota) / int(period))
    return 1 << 30


def _parse_device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise DeviceError(f"device is {device!r}, must be auto, cpu, cuda or cuda:N")
    return kind, int(index or 0)


def _open(
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
        run = None if folder is None else _create_cached(ort, path, options, folder)
        return run or _create(ort, path, options, [CPU]), "cpu"
    run, reason = _open_cuda(ort, path, options, _cuda_settings(index, tf32))
    if run is not None:
        return run, f"cuda:{index}"
    # A broken model fails on the CPU as well, and says so.
    run = _create(ort, path, options, [CPU])
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
        run = _create(ort, path, options, [(CUDA, settings), CPU])
        if run.get_providers()[0] == CUDA:
            return run, ""
    except ArtifactError as error:
        return None, str(error)
    finally:
        ort.set_default_logger_severity(2)
    missing = told.getvalue().splitlines()
    return None, missing[0].partition(":")[0] if missing else "the session fell back to the CPU"


def _cuda_settings(index: int, tf32: bool) -> dict[str, str]:
    # cuDNN's exhaustive search stalls on every new input shape.
    return {
        "device_id": str(index),
        "use_tf32": str(int(tf32)),
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def _open_maps(ort: Any, path: Path, options: Any, settings: dict[str, str], graph: str | None) -> Any:
    """The artifact's graph of maps on the same device; None where there is none."""
    if graph is None:
        return None
    try:
        return ort.InferenceSession(b64decode(graph), options, providers=[(CUDA, settings), CPU])
    except Exception as error:
        raise ArtifactError(
            f"{path}: its {MAPS_KEY} is no graph ({_one_line(error)}); export it again"
        ) from error


def _create(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ORT's exceptions share no public base class
        raise ArtifactError(
            f"{path}: is not an ONNX model that this ONNX Runtime can open ({_one_line(error)})"
        ) from error


# --- the cache of optimised graphs --------------------------------------------------------------


def cache_folder() -> Path | None:
    """Where optimised graphs are kept, or None where the cache is off."""
    chosen = os.environ.get("SIMMAP_CACHE")
    if chosen is not None:
        return None if chosen in ("", "0") else Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the standard says to ignore others
        return Path(base) / "simmap"
    with suppress(RuntimeError):  # a user without a home
        return Path.home() / ".cache" / "simmap"
    return None


def _create_cached(ort: Any, path: Path, options: Any, folder: Path) -> Any:
    """A session by way of the cache; None where the cache is of no use, for whatever reason."""
    try:
        if path.stat().st_size > CACHE_BYTES // 4:  # float16 weights are kept as float32
            return None
        key = _cache_key(ort, path)
        kept = folder / f"{key}{_GRAPH}"
        if _is_intact(kept, key):
            # As it is stored: no pass over the graph is needed.
            level = options.graph_optimization_level
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            with suppress(ArtifactError):
                run = _create(ort, kept, options, [CPU])
                with suppress(OSError):
                    os.utime(kept)  # the date of its last use
                return run
            options.graph_optimization_level = level
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _part(folder) as part:
            options.optimized_model_filepath = str(part)
            run = _create(ort, path, options, [CPU])
            with suppress(OSError):
                # Not what will be refused, nor a file that was replaced while it was read.
                if CONTRACT_KEY in run.get_modelmeta().custom_metadata_map and _cache_key(ort, path) == key:
                    _seal(part, key)
                    part.replace(kept)
                    _prune(folder)
            return run
    except (OSError, ArtifactError):  # not writable, full, or changed by others meanwhile
        return None
    finally:
        options.optimized_model_filepath = ""


def _cache_key(ort: Any, path: Path) -> str:
    """Of all that the optimised graph depends on.

    The file counts by its name, times, size and inode: hashing its content would cost about half of what the
    cache saves. The time of its last change (``st_ctime``) cannot be set, so a file that is written
    over, even with its old date, has another key.
    """
    file = path.resolve().stat()
    parts = (
        path.resolve(),
        *(file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns),
        *(ort.__version__, ort.get_build_info(), platform.machine(), _cpu()),
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def _cpu() -> str:
    """The kind of CPU, whose instructions decide how ONNX Runtime lays out weights."""
    try:
        with Path("/proc/cpuinfo").open() as stream:
            first = stream.read(8192).split("\n\n")[0]
    except OSError:
        return platform.processor()
    told = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")
    return "\n".join(line for line in first.splitlines() if line.startswith(told))


# Field 2047 of the model, a fixed32 that protobuf's readers do not know and so pass over.
_SEAL = b"\xfd\x7f"


def _seal(part: Path, key: str) -> None:
    """Append a checksum: a damaged file, or one under another's name, could pass for a network."""
    value = _checksum(part, key, part.stat().st_size)
    with part.open("ab") as stream:
        stream.write(_SEAL + value.to_bytes(4, "little"))


def _is_intact(kept: Path, key: str) -> bool:
    """Whether a graph is there and as it was sealed."""
    try:
        size = kept.stat().st_size - len(_SEAL) - 4
        if size < 0:
            return False
        with kept.open("rb") as stream:
            stream.seek(size)
            return stream.read() == _SEAL + _checksum(kept, key, size).to_bytes(4, "little")
    except OSError:
        return False


def _checksum(path: Path, key: str, size: int) -> int:
    """CRC-32 of a key and the first ``size`` bytes of a file."""
    value = zlib.crc32(key.encode())
    with path.open("rb") as stream:
        while size > 0 and (block := stream.read(min(size, 1 << 20))):
            value = zlib.crc32(block, value)
            size -= len(block)
    return value


@contextmanager
def _part(folder: Path) -> Iterator[Path]:
    """A temporary file in ``folder`` that goes in the end, unless it was renamed."""
    handle, name = tempfile.mkstemp(suffix=_PART, dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            Path(name).unlink()


def _prune(folder: Path) -> None:
    """Delete the graphs used longest ago beyond ``CACHE_BYTES``, and what killed processes left."""
    files = [(path, path.stat()) for path in folder.glob(f"*{_GRAPH}")]
    total = 0
    for path, file in sorted(files, key=lambda entry: entry[1].st_mtime, reverse=True):
        total += file.st_size
        if total > CACHE_BYTES:
            path.unlink(missing_ok=True)
    for path in folder.glob(f"*{_PART}"):
        if path.stat().st_mtime < time.time() - 3600:
            path.unlink(missing_ok=True)


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
