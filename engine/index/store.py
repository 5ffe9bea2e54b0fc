"""What a search needs of a database of unit vectors."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ..engine import Engine
from ..errors import StoreError
from ..types import Array


class Entry(NamedTuple):
    """What an index keeps of an image beside its vector.

    Attributes:
        id: the path relative to the index's root, or absolute for an image elsewhere.
        label: its class, or None.
        height, width: pixels of the photo, EXIF orientation applied.
        bytes, mtime_ns: of the file when it was embedded; tell whether it has changed since.
    """

    id: str
    label: str | None
    height: int
    width: int
    bytes: int
    mtime_ns: int


class MissingImageError(StoreError):
    """An id that is not in the index, or no longer."""


class VectorStore(Protocol):
    """What a search needs of a database; ``Index`` is the one without a server.

    Ids are text, ``upsert`` replaces, a write is visible when it returns, equal scores rank by id.
    """

    @property
    def dimension(self) -> int:
        """D of the vectors."""

    def __len__(self) -> int:
        """How many images there are."""

    def upsert(self, entries: Sequence[Entry], vectors: Array) -> None:
        """Add images with their unit vectors (n, D), or replace those of the same id."""

    def delete(self, ids: Collection[str]) -> int:
        """Remove images; ids that are not there are no error. Returns how many were."""

    def search(
        self, queries: Array, k: int, *, exclude: Collection[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """Ids and scores of the ``k`` largest inner products with each of ``queries`` (m, D)."""

    def get(self, ids: Sequence[str]) -> tuple[list[Entry], Array]:
        """Entries and vectors (n, D) of images, in the order of ``ids``; MissingImageError without one."""

    def entries(self, label: str | None = None) -> list[Entry]:
        """All images, or those of one label."""

    def labels(self) -> dict[str | None, int]:
        """How many images each label has; None counts those without one."""

    def ids_below(self, path: str | Path) -> list[str]:
        """Ids of the image with the file ``path``, or of all images in that folder and its sub-folders."""

    def check_model(self, engine: Engine) -> None:
        """Raise StoreError if another model than the engine's made the vectors."""

    def id_of(self, path: str | Path) -> str:
        """The id of an image file."""

    def path_of(self, name: str) -> str:
        """The file of the image with the id ``name``."""


def identity(engine: Engine) -> str:
    """What tells one engine's vectors from another's: the weights' fingerprint and the input size."""
    size, spec = engine.options.size, engine.contract.input
    own = size is None or size == (spec.height, spec.width)
    return engine.contract.fingerprint + ("" if own or size is None else f"@{size[0]}x{size[1]}")


def short_identity(name: str) -> str:
    """An identity, for a message."""
    fingerprint, at, size = name.partition("@")
    return fingerprint[:16] + at + size
