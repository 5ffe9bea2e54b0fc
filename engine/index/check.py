"""Verify all of an index: the database of an embedded one, and the vector and entry of each image."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import StoreError, printable
from . import vectors as files
from .database import Record, reading
from .embedded import Index
from .remote import ServerIndex, is_sound
from .store import VectorStore

ROWS = 4096  # that are verified between two reads of the database


@dataclass(frozen=True)
class Checked:
    """What ``check_index`` verified.

    Attributes:
        images: whose vectors and entries are as they were written.
        rows: of the file of vectors, those of replaced and removed images among them.
        bytes: of the vectors of these rows.
    """

    images: int
    rows: int
    bytes: int

    def data(self) -> dict[str, Any]:
        """As ``--json`` prints it."""
        return asdict(self)


def check_index(index: VectorStore, *, on_progress: Callable[[int, int], None] | None = None) -> Checked:
    """Verify the checksum, finiteness and length of each vector; of an embedded index, the database too.

    Others may read and write meanwhile; what is written after the start is not verified.

    Args:
        index: what to verify.
        on_progress: called with the rows verified and their total.

    Raises:
        StoreError: something is damaged; names it, or the first image and how many.
    """
    if isinstance(index, ServerIndex):
        return _check_server(index, on_progress)
    if not isinstance(index, Index):
        raise TypeError(f"{type(index).__name__} is no kind of index that can be verified")
    while True:
        checked = _check_embedded(index, on_progress)
        if checked is not None:
            return checked


def _check_server(index: ServerIndex, on_progress: Callable[[int, int], None] | None) -> Checked:
    ids = index.ids()
    images, damaged = 0, list[str]()
    for start in range(0, len(ids), ROWS):
        rows = index.rows(ids[start : start + ROWS])
        damaged += [row.entry.id for row in rows if not is_sound(row)]
        images += len(rows)
        if on_progress is not None:
            on_progress(min(start + ROWS, len(ids)), len(ids))
    if damaged:
        raise StoreError(
            f"{printable(index.name)}: {len(damaged)} of {images} images are damaged, first "
            f"{printable(damaged[0])}; remove them and add them again"
        )
    return Checked(images, images, 4 * index.dimension * images)


def _check_embedded(index: Index, on_progress: Callable[[int, int], None] | None) -> Checked | None:
    """None if a compaction has renumbered the rows meanwhile."""
    with reading(index.path) as database:
        database.check()
        header = database.header
        path = files.path_of(index.path, header.generation)
        vectors = files.map_rows(path, header.rows, header.dimension).rows
    images, damaged = 0, list[Record]()
    for start in range(0, header.rows, ROWS):
        stop = min(start + ROWS, header.rows)
        with reading(index.path) as database:
            if database.header[:6] != header[:6]:
                return None
            records = database.records(start, stop)
        damaged += files.damaged_rows(vectors, records)
        images += len(records)
        if on_progress is not None:
            on_progress(stop, header.rows)
    if damaged:
        raise StoreError(
            f"{path}: {len(damaged)} of {images} images are damaged, first {printable(damaged[0].entry.id)} "
            f"(row {damaged[0].row}); build the index anew"
        )
    return Checked(images, header.rows, vectors.nbytes)
