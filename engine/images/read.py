"""From a path to the bytes of an image file."""

import os
import stat
from typing import Literal

from ..errors import ImageError
from ..urls import is_url, read_url

Format = Literal["JPEG", "PNG", "WebP", "TIFF", "BMP"]
_HEAD_BYTES = 18  # enough for format_of
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
# A pipe that takes a file's place after the check must not block.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def read(path: str, name: str) -> bytes:
    """The bytes of a file that begins as an image does, or of what a URL names.

    Args:
        path: of the file, or a URL as ``urls.read_url`` takes it.
        name: what errors call it.

    Raises:
        StorageError: the storage of a URL cannot be reached.
        ImageError: there is no such file, it may not be read, it is no regular file, or of another format.
    """
    try:
        if is_url(path):
            return read_url(path, name)
        # Before it is opened, since that alone does something to many a device.
        _require_regular(os.stat(path).st_mode, name)  # noqa: PTH116
        with open(os.open(path, _FLAGS), "rb") as stream:  # noqa: PTH123
            _require_regular(os.fstat(stream.fileno()).st_mode, name)
            head = stream.read(_HEAD_BYTES)
            # Look before reading all: the file may be a film of many gigabytes.
            format_of(head, name)
            return head + stream.read()
    except FileNotFoundError:
        raise ImageError(f"{name}: there is no such file; check the path") from None
    except PermissionError:
        raise ImageError(f"{name}: may not be read; give this user the permission to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be read ({reason}); check the path and the disk") from None


def _require_regular(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise ImageError(f"{name}: is a folder, not an image; give the path of a file in it")
    if not stat.S_ISREG(mode):
        raise ImageError(f"{name}: is not a regular file (a pipe, socket or device); copy it to a file first")


def format_of(data: bytes, name: str) -> Format:
    """The format of an encoded image by its first bytes.

    Raises:
        ImageError: no bytes, or of another format.
    """
    if not data:
        raise ImageError(f"{name}: is empty; copy or download it again")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # "BM" alone begins many a text; the size of the second header tells.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    raise ImageError(
        f"{name}: is not a JPEG, PNG, WebP, TIFF or BMP image; convert it to one of these formats"
    )
