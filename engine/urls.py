"""Images that lie behind a URL: object storage and whatever else fsspec reads."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from .errors import ConfigError, StorageError, printable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# How storages call the time of the last change, or what else changes with it; the first that is there counts.
_CHANGES = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "created", "ETag", "etag")


def is_url(path: object) -> TypeGuard[str]:
    """Whether ``path`` names something by URL; no ``pathlib`` path does."""
    return isinstance(path, str) and _URL.match(path) is not None


def read_url(url: str, name: str) -> bytes:
    """All bytes of a file.

    Args:
        url: as fsspec takes it: ``s3://``, ``gs://``, ``https://``, ``memory://`` and so on.
        name: what errors call it.

    Raises:
        FileNotFoundError: it is not there.
        StorageError: it cannot be read, for any other reason.
    """
    with _talking(name):
        files, path = _file_system(url)
        data: bytes = files.cat_file(path)
        return data


def url_status(url: str) -> tuple[int, int]:
    """Size in bytes of a file, and a number that changes with it: see ``find_urls``.

    Raises:
        FileNotFoundError: it is not there.
        StorageError: its storage says nothing of it.
    """
    with _talking(printable(url)):
        files, path = _file_system(url)
        return _status(files.info(path))


def find_urls(folder: str) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Files below a folder: their names relative to it, sizes in bytes, and numbers that change with them.

    The number is the time of the last change in nanoseconds where the storage gives one as a time, else a
    digest of what it gives, else 0. A web server's pages tell neither size nor number: None.

    Raises:
        ConfigError: the URL holds a password, or chains several storages.
        FileNotFoundError: there is no such folder.
        StorageError: it cannot be listed.
    """
    if "::" in folder:
        raise ConfigError(f"{printable(folder)}: chains storages with '::'; give a URL of one storage")
    if urlsplit(folder).password is not None:
        raise ConfigError(
            f"{folder.partition('://')[0]}://: the URL holds a password, which the index would show; "
            "give it to the storage by its own settings"
        )
    with _talking(printable(folder)):
        files, base = _file_system(folder)
        found: dict[str, dict[str, Any]] = files.find(base, detail=True)
        base = base.rstrip("/")
    for path, info in found.items():
        status = None if info.get("size") is None else _status(info)
        yield path[len(base) :].lstrip("/"), status


def _file_system(url: str) -> tuple[Any, str]:
    """The storage of a URL, and the path that the storage takes."""
    import fsspec

    files, path = fsspec.core.url_to_fs(url)
    return files, path


@contextmanager
def _talking(name: str) -> Iterator[None]:
    """Turn what any storage may raise into one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except ModuleNotFoundError as error:
        raise StorageError(f"{name}: URLs are read by fsspec; run: pip install fsspec") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StorageError(f"{name}: cannot be read ({reason})") from error


def _status(info: dict[str, Any]) -> tuple[int, int]:
    change = next((info[key] for key in _CHANGES if info.get(key) is not None), 0)
    if isinstance(change, datetime):
        change = change.timestamp()
    if isinstance(change, int | float):
        return info.get("size") or 0, int(change * 1e9)
    digest = hashlib.sha256(str(change).encode()).digest()
    return info.get("size") or 0, int.from_bytes(digest[:7], "big")
