"""The file of an index's vectors: little-endian float32 (rows, D), memory-mapped, only ever appended to.

A row that readers may map is never overwritten: what a killed writer left behind the rows that count is, and
a compaction copies the live rows to a file of another name.
"""

import os
import re
import stat
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..types import Array
from .database import Record
from .store import TOLERANCE, Entry

_NAME = re.compile(r"vectors-(\d+)\.f32")


class Mapped(NamedTuple):
    """Rows of a file, and the file's device and inode."""

    rows: npt.NDArray[np.float32]
    file: tuple[int, int]


def path_of(folder: Path, generation: int) -> Path:
    """The file of one generation."""
    return folder / f"vectors-{generation}.f32"


def generation_of(name: str) -> int | None:
    """The generation of a file, or None for a file that holds no vectors."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def map_rows(path: Path, rows: int, dimension: int, before: Mapped | None = None) -> Mapped:
    """The first ``rows`` rows of a file.

    Args:
        path: the file.
        rows: how many.
        dimension: D.
        before: a mapping of the same file, which is used again if it has enough rows.

    Raises:
        StoreError: the file is missing, too short, or another than was mapped before.
    """
    if rows == 0:
        return Mapped(np.zeros((0, dimension), np.float32), (0, 0))
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size < 4 * rows * dimension:
            raise StoreError(f"{path}: is damaged, it is shorter than its {rows} rows; build the index anew")
        file = (status.st_dev, status.st_ino)
        if before is not None and len(before.rows):
            if before.file != file:
                raise StoreError(f"{path}: is another file than was opened; open the index again")
            if len(before.rows) >= rows:
                return Mapped(before.rows[:rows], file)
        return Mapped(np.asarray(np.memmap(path, "<f4", "r", shape=(rows, dimension))), file)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: is missing; build the index anew") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error


def write_rows(path: Path, start: int, blocks: Iterable[Array], dimension: int) -> None:
    """Write rows from ``start`` on, over what a killed writer left there; on the disk on return.

    Raises:
        StoreError: the file is missing or shorter than ``start`` rows.
        OSError: it cannot be written.
    """
    offset = 4 * start * dimension
    try:
        with path.open("r+b" if start else "wb") as stream:
            if stream.seek(0, os.SEEK_END) < offset:
                raise StoreError(
                    f"{path}: is damaged, it is shorter than its {start} rows; build the index anew"
                )
            stream.seek(offset)
            for block in blocks:
                stream.write(np.ascontiguousarray(block, "<f4").data)
            with suppress(PermissionError):  # Windows cuts no file that is mapped; the rest is never read
                stream.truncate()
            stream.flush()
            os.fsync(stream.fileno())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: is missing; build the index anew") from error


def remove_others(folder: Path, generation: int) -> None:
    """Remove the files of other generations; one that Windows keeps while it is mapped goes next time."""
    for path in folder.iterdir():
        if generation_of(path.name) not in (None, generation):
            with suppress(OSError):
                path.unlink()


def checksum(entry: Entry, vector: npt.NDArray[np.float32]) -> int:
    """CRC-32 of an image's entry and vector (D,)."""
    data = np.ascontiguousarray(vector, "<f4").data
    return zlib.crc32(data, zlib.crc32(ascii(tuple(entry)).encode()))


def damaged_rows(vectors: npt.NDArray[np.float32], records: Iterable[Record]) -> list[Record]:
    """The images whose rows are not what was written, not finite or not of length 1."""
    with np.errstate(all="ignore"):
        return [
            record
            for record in records
            if checksum(record.entry, vector := vectors[record.row]) != record.checksum
            or not abs(float(np.dot(vector, vector)) - 1) < 4 * TOLERANCE  # NaN is not either
        ]
