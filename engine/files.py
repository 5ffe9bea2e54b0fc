"""Writing files so that a reader sees the old content or the new, never a part."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError, printable
from .urls import is_url, url_status


def absolute(path: str | Path) -> str:
    """The path from the root, with links kept: two links to one photo are two images.

    A URL is one already, and loses the slashes at its end.
    """
    if is_url(path):
        scheme, mark, rest = path.partition("://")
        return scheme + mark + rest.rstrip("/")
    return os.path.abspath(path)  # noqa: PTH100


def joined(folder: str, name: str) -> str:
    """What ``name`` means in a folder: a path or URL below it, or itself where it is a whole one.

    In the folder of a URL only a URL is whole.
    """
    if is_url(name):
        return name
    return f"{folder}/{name}" if is_url(folder) else str(Path(folder) / name)


def is_elsewhere(name: str) -> bool:
    """Whether an image's id is a whole path or URL: it is none relative to the root of its index."""
    return is_url(name) or Path(name).is_absolute()


def status_of(path: str | Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds of a file; of a URL, see ``find_urls``.

    Raises:
        OSError: it is not there, or nothing may be known of it.
        StorageError: the storage of a URL cannot be reached.
    """
    if is_url(path):
        return url_status(path)
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def check_output(path: str | Path, *, force: bool) -> Path:
    """Refuse an output path before any work is done for it.

    Raises:
        OutputError: the folder is missing or not writable, the path is a folder, or it
            exists and ``force`` is false.
    """
    path = Path(path)
    name, folder = printable(str(path)), path.parent
    try:
        if path.is_dir():
            raise OutputError(f"{name}: is a folder; give a file name")
        if not folder.is_dir():
            raise OutputError(f"{name}: the folder {printable(str(folder))} does not exist; create it first")
        if path.exists() and not force:
            raise OutputError(f"{name}: exists already; add --force (force=True) to overwrite it")
        if not os.access(folder, os.W_OK):
            raise OutputError(f"{name}: the folder {printable(str(folder))} is not writable")
    except OSError as error:  # a name too long, a folder without permission
        raise OutputError(f"{name}: cannot be written: {error.strerror or error}") from error
    return path


@contextmanager
def replacing(path: str | Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on a clean exit it becomes ``path``.

    The temporary file is flushed to the disk before the rename. If the body raises, or the
    disk is full, the temporary file goes and an old file stays as it was.

    Raises:
        OutputError: as ``check_output``, or the file cannot be written.
    """
    path = check_output(path, force=force)
    handle, name = -1, ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        # mkstemp makes files private; an output gets the mode that any new file would.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{printable(str(path))}: cannot be written: {error.strerror or error}") from error
    finally:
        if name:
            with suppress(OSError):
                Path(name).unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a loss of power, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | Path, data: bytes, *, force: bool) -> None:
    """Write ``data`` to ``path`` atomically; see ``replacing`` for the errors."""
    with replacing(path, force=force) as temporary:
        temporary.write_bytes(data)
