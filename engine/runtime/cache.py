"""Optimised graphs, kept on disk for the next start.

A kept graph also records that its artifact was checked, so that a warm start need not check it again.
"""

import hashlib
import logging
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, printable
from .ort import CPU, create_session, import_runtime

CACHE_BYTES = 2 << 30  # of all cached graphs; the one that was used longest ago goes first
_GRAPH, _PART = ".simmap-graph", ".simmap-part"
_FORM = 3  # of what a kept graph stands for: an artifact whose weights and graph were checked


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


def create_cached(path: Path, options: Any, folder: Path, create: Callable[[list[Any]], Any]) -> Any:
    """An ``InferenceSession`` by way of the cache.

    Args:
        path: the artifact.
        options: ``SessionOptions`` for the CPU.
        folder: of the cache; it is made where it is missing.
        create: makes a session of the artifact with these options, by the providers that it is given; what
            it refuses by an error is not kept.

    Returns:
        None where the cache is of no use, for whatever reason.
    """
    try:
        if path.stat().st_size > CACHE_BYTES // 4:  # float16 weights are kept as float32
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = _cache_key(path)
        kept = folder / f"{key}{_GRAPH}"
        if not _is_private(folder) or (kept.exists() and not _is_private(kept)):
            return None
        if _is_intact(kept, key):
            # As it is stored: no pass over the graph is needed.
            level = options.graph_optimization_level
            options.graph_optimization_level = import_runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
            with suppress(ArtifactError):
                inference = create_session(kept, options, [CPU])
                with suppress(OSError):
                    os.utime(kept)  # the date of its last use
                return inference
            options.graph_optimization_level = level
        with _part(folder) as part:
            options.optimized_model_filepath = str(part)
            inference = create([CPU])
            with suppress(OSError):
                # Not a file that was replaced while it was read.
                if _cache_key(path) == key:
                    _seal(part, key)
                    part.replace(kept)
                    _prune(folder)
            return inference
    except (OSError, ArtifactError):  # not writable, full, changed by others meanwhile, or refused
        return None
    finally:
        options.optimized_model_filepath = ""


def _is_private(path: Path) -> bool:
    """Whether nobody else can have written a folder or file: a graph decides what an artifact gives."""
    if not hasattr(os, "geteuid"):  # Windows
        return True
    found = path.stat()
    if found.st_uid == os.geteuid() and not found.st_mode & 0o022:
        return True
    _warn(path)
    return False


@cache  # one line a path, however many sessions a process opens
def _warn(path: Path) -> None:
    logging.getLogger("simmap").warning(
        "simmap: %s: belongs to another user or can be written by others, so no graph is cached; "
        "take it over (chmod go-w), or set SIMMAP_CACHE to a folder of your own",
        printable(str(path)),
    )


def _cache_key(path: Path) -> str:
    """Of all that the optimised graph depends on.

    The file counts by its name, times, size and inode: hashing its content would cost about half of what the
    cache saves. The time of its last change (``st_ctime``) cannot be set, so a file that is written
    over, even with its old date, has another key.
    """
    ort = import_runtime()
    file = path.resolve().stat()
    parts = (
        path.resolve(),
        *(file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns),
        *(_FORM, ort.__version__, ort.get_build_info(), platform.machine(), _cpu()),
    )
    return hashlib.sha256("\n".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()[:32]


def _cpu() -> str:
    """The kind of CPU, whose instructions decide how ONNX Runtime lays out weights."""
    try:
        with Path("/proc/cpuinfo").open() as stream:
            first = stream.read(8192).split("\n\n")[0]
    except OSError:
        return platform.processor()
    kinds = ("vendor_id", "cpu family", "model", "stepping", "flags", "CPU ", "Features")
    return "\n".join(line for line in first.splitlines() if line.startswith(kinds))


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
