"""Optimised graphs, kept on disk for the next start."""

import hashlib
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..contract import CONTRACT_KEY
from ..errors import ArtifactError
from .ort import CPU, create_session

CACHE_BYTES = 2 << 30  # of all cached graphs; the one that was used longest ago goes first
_GRAPH, _PART = ".simmap-graph", ".simmap-part"


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


def create_cached(ort: Any, path: Path, options: Any, folder: Path) -> Any:
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
                run = create_session(ort, kept, options, [CPU])
                with suppress(OSError):
                    os.utime(kept)  # the date of its last use
                return run
            options.graph_optimization_level = level
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _part(folder) as part:
            options.optimized_model_filepath = str(part)
            run = create_session(ort, path, options, [CPU])
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
